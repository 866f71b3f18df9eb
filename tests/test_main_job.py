"""The main job for real: `python -m tuner.search` and `tuner.retrain` as a user runs them, on Ray and SQLite."""

from __future__ import annotations

import json
import signal
import textwrap
import time

import optuna
import pandas as pd
import pytest
import torch

from tests.support.commands import run, start
from tuner.errors import UserError
from tuner.store.run import Run
from tuner.training import build
from tuner.training.saved_model import load_model

TINY = ["--task", "mnist1d", "--out", ".", "--set", "train.epochs=1", "train.evaluations=2", "retrain.epochs=2"]
EXPLODING = [
    "optimizers.sgd.space.lr.low=1e8", "optimizers.sgd.space.lr.high=1e9", "optimizers.sgd.defaults=[]",
    "optimizers.adam.space.lr.high=0.1",
]  # fmt: skip


def optuna_states(run: Run, optimizer: str) -> list[str]:
    study = optuna.load_study(study_name=f"mnist1d/{optimizer}", storage=run.study_url)
    return [trial.state.name for trial in study.trials]


@pytest.fixture(scope="module")
def main_job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, int, str, str]:
    folder = tmp_path_factory.mktemp("main")
    args = [*TINY, *EXPLODING, "--name", "job", "--optimizers", "adam", "sgd", "--trials", "4", "--seeds", "5,3"]
    return (Run(folder / "job"), *run(folder, "tuner.search", *args))


def test_says_what_came_out_and_what_to_do_next(main_job):
    _, code, out, err = main_job
    assert code == 3, err  # sgd has no valid trial
    table = {line.split()[0]: line for line in out.splitlines() if line.startswith(("adam ", "sgd "))}
    assert "0/4 trials" in table["adam"]
    assert "4/4 trials" in table["sgd"]
    assert "none was valid" in table["sgd"]
    assert "python -m tuner.report job" in out
    assert "search  adam  4/4" in err
    assert "retrain  adam  2/2" in err
    assert "Traceback" not in err
    assert "Warning" not in err


def test_every_trial_is_recorded_and_told(main_job):
    run = main_job[0]
    trials = run.trials()
    columns = ["task", "optimizer", "study", "trial", "state", "value", "seed", "steps", "seconds", "cohort", "code",
               "borrowed", "error", "hp.lr"]  # fmt: skip
    assert list(trials.columns) == columns
    assert sorted(zip(trials["optimizer"], trials["trial"], strict=True)) == [
        (name, number) for name in ("adam", "sgd") for number in range(4)
    ]
    adam, sgd = (trials[trials["optimizer"] == name] for name in ("adam", "sgd"))
    assert (adam["state"] == "complete").all()
    assert (adam["steps"] == 100).all()  # 3,200 rows in batches of 32
    assert adam["value"].between(0.5, 3).all()
    assert adam.set_index("trial")["hp.lr"][0] == 1e-3  # the published default comes first
    assert (sgd["state"] == "diverged").all()
    assert (sgd["value"] > adam["value"].max()).all()
    assert sgd["value"].nunique() == 1
    assert set(trials["seed"]) == {1000}
    for name in ("adam", "sgd"):
        assert optuna_states(run, name) == ["COMPLETE"] * 4


def test_best_configuration_is_retrained_on_every_seed(main_job):
    run = main_job[0]
    best, seeds, trials = run.best(), run.seeds(), run.trials()
    assert (best["task"], best["metric"]) == ("mnist1d", "val_loss")
    adam = best["optimizers"]["adam"]
    complete = trials[trials["state"] == "complete"]
    winner = complete.loc[complete["value"].idxmin()]
    assert (adam["trial"], adam["value"], adam["hp"]) == (winner["trial"], winner["value"], {"lr": winner["hp.lr"]})
    assert (adam["n_trials"], adam["n_diverged"]) == (4, 0)
    assert best["optimizers"]["sgd"]["hp"] is None
    assert list(seeds["seed"]) == [3, 5]
    assert (seeds["optimizer"] == "adam").all()
    assert (seeds["status"] == "complete").all()
    assert (seeds["hp.lr"] == winner["hp.lr"]).all()
    assert (seeds["steps"] == 200).all()
    assert (seeds["step_ms"] * seeds["steps"] / 1000).to_list() == pytest.approx(seeds["seconds"].to_list())
    assert seeds["test_acc"].between(0.15, 1).all()  # better than chance
    assert (seeds["peak_mem_mb"] > 100).all()


def test_curves_hold_every_evaluation_and_test_only_at_the_end_of_retraining(main_job):
    run = main_job[0]
    curves, trials = run.curves(), run.trials()
    assert not (run.logs / "curves.csv").exists()
    searched = curves[(curves["phase"] == "search") & (curves["optimizer"] == "adam")]
    assert set(searched["step"]) == {0, 50, 100}
    assert set(searched["split"]) == {"train", "val"}
    final = searched.query("step == 100 and split == 'val' and metric == 'loss'").set_index("trial")["value"]
    expected = trials[trials["optimizer"] == "adam"].set_index("trial")["value"]
    assert dict(final) == dict(expected)
    tested = curves[curves["split"] == "test"]
    assert set(tested["phase"]) == {"retrain"}
    assert set(tested["step"]) == {200}


def test_configuration_and_environment_are_written(main_job):
    run = main_job[0]
    config, env = run.config(), run.env()
    assert config.retrain.seeds == [5, 3]
    assert config.optimizers["sgd"].space["lr"].low == 1e8
    assert env["data"]["rows"] == {"train": 3200, "val": 800, "test": 1000}
    assert len(env["data"]["sha256"]) == 64
    assert env["versions"]["ray"]
    assert env["hardware"]["cpus"] >= 1


def test_retrain_adds_the_missing_seeds_and_keeps_the_others(main_job):
    run_, before = main_job[0], main_job[0].seeds()
    args = ["job", "--seeds", "3,5,7", "--json", "-q", "--analyze-curvature", "every=2", "--keep-weights"]
    code, out, err = run(run_.path.parent, "tuner.retrain", *args)
    assert code == 3, err
    after = run_.seeds()
    assert list(after["seed"]) == [3, 5, 7]
    pd.testing.assert_frame_equal(after[after["seed"] != 7], before)
    assert json.loads(out)["optimizers"][0]["n_seeds"] == 3
    assert err == "2 earlier retraining runs were made without --keep-weights, and stay so\n"
    assert run_.config().retrain.analyze_curvature == 2
    assert [command["added_seeds"] for command in run_.env()["resumed"]] == [[7]]
    curvature = pd.read_parquet(run_.path / "curvature.parquet")
    assert (set(curvature["seed"]), set(curvature["step"])) == ({7}, {0, 200})
    largest = curvature.query("quantity == 'eigenvalue' and index == 0")["value"]
    assert largest.between(0.1, 1000).all()
    assert not list(run_.logs.glob("*-curvature.log"))
    task = build.make_task(run_.config())
    task.setup(None, torch.device("cpu"))
    assert [path.name for path in (run_.path / "weights").iterdir()] == ["adam-7.safetensors"]
    found = task.evaluate(load_model(run_, "adam", 7), "test")
    row = after.set_index("seed").loc[7]
    assert found == pytest.approx({name: row[f"test_{name}"] for name in found}, rel=1e-5)
    with pytest.raises(UserError, match="adam seed 3 was retrained without --keep-weights"):
        load_model(run_, "adam", 3)


@pytest.mark.slow
def test_one_at_a_time_is_repeatable_and_asha_stops_trials(tmp_path):
    args = [*TINY, "--optimizers", "adam", "--trials", "7", "--seeds", "1", "--max-concurrent", "1", "-q"]
    for name in ("first", "second"):
        code, _, err = run(tmp_path, "tuner.search", *args, "--name", name, "--scheduler", "asha")
        assert code == 0, err
    first, second = (Run(tmp_path / name).trials().drop(columns="seconds") for name in ("first", "second"))
    pd.testing.assert_frame_equal(first, second)
    assert {"complete", "stopped"} == set(first["state"])
    assert set(first["cohort"]) == {1}
    assert (first["steps"][first["state"] == "stopped"] == 50).all()
    assert (first["steps"][first["state"] == "complete"] == 100).all()


FAULTY = """
    import torch

    class Faulty(torch.optim.SGD):
        def __init__(self, params, lr):
            super().__init__(params, lr=lr)

        def step(self, closure):
            raise RuntimeError("a fault of its own")
"""


def test_a_users_optimizer_that_raises_fails_its_trials_and_nothing_else(tmp_path):
    (tmp_path / "my_package.py").write_text(textwrap.dedent(FAULTY))
    folder = tmp_path / "mine" / "optimizers"
    folder.mkdir(parents=True)
    (folder / "faulty.yaml").write_text(
        "class: my_package.Faulty\nspace:\n  lr: {low: 1e-4, high: 1.0, log: true}\ndefaults:\n  - {lr: 1e-2}\n"
    )
    args = [*TINY, "--configs", "mine", "--optimizers", "faulty", "adam", "--trials", "2", "--seeds", "1"]
    code, out, err = run(tmp_path, "tuner.search", *args, "--name", "job", "--cohort", "1")
    job = Run(tmp_path / "job")
    assert code == 3, err
    assert "a fault of its own" in err
    assert "Traceback" not in err
    assert "(2 failed)" in out
    assert "a fault of its own" in (job.logs / "faulty-trial-0.log").read_text()
    trials = job.trials().set_index("optimizer")
    assert set(trials.loc["faulty", "state"]) == {"failed"}
    assert trials.loc["faulty", "value"].isna().all()
    assert set(trials.loc["adam", "state"]) == {"complete"}
    assert set(trials["cohort"]) == {1}
    assert optuna_states(job, "faulty") == ["FAIL", "FAIL"]


def test_ctrl_c_ends_soon_with_what_was_finished_on_disk(tmp_path):
    args = ["--task", "mnist1d", "--out", ".", "--name", "job", "--optimizers", "adam", "--trials", "500"]
    job = Run(tmp_path / "job")
    deadline = time.monotonic() + 120
    with start(tmp_path, "tuner.search", *args, "--set", "train.epochs=4") as process:
        while len(job.trials()) < 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        asked = time.monotonic()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert time.monotonic() - asked < 10
    assert "interrupted: " in err
    assert "Traceback" not in err
    states = optuna_states(job, "adam")
    done = len(job.trials())
    assert done >= 3
    assert states.count("COMPLETE") == done
    assert "RUNNING" not in states
    assert job.best()["optimizers"]["adam"]["n_trials"] == done
    assert set(job.curves()["trial"]) == set(job.trials()["trial"])
    assert "adam" in out


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("optimizers.adam.class=torch.optim.Adm", "torch.optim.Adm: torch.optim has no 'Adm'; did you mean 'Adam'?"),
        ("optimizers.adam.args.eps=-1", "optimizer adam: Invalid epsilon value: -1"),
    ],
)
def test_what_only_torch_can_tell_is_refused_before_anything_is_written(tmp_path, setting, complaint):
    args = [*TINY, setting, "--name", "job", "--optimizers", "adam"]
    code, out, err = run(tmp_path, "tuner.search", *args)
    assert (code, out) == (2, "")
    assert err == f"error: {complaint}\n"
    assert list(tmp_path.iterdir()) == []

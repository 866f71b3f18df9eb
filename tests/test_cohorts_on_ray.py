"""Cohorts as a user runs them, on Ray: what trained together, that nothing is lost or done twice, and the values."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch

from tests.support.commands import run
from tuner.store.run import Run
from tuner.training import build
from tuner.training.records import Budget
from tuner.training.single import train

pytestmark = pytest.mark.slow

IRIS = ["--task", "tabular_mlp", "--out", ".", "--name", "job", "--gpus-per-trial", "0"]
TINY = ["train.epochs=24", "train.evaluations=2", "retrain.epochs=12"]
EXPLODING = ["optimizers.sgd.space.lr.high=1e9"]
OPTIMIZERS = ["adam", "sgd", "rmsprop"]  # the last has no pure rule


RATES = [0.001, 0.002, 0.003, 0.004, 0.5, 0.005]  # the fifth is in a cohort with the sixth
DEADLY = """
    import os

    import torch

    def deadly(params, lr):
        if lr == 0.5:
            os._exit(1)
        return torch.optim.Adam(params, lr=lr)
"""
DEADLY_YAML = f"""
class: my_package.deadly
space:
  lr: {{low: 1e-4, high: 1.0, log: true}}
defaults: [{", ".join(f"{{lr: {rate}}}" for rate in RATES)}]
"""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, int, str, str]:
    """Six trials of each optimizer in cohorts of four, three seeds; one optimizer kills its worker."""
    folder = tmp_path_factory.mktemp("cohorts")
    (folder / "my_package.py").write_text(textwrap.dedent(DEADLY))
    (folder / "mine" / "optimizers").mkdir(parents=True)
    (folder / "mine" / "optimizers" / "deadly.yaml").write_text(DEADLY_YAML)
    names = ["--configs", "mine", "--optimizers", *OPTIMIZERS, "deadly"]
    args = [*IRIS, *names, "--trials", "6", "--seeds", "3", "--cohort", "4"]
    return (Run(folder / "job"), *run(folder, "tuner.search", *args, "--set", *TINY, *EXPLODING))


def stacked_rows(table: pd.DataFrame) -> dict[str, list[int]]:
    """The sizes of the cohorts of each row, by optimizer."""
    return {str(name): sorted(rows["cohort"].tolist(), reverse=True) for name, rows in table.groupby("optimizer")}


def test_trials_are_done_once_and_say_what_they_were_trained_with(job: tuple[Run, int, str, str]) -> None:
    made, code, _, err = job
    assert code == 0, err
    assert "Traceback" not in err and "Warning" not in err
    trials = made.trials()
    assert Counter(zip(trials["optimizer"], trials["trial"], strict=True)) == {
        (name, number): 1 for name in [*OPTIMIZERS, "deadly"] for number in range(6)
    }
    trials = trials[trials["optimizer"] != "deadly"]
    assert stacked_rows(trials) == {"adam": [4, 4, 4, 4, 2, 2], "sgd": [4, 4, 4, 4, 2, 2], "rmsprop": [1] * 6}
    for name in ("adam", "sgd"):
        own = trials[trials["optimizer"] == name].set_index("trial")["cohort"]
        assert own[[0, 1, 2, 3]].tolist() == [4] * 4 and own[[4, 5]].tolist() == [2] * 2
    assert (trials["seconds"] > 0).all()


def test_trials_of_a_cohort_are_those_trained_alone(job: tuple[Run, int, str, str]) -> None:
    made = job[0]
    config, trials = made.config(), made.trials()
    states: Counter[tuple[str, str]] = Counter()
    task = build.make_task(config)
    build.set_up(task, config)
    for row in trials[trials["optimizer"] != "deadly"].to_dict("records"):
        make = build.optimizer_maker(row["optimizer"], config.optimizers[row["optimizer"]])
        budget = Budget(config.train.epochs, config.train.evaluations)
        expected = train(task, make, {"lr": row["hp.lr"]}, row["seed"], budget)
        assert row["state"] == expected.status
        assert row["value"] == pytest.approx(expected.metrics["val_loss"], rel=1e-4)
        states[row["optimizer"], row["state"]] += 1
    assert states["adam", "complete"] == 6
    assert states["sgd", "diverged"] > 0 and states["sgd", "complete"] > 0
    assert made.best()["optimizers"]["sgd"]["n_diverged"] == states["sgd", "diverged"]
    assert f"{states['sgd', 'diverged']}/6 trials" in job[2]


def test_the_study_and_the_curves_hold_every_trial(job: tuple[Run, int, str, str]) -> None:
    made = job[0]
    trials, curves = made.trials(), made.curves()
    for name in OPTIMIZERS:
        own = trials[trials["optimizer"] == name].sort_values("trial")
        recorded = optuna.load_study(study_name=f"tabular_mlp/{name}", storage=made.study_url).trials
        assert [trial.state.name for trial in recorded] == ["COMPLETE"] * 6
        assert [trial.value for trial in recorded] == own["value"].tolist()
        assert [trial.params["lr"] for trial in recorded] == own["hp.lr"].tolist()
    searched = curves[curves["phase"] == "search"]
    complete = trials[trials["state"] == "complete"]
    for row in complete.to_dict("records"):
        own = searched[(searched["optimizer"] == row["optimizer"]) & (searched["trial"] == row["trial"])]
        loss = own.query("split == 'val' and metric == 'loss'").set_index("step")["value"]
        assert loss.index.tolist() == [0, 12, 24] and loss[24] == row["value"]


def test_of_a_cohort_whose_worker_was_lost_each_is_done_again(job: tuple[Run, int, str, str]) -> None:
    made, _, out, err = job
    assert "1 run failed" in err and "the worker was lost" in err and "(1 failed)" in out
    trials = made.trials()
    deadly = trials[trials["optimizer"] == "deadly"].set_index("trial").sort_index()
    assert deadly["hp.lr"].tolist() == RATES
    assert deadly["state"].tolist() == ["complete"] * 4 + ["failed", "complete"]
    assert deadly["cohort"].tolist() == [4] * 4 + [1, 1]
    assert made.best()["optimizers"]["deadly"]["n_failed"] == 1
    recorded = optuna.load_study(study_name="tabular_mlp/deadly", storage=made.study_url).trials
    assert [trial.state.name for trial in recorded] == ["COMPLETE"] * 4 + ["FAIL", "COMPLETE"]


def test_the_seeds_of_an_optimizer_are_one_cohort(job: tuple[Run, int, str, str]) -> None:
    seeds = job[0].seeds()
    names = [*OPTIMIZERS, "deadly"]
    assert list(zip(seeds["optimizer"], seeds["seed"], strict=True)) == [(n, s) for n in names for s in range(3)]
    assert stacked_rows(seeds) == {"adam": [3] * 3, "sgd": [3] * 3, "rmsprop": [1] * 3, "deadly": [3] * 3}
    assert (seeds["status"] == "complete").all()
    assert (seeds["step_ms"] * seeds["steps"] / 1000).tolist() == pytest.approx(seeds["seconds"].tolist())
    for name in OPTIMIZERS:
        assert seeds[seeds["optimizer"] == name]["test_loss"].nunique() == 3


def test_what_was_used_is_in_the_environment(job: tuple[Run, int, str, str]) -> None:
    about = job[0].env()["cohorts"]
    assert about["search"] == {"adam": 4, "sgd": 4, "rmsprop": 1, "deadly": 4}
    assert about["retrain"] == {"adam": 3, "sgd": 3, "rmsprop": 1, "deadly": 3}
    assert job[0].config().resources.cohort == 4


def test_more_seeds_in_cohorts_of_another_size(job: tuple[Run, int, str, str]) -> None:
    """Last: it adds to the run."""
    made, before = job[0], job[0].seeds()
    code, _, err = run(made.path.parent, "tuner.retrain", "job", "--seeds", "6", "--cohort", "2", "-q")
    assert (code, err) == (0, "")
    after = made.seeds()
    assert len(after) == 24 and (after["status"] == "complete").all()
    pd.testing.assert_frame_equal(after[after["seed"] < 3].reset_index(drop=True), before)
    more = after[after["seed"] >= 3]
    assert stacked_rows(more) == {"adam": [2, 2, 1], "sgd": [2, 2, 1], "rmsprop": [1] * 3, "deadly": [2, 2, 1]}


def test_auto_takes_a_quarter_of_a_small_networks_trials_at_once(tmp_path: Path) -> None:
    args = [*IRIS, "--optimizers", "adam", "--trials", "32", "--seeds", "4", "--cpus-per-trial", "2", "-q"]
    code, _, err = run(tmp_path, "tuner.search", *args, "--set", *TINY)
    assert code == 0, err
    made = Run(tmp_path / "job")
    trials, seeds, about = made.trials(), made.seeds(), made.env()["cohorts"]
    size, times = about["search"]["adam"], about["member_step_s"]["adam"]
    assert 1 < size <= 8 and times[str(size)] <= 0.9 * times["1"]
    assert times[str(size)] == min(seconds for tried, seconds in times.items() if int(tried) <= 8)
    assert sorted(trials["trial"]) == list(range(32)) and (trials["state"] == "complete").all()
    assert trials["cohort"].max() == size
    assert (seeds["cohort"] == about["retrain"]["adam"]).all() and about["retrain"]["adam"] <= 4

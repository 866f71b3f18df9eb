"""What `--help` and `--dry-run` say, without torch and Ray."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.commands import python
from tests.support.folders import everything
from tuner import search
from tuner.store.run import Run

pytestmark = pytest.mark.usefixtures("folder")


# Without torch and Ray.

LOADED = """
import sys
from tuner import search
try:
    code = search.main({argv!r})
except SystemExit as leave:
    code = leave.code
assert code == 0, code
for name in ("torch", "ray", "optuna", "pandas"):
    assert name not in sys.modules, name
"""


def in_new_process(*argv: str) -> str:
    done = python(LOADED.format(argv=list(argv)), folder=Path.cwd())
    assert (done.code, done.err) == (0, "")
    return done.out


def test_help_names_every_flag_without_torch_or_ray(folder: Path) -> None:
    out = in_new_process("--help")
    assert out.startswith("usage: python -m tuner.search ")
    flags = ["task", "optimizers", "trials", "studies", "seeds", "preset", "gpus-per-trial", "cpus-per-trial",
             "max-concurrent", "cohort", "address", "sampler", "scheduler", "data-dir", "dataset", "out", "name",
             "configs", "set", "dry-run", "json", "quiet", "verbose"]  # fmt: skip
    assert set(flags) <= set(re.findall(r"--([a-z-]+)", out))
    assert everything(folder) == {}


@pytest.mark.parametrize("task", [("rahimi_recht",), ("resnet18",), ("transformer", "--dataset", "stdlib")])
def test_a_dry_run_needs_neither_torch_nor_ray_and_writes_nothing(folder: Path, task: tuple[str, ...]) -> None:
    out = in_new_process("--task", *task, "--dry-run", "--json", "--gpus-per-trial", "0")
    assert json.loads(out)["config"]["task"]["name"] == task[0]
    assert everything(folder) == {}


# A dry run.


def dry_run(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert search.main([*argv, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_a_dry_run_counts_the_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "--task",
        "mnist1d",
        "--optimizers",
        "adam",
        "sgd",
        "adamw",
        "--trials",
        "7",
        "--seeds",
        "5,8",
        "--name",
        "a",
    ]
    out = dry_run(capsys, *argv, "--studies", "1")
    assert "21 trials: 3 optimizers x 7, 10 epochs each\n" in out
    assert "6 retraining runs: 3 optimizers x 2 seeds, 10 epochs each\n" in out
    assert "27 training runs in all\n" in out
    studies = dry_run(capsys, *argv, "--studies", "4")
    assert "84 trials: 3 optimizers x 4 studies x 7, 10 epochs each\n" in studies
    assert "24 retraining runs: 3 optimizers x 4 studies x 2 seeds, 10 epochs each\n" in studies
    assert "108 training runs in all\n" in studies
    assert "1 CPUs and 0 GPUs per run, 4 at once, of this machine\n" in out
    assert out.endswith("nothing was started; the run directory would be runs/a\n")
    assert everything(folder) == {}


def test_a_dry_run_shows_space_and_published_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    eps, decay = "eps={choices: [1, 2]}", "weight_decay={low: 1, high: 8, integer: true}"
    sets = [f"optimizers.adam.space.{dimension}" for dimension in (eps, decay)]
    out = dry_run(capsys, "--task", "mnist1d", "--optimizers", "adam", "--set", *sets)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "adam lr 1e-05 to 0.5 (numbers, log-uniform)" in lines
    assert "adam eps one of 1, 2" in lines
    assert "adam weight_decay 1 to 8 (whole numbers, uniform)" in lines
    assert "adam tried first: lr=0.001" in lines


def test_a_dry_run_as_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    plan = json.loads(dry_run(capsys, "--task", "mnist1d", "--trials", "4", "--studies", "2", "--seeds", "3", "--json"))
    assert plan["schema_version"] == 1
    assert plan["runs"] == {"trials": 16, "retrain": 12, "total": 28}
    assert plan["config"]["retrain"]["seeds"] == [0, 1, 2]
    assert plan["space"]["adam"]["lr"] == {"low": 1e-5, "high": 0.5, "log": True}
    assert plan["resources"] == {"cpus_per_trial": 1, "gpus_per_trial": 0, "max_concurrent": 4, "address": None,
                                 "cohort": "auto"}  # fmt: skip
    assert re.fullmatch(r"runs/mnist1d-\d{8}-\d{6}", plan["run"])


def test_the_resources_of_a_cluster_are_left_open(capsys: pytest.CaptureFixture[str]) -> None:
    out = dry_run(capsys, "--task", "mnist1d", "--address", "auto", "--cpus-per-trial", "99")
    assert "99 CPUs and as many as it has, at most 1, GPUs per run, as many as fit at once, of the Ray cluster" in out


def compared(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    out = dry_run(capsys, *argv)
    return out.partition("# comparison\n")[2].partition("\n")[0]


def test_what_will_be_compared_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(capsys, "--task", "mnist1d", "--studies", "5", "--seeds", "4") == (
        "diag_hessian against adam, by test_loss (val_loss if the task has no test split), paired over 5 studies of "
        "4 seeds each (about optimizers): paired t-test at level 0.05; differences within 2% of adam's value do not "
        "matter"
    )
    assert compared(capsys, "--task", "mnist1d", "--studies", "2", "--seeds", "1").endswith(
        "paired over 2 studies of 1 seed each (about nothing that can be tested): below 3 studies there is no test"
    )
    three = ["--task", "rahimi_recht", "--optimizers", "ssvp", "sgd", "sgdm", "--set", "report.test=sign_flip",
             "report.alpha=0.1", "--studies", "1", "--seeds", "10"]  # fmt: skip
    assert compared(capsys, *three) == (
        "ssvp, sgd against sgdm, by train_loss, paired over 10 seeds (about the configurations that one search each "
        "finds): sign-flip test at level 0.1 over 2 contrasts, after Holm; differences within 1% of sgdm's value "
        "do not matter"
    )
    declared = ["--set", "report.baseline=diag_hessian", "report.metric=test_acc", "--studies", "1", "--seeds", "2"]
    assert compared(capsys, "--task", "mnist1d", *declared) == (
        "adam against diag_hessian, by test_acc, paired over 2 seeds (about the configurations that one search each "
        "finds): below 3 seeds there is no test"
    )
    assert compared(capsys, "--task", "mnist1d", "--optimizers", "sgd").startswith("sgd alone: nothing to compare it")


def test_the_document_has_the_comparison_the_time_and_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    plan = json.loads(dry_run(capsys, "--task", "mnist1d", "--studies", "3", "--seeds", "10", "--json"))
    assert {key: value for key, value in plan["comparison"].items() if key != "sentence"} == {
        "baseline": "adam", "others": ["diag_hessian"], "metric": "test_loss", "studies": 3, "seeds": 10, "test": "t",
        "alpha": 0.05, "margin": "2%", "looks": [], "spending": None,
    }  # fmt: skip
    assert plan["time"].startswith("time: not known yet; a few steps are timed before Ray starts")
    assert plan["data"] == (
        "data: mnist1d, loaded before Ray starts; the task names no check that would look at it now"
    )


def test_data_that_a_task_can_check_is_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "text.txt").write_text("a text of many words\n")
    out = dry_run(capsys, "--task", "transformer", "--dataset", "chars", "--data-dir", "text.txt")
    assert f"data: chars is there in {folder / 'text.txt'}, as tasks.corpora.check_dataset sees it" in out


def test_what_was_expected_of_a_run_is_said_of_one_that_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = search.prepare(search.make_parser().parse(["--task", "mnist1d"]), None)
    run = Run.create(folder / "run", config)
    assert "time: not known yet" in dry_run(capsys, "--resume", "run")
    run.write_env({"estimate": {"search_s": 100.0, "retrain_s": 25.0}})
    assert "time: about 2:05 of training were expected" in dry_run(capsys, "--resume", "run")
    run.write_env({"estimate": {"search_s": "long"}})
    assert "time: not known yet" in dry_run(capsys, "--resume", "run")


def test_an_optimizer_without_a_space_is_one_trial(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--task", "mnist1d", "--trials", "7", "--studies", "1", "--seeds", "5"]
    argv += ["--set", "optimizers.adam.args.lr=0.01"]
    out = dry_run(capsys, *argv, "--optimizers", "adam", "sgd")
    assert "8 trials: 1 optimizers x 7 + 1 x 1 without anything to search, 10 epochs each\n" in out
    assert "18 training runs in all\n" in out
    assert re.search(r"^adam +nothing to search: one trial$", out, re.MULTILINE)

"""Flags of suites: what goes together, what is refused in one line, and what a program may ask for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

import tuner
from tests.support.made_runs import make_run
from tests.tuner.console.test_search_arguments import complaint
from tuner import report, retrain, search, status
from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.store.run import Run
from tuner.store.suites import Suite

TWO = {
    "search": {"optimizers": ["adam", "sgd"], "trials": 2, "studies": 3},
    "retrain": {"seeds": 2},
    "tasks": {"mnist1d": {}, "wine": {"task": {"name": "tabular_mlp", "dataset": "wine"}}},
}
SUITE = ["--suite", "two", "--configs", "mine"]


@pytest.fixture(autouse=True)
def two(folder: Path) -> Path:
    """A suite's file, a folder in which its first task is done, and a run alone."""
    (folder / "mine" / "suites").mkdir(parents=True)
    (folder / "mine" / "suites" / "two.yaml").write_text(yaml.safe_dump(TWO, sort_keys=False))
    make_run(folder / "suite" / "mnist1d", effects={"adam": 0.0, "sgd": 0.1}, seeds=2, studies=3, trials=2)
    wine = resolve({"task.name": "tabular_mlp", "task.dataset": "wine", "search.optimizers": ["adam", "sgd"]})
    Run.create(folder / "suite" / "wine", wine)
    (folder / "suite" / "suite.yaml").write_text("{suite: two, tasks: [mnist1d, wine]}")
    shutil.copytree(folder / "suite" / "mnist1d", folder / "run")
    return folder


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--suite", "nosuch"], "unknown suite 'nosuch'"),
        (["--suite", "tow", "--configs", "mine"], "unknown suite 'tow'; did you mean 'two'?"),
        (["--suite", "two"], "unknown suite 'two'"),
        (["--suite", "no/such.yaml"], "--suite no/such.yaml: no such file"),
        ([*SUITE, "--only", "mnist"], "--only: the suite has no task 'mnist'; did you mean 'mnist1d'?"),
        ([*SUITE, "--task", "mnist1d"], "--suite and --task exclude each other"),
        ([*SUITE, "--resume", "suite"], "--suite and --resume exclude each other"),
        ([*SUITE, "--dataset", "wine"], "--dataset: is of one task"),
        ([*SUITE, "--add-optimizer", "sgdm"], "--add-optimizer: to a run or a suite that is there"),
        ([*SUITE, "--against", "nowhere"], "nowhere: not a run directory"),
        ([*SUITE, "--against", "mine"], "mine: not a run directory"),
        ([*SUITE, "--against", "nowhere", "--dry-run"], "nowhere: not a run directory"),
        ([*SUITE, "--against", "suite", "--address", "auto"], "--against and --address exclude each other"),
        ([*SUITE, "--optimizers", "nosuch"], "unknown optimizer 'nosuch'"),
        ([*SUITE, "--set", "train.epoch=3"], "unknown key 'train.epoch'"),
        ([*SUITE, "--name", "../two"], "name: '../two'"),
        ([*SUITE, "--out", ".", "--name", "suite"], "suite: exists already"),
        ([*SUITE, "--allow-changed-code"], "--allow-changed-code: only a run that goes on"),
        (["--only", "wine"], "--task is missing"),
        (["--task", "mnist1d", "--only", "wine"], "--only: names tasks of a suite"),
        (["--task", "mnist1d", "--add-optimizer", "sgdm"], "--add-optimizer: to a run or a suite that is there"),
        (["--resume", "run", "--only", "wine"], "--only: names tasks of a suite"),
        (["--resume", "run", "--add-optimizer", "adam"], "--add-optimizer: the run has adam already"),
        (
            ["--resume", "run", "--optimizers", "sgdm"],
            "--optimizers: the run has adam, sgd; one more is --add-optimizer",
        ),
        (["--resume", "run", "--against", "suite"], "--against and --resume exclude each other"),
        (["--resume", "suite", "--only", "iris"], "--only: the suite has no task 'iris'"),
        (["--resume", "suite", "--configs", "mine"], "--configs: a run that goes on has its own config.yaml"),
        (["--resume", "suite", "--add-optimizer", "nosuch"], "unknown optimizer 'nosuch'"),
        (["--resume", "mine"], "mine: not a run directory"),
    ],
)
def test_what_does_not_go_together_is_one_line(argv: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert named in complaint(search.main, argv, capsys)


@pytest.mark.parametrize("lost", ["suite.yaml", "wine/config.yaml"])
def test_a_suite_that_lacks_a_part_is_refused_by_every_command(
    two: Path, lost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (two / "suite" / lost).unlink()
    for command, argv in ((search.main, ["--resume"]), (retrain.main, []), (status.main, []), (report.main, [])):
        assert "has no config.yaml" in complaint(command, [*argv, "suite"], capsys)


def test_a_suite_without_a_trial_has_nothing_to_retrain(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(two / "suite" / "mnist1d")
    shutil.copytree(two / "suite" / "wine", two / "suite" / "mnist1d")
    assert "no task has a valid trial, so there is nothing to retrain" in complaint(retrain.main, ["suite"], capsys)


def test_of_a_suite_those_tasks_are_retrained_that_have_a_winner(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All trials of wine diverged."""
    none = {"hp": None, "value": None, "trial": None, "n_trials": 2, "n_diverged": 2, "n_failed": 0, "at_boundary": []}
    wine = Run(two / "suite" / "wine")
    wine.write_best({"task": "tabular_mlp", "metric": "val_loss", "optimizers": {"adam": none, "sgd": none}})
    asked: dict[str, list[int]] = {}

    def note(suite: object, configs: dict[str, Config], *_: object, **__: object) -> None:
        asked.update({entry: config.retrain.seeds for entry, config in configs.items()})

    monkeypatch.setattr("tuner.suite.resume_suite", note)
    retrain.carry_out(retrain.make_parser().parse(["suite", "--seeds", "3"]), lambda event: None)
    assert asked == {"mnist1d": [0, 1, 2]}


def test_an_optimizer_is_added_to_the_tasks_that_lack_it(two: Path) -> None:
    """A command that was killed, or was of some tasks, may have given it to others before."""

    def asked(*words: str) -> dict[str, Config]:
        args = search.make_parser().parse(["--resume", "suite", "--add-optimizer", "sgdm", *words])
        return search.prepare_resumed_suite(args, Suite.open(two / "suite"))

    wine = asked("--only", "wine")["wine"]
    Run(two / "suite" / "wine").write_config(wine)
    found = asked()
    assert [list(config.optimizers) for config in found.values()] == [["adam", "sgd", "sgdm"]] * 2
    assert found["wine"] == wine


def test_a_suite_is_reported_with_other_runs_into_a_folder_beside_it(
    two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(two / "other", effects={"adam": 0.0, "lion": 0.1}, seeds=2, studies=3, trials=2, draw=1)
    assert report.main(["suite", "other", "-q"]) == 0
    (folder,) = two.glob("report-*")
    assert (folder / "report.html").is_file() and not list((two / "suite").glob("report*"))
    out = capsys.readouterr().out
    assert "adam@other" in out and "lion" in out


# In Python.


def test_a_program_opens_a_suite_as_one_result(two: Path) -> None:
    result = tuner.open("suite")
    assert result.path == Path("suite") and result.paths == [Path("suite/mnist1d")]
    assert result.verdicts["optimizer"].tolist() == ["sgd"]
    assert len(result.seeds) == 2 * 3 * 2
    assert set(result.best) == {"adam", "sgd"}


def test_a_program_is_told_the_same(two: Path) -> None:
    for keywords, said in (
        ({"suite": "nosuch"}, "unknown suite 'nosuch'"),
        ({"task": "mnist1d", "suite": "two", "configs": "mine"}, "--suite and --task exclude each other"),
        ({"suite": "two", "configs": "mine", "only": ["iris"]}, "--only: the suite has no task 'iris'"),
        ({"resume": "suite", "add_optimizer": ["adam"]}, "--add-optimizer: the run has adam already"),
    ):
        with pytest.raises(tuner.UserError) as caught:
            tuner.search(**keywords, quiet=True)
        assert said in str(caught.value)


def test_a_program_is_told_what_a_suite_would_do(two: Path) -> None:
    plan = tuner.search(suite="two", configs="mine", only=["wine"], dry_run=True, quiet=True)
    assert (plan["suite"], plan["total"]) == ("two", 2 * 3 * 2 + 2 * 3 * 2)

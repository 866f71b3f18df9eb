"""Which tasks of a suite are trained, and what is told of the others. Without a process, Ray or training."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tuner.suite
from tests.support.made_runs import SHA, make_run
from tuner.comparison.results import compare
from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.config.suites import SuiteFile
from tuner.errors import UserError
from tuner.events import Ended, Event, LoanRemark, TaskFailed
from tuner.planning.estimate import Timings
from tuner.store.suites import Suite
from tuner.suite import checked_all, new_suite, resume_suite
from tuner.work import RunWork
from tuner.workers.preflight import PreflightResult
from tuner.workers.starting import CommandRay

FOUND = PreflightResult(
    Timings({"adam": 0.5}, 0.25, 3, {}), {"name": "made here", "source": "generated", "sha256": SHA}, "cpu"
)
SAME = {"search.trials": 3, "search.studies": 3, "retrain.seeds": 2}


def ignore(event: Event) -> None:
    """Nobody listens."""


def config(task: str = "mnist1d", **flags: Any) -> Config:
    return resolve({"task.name": task, "search.optimizers": ["adam", "sgd"]} | SAME | flags)


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """By data set, what the preflight finds wrong; to be filled."""
    of_data: dict[str, str] = {}

    def answers(configs: Sequence[Config], *_: object) -> list[PreflightResult | UserError]:
        said = [of_data.get(config.task.dataset) for config in configs]
        return [FOUND if why is None else UserError(why) for why in said]

    monkeypatch.setattr(tuner.suite, "preflight", answers)
    return of_data


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[RunWork]:
    """What would be done on Ray."""
    parts: list[RunWork] = []

    def note(asked: Sequence[RunWork], path: Path, *_: object) -> tuple[list[Any], Ended]:
        parts.extend(asked)
        for part in asked:
            part.run.write_env({"data": FOUND.data})
        return [], Ended("halted", "", path, 0, 0, some_valid=False)

    monkeypatch.setattr(tuner.suite, "run_plans", note)
    return parts


def test_tasks_that_cannot_be_trained_are_told_of_and_the_others_are_checked(wrong: dict[str, str]) -> None:
    wrong["wine"] = "wine is empty"
    told: list[Event] = []
    configs = {
        "no_text": config("transformer"),
        "iris": config("tabular_mlp"),
        "wine": config("tabular_mlp", **{"task.dataset": "wine"}),
    }
    checked, failed = checked_all(configs, b"", told.append, CommandRay(told.append))
    assert (checked, list(failed), failed["wine"]) == ({"iris": FOUND}, ["no_text", "wine"], "wine is empty")
    assert [event.text for event in told if isinstance(event, TaskFailed)] == [
        f"{entry}: cannot be trained, the other tasks are ({failed[entry]})" for entry in ("no_text", "wine")
    ]


def test_where_none_can_be_trained_that_is_one_line_with_all_reasons(wrong: dict[str, str]) -> None:
    wrong |= {"iris": "iris is empty", "wine": "wine is empty"}
    configs = {"a": config("tabular_mlp"), "b": config("tabular_mlp", **{"task.dataset": "wine"})}
    with pytest.raises(UserError) as caught:
        checked_all(configs, b"", ignore, CommandRay(ignore))
    assert str(caught.value) == "a: iris is empty; b: wine is empty"


FILE = SuiteFile("two", "two.yaml", "", {"mnist1d": {}, "iris": {}}, {}, None)


def two() -> dict[str, Config]:
    return {"mnist1d": config(), "iris": config("tabular_mlp")}


def test_a_new_suite_has_all_its_runs_and_works_on_those_that_were_chosen(
    tmp_path: Path, wrong: dict[str, str], work: list[RunWork]
) -> None:
    done = new_suite(FILE, two(), tmp_path / "suite", lambda event: None, only=["iris"])
    assert list(done.suite.runs) == ["mnist1d", "iris"] and list(done.configs) == ["iris"]
    (part,) = work
    assert (part.name, part.run.path, part.checked) == ("iris", tmp_path / "suite" / "iris", FOUND)
    assert (2 * part.work.trials, 2 * part.work.seeds) == (2 * 3 * 3, 2 * 3 * 2)


def test_a_suite_whose_work_does_not_begin_leaves_nothing(
    tmp_path: Path, wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_ray(*_: object) -> None:
        raise UserError("Ray did not start")

    monkeypatch.setattr(tuner.suite, "run_plans", no_ray)
    with pytest.raises(UserError, match="Ray did not start"):
        new_suite(FILE, two(), tmp_path / "suite", lambda event: None)
    assert list(tmp_path.iterdir()) == []


def test_each_task_borrows_from_the_lenders_run_of_it(
    tmp_path: Path, wrong: dict[str, str], work: list[RunWork]
) -> None:
    lender = make_run(tmp_path / "lender", effects={"adam": 0.0}, seeds=2, studies=3, trials=3)
    told: list[Event] = []
    done = new_suite(FILE, two(), tmp_path / "suite", told.append, lenders=[lender])
    rows = {entry: run.seed_rows() for entry, run in done.suite.runs.items()}
    assert {row["borrowed"] for row in rows["mnist1d"]} == {str(lender.path)} and rows["iris"] == []
    assert [(part.name, round(2 * part.work.trials)) for part in work] == [("mnist1d", 9), ("iris", 18)]
    assert [event.text for event in told if isinstance(event, LoanRemark)] == [
        "iris: nothing is borrowed: there is no run of tabular_mlp with the data set iris to borrow from"
    ]


def test_a_task_whose_data_has_changed_does_not_stop_the_others(
    tmp_path: Path, wrong: dict[str, str], work: list[RunWork]
) -> None:
    suite = Suite.create(tmp_path / "suite", FILE, two(), b"", another=False)
    suite.runs["iris"].write_env({"data": FOUND.data | {"sha256": "other" * 8}})
    executed = resume_suite(suite, two(), lambda event: None, search=lambda config: True)
    assert [part.name for part in work] == ["mnist1d"] and list(executed.failed) == ["iris"]
    assert "was made with other data" in executed.failed["iris"]


def test_two_entries_of_one_task_are_two_comparisons(tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "suite.yaml").write_text("{schema_version: 1, suite: two, targets: null, tasks: [few, many]}")
    runs = [make_run(suite / name, seeds=3, trials=trials) for name, trials in (("few", 4), ("many", 9))]
    assert [task.comparison.task for task in compare(runs).tasks] == ["few", "many"]


def test_a_suite_that_goes_on_works_on_what_is_missing(
    tmp_path: Path, wrong: dict[str, str], work: list[RunWork]
) -> None:
    suite = Suite.create(tmp_path / "suite", FILE, two(), b"", another=False)
    done = make_run(tmp_path / "made", effects={"adam": 0.0, "sgd": 0.1}, seeds=2, studies=3, trials=3)
    shutil.rmtree(suite.path / "mnist1d")
    done.path.rename(suite.path / "mnist1d")
    suite = Suite.open(suite.path)
    executed = resume_suite(suite, two(), lambda event: None, search=lambda config: True)
    assert [part.name for part in work] == ["iris"] and list(executed.configs) == ["mnist1d", "iris"]


def test_a_task_that_has_gone_on_alone_shares_the_workers_again(
    tmp_path: Path, wrong: dict[str, str], work: list[RunWork]
) -> None:
    suite = Suite.create(tmp_path / "suite", FILE, two(), b"", another=False)
    alone = config("tabular_mlp", **{"resources.max_concurrent": 1, "resources.cpus_per_trial": 2})
    done = resume_suite(suite, two() | {"iris": alone}, lambda event: None, search=lambda config: True)
    resources = two()["mnist1d"].resources
    assert alone.resources != resources
    assert [part.config.resources for part in work] == [config.resources for config in done.configs.values()]
    assert [part.config.resources for part in work] == [resources] * 2

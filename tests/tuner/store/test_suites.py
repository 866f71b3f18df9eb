"""The folder of a suite: made whole or not at all, opened as what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.folders import everything
from tests.support.made_runs import make_run
from tests.support.table_rows import CONFIG
from tuner.config.suites import SuiteFile
from tuner.errors import UserError
from tuner.store.folders import SUITE_FILE
from tuner.store.run import Run
from tuner.store.suites import Suite, folder_of_suite, is_suite, runs_at

FILE_OF = SuiteFile("pair", "configs/suites/pair.yaml", "two tasks", {"a": {}, "b": {}}, {}, "frozen")


def create(path: Path, **options: Any) -> Suite:
    return Suite.create(path, FILE_OF, {"a": CONFIG, "b": CONFIG}, b"", **{"another": False} | options)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return create(tmp_path / "runs" / "mine")


def test_it_has_a_run_for_each_task_from_the_first_moment(suite: Suite) -> None:
    assert (suite.name, suite.targets, list(suite.runs)) == ("pair", "frozen", ["a", "b"])
    assert [run.path for run in suite.runs.values()] == [suite.path / "a", suite.path / "b"]
    assert all(run.is_new and run.config() == CONFIG for run in suite.runs.values())
    assert sorted(path.name for path in suite.path.iterdir()) == ["a", "b", SUITE_FILE]
    assert [path.name for path in suite.path.parent.iterdir()] == ["mine"]  # nothing half made


def test_it_is_opened_as_it_was_made(suite: Suite) -> None:
    found = Suite.open(suite.path)
    assert (found.path, found.name, found.targets, list(found.runs)) == (suite.path, "pair", "frozen", ["a", "b"])


def test_a_name_that_is_taken_is_refused_or_numbered(suite: Suite) -> None:
    with pytest.raises(UserError, match="mine: exists already"):
        create(suite.path)
    assert create(suite.path, another=True).path != suite.path
    assert Suite.open(suite.path).name == "pair"


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    before = everything(tmp_path)
    with pytest.raises(UserError, match=r"^output folder "):
        create(tmp_path / "file" / "mine")
    assert everything(tmp_path) == before


def test_a_task_that_no_folder_can_be_named_for_leaves_nothing(tmp_path: Path) -> None:
    task = "x" * 300
    with pytest.raises(UserError) as caught:
        Suite.create(tmp_path / "mine", FILE_OF, {"a": CONFIG, task: CONFIG}, b"", another=False)
    assert str(caught.value) == f"output folder {tmp_path / 'mine' / task}: no folder can have this name"
    assert everything(tmp_path) == everything(tmp_path / "nowhere") == {}


def test_what_programs_gave_is_in_every_run(tmp_path: Path) -> None:
    made = Suite.create(tmp_path / "mine", FILE_OF, {"a": CONFIG, "b": CONFIG}, b"packed", another=False)
    assert [run.objects() for run in made.runs.values()] == [b"packed"] * 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- 3", "TypeError"),
        ("", "TypeError"),
        ("suite: x", "KeyError"),
        ("{suite: x, tasks: 3}", "TypeError"),
        ("{suite: x, tasks: [", "ParserError"),
        ("{suite: x, tasks: []}", "it has no tasks"),
        ("{suite: x, tasks: [../a]}", "'../a' is not the name of a run's folder"),
        ("{suite: x, tasks: [a, .., b]}", "'..' is not the name of a run's folder"),
        ("{suite: x, tasks: ['']}", "'' is not the name of a run's folder"),
        ("\0", "ReaderError"),
    ],
)
def test_a_file_that_is_not_a_suites_is_refused_in_a_line(suite: Suite, content: str, said: str) -> None:
    (suite.path / SUITE_FILE).write_text(content)
    with pytest.raises(UserError) as caught:
        Suite.open(suite.path)
    assert str(caught.value) == f"{suite.path / SUITE_FILE}: cannot be read as that of a suite ({said})"


def test_a_folder_without_the_file_is_no_suite(suite: Suite, tmp_path: Path) -> None:
    assert is_suite(suite.path) and not is_suite(suite.path / "a") and not is_suite(tmp_path / "nowhere")
    assert not is_suite(Path("\0")) and not is_suite(Path("x" * 5000))
    with pytest.raises(UserError, match="cannot be read as that of a suite"):
        Suite.open(tmp_path)


def test_a_suite_that_lacks_a_run_is_refused_with_its_folder(suite: Suite) -> None:
    (suite.path / "b" / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"/mine/b: not a run directory, it has no config\.yaml$"):
        Suite.open(suite.path)


def test_some_of_its_runs_are_those_of_these_tasks_in_its_order(suite: Suite) -> None:
    assert list(suite.only([])) == ["a", "b"]
    assert list(suite.only(["b", "a"])) == ["a", "b"]
    assert list(suite.only(["b"])) == ["b"]
    with pytest.raises(UserError, match=r"^--only: the suite has no task 'c' \(valid: a, b\)$"):
        suite.only(["a", "c"])


def test_it_is_discarded_where_nothing_came_of_any_run(suite: Suite) -> None:
    (suite.runs["b"].path / "status.json").write_text("{}")
    (suite.runs["b"].path / "env.json").write_text("{}")
    suite.discard_if_new()
    assert suite.path.is_dir()
    (suite.runs["b"].path / "env.json").unlink()
    suite.discard_if_new()
    assert not suite.path.exists()
    suite.discard_if_new()


# What a path stands for.


@pytest.fixture
def half_done(tmp_path: Path) -> Suite:
    """With results of its second task alone."""
    one = make_run(tmp_path / "suite" / "one", seeds=3, trials=2)
    Run.create(tmp_path / "suite" / "none", one.config())
    (tmp_path / "suite" / SUITE_FILE).write_text(yaml.safe_dump({"suite": "x", "tasks": ["none", "one"]}))
    return Suite.open(tmp_path / "suite")


def test_a_suite_stands_for_its_runs_with_results_or_for_all(half_done: Suite, suite: Suite) -> None:
    assert [run.path.name for run in half_done.with_results()] == ["one"]
    assert [run.path.name for run in runs_at(half_done.path)] == ["one"]
    assert [run.path.name for run in runs_at(suite.path)] == ["a", "b"]
    assert [run.path for run in runs_at(suite.path / "a")] == [suite.path / "a"]
    with pytest.raises(UserError, match="not a run directory"):
        runs_at(suite.path.parent)


def test_results_belong_into_a_suites_folder_if_that_alone_is_named(suite: Suite) -> None:
    assert folder_of_suite([suite.path]) == suite.path
    assert folder_of_suite([suite.path / "a"]) is None
    assert folder_of_suite([suite.path, suite.path / "a"]) is None

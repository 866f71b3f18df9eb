"""Looking in on a suite: what is said of each of its tasks and of the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.tuner.console.test_status import add_trials, at_noon, finish, new_run, say, set_best
from tuner.console.suite_status import describe, lines
from tuner.status import main
from tuner.store.suites import Suite


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """Of two tasks with two optimizers each, four trials and two seeds; nothing has begun."""
    at_noon(monkeypatch)
    for entry in ("iris", "wine_of_italy"):
        new_run(tmp_path).path.rename(tmp_path / entry)
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"suite": "pair", "tasks": ["iris", "wine_of_italy"]}))
    return Suite.open(tmp_path)


def test_a_suite_that_has_not_begun(suite: Suite) -> None:
    found = describe(suite)
    assert (found["state"], found["complete"]) == ("not begun", False)
    assert lines(found) == [
        f"{suite.path}: suite pair, 0 of 2 tasks are complete",
        "iris           not begun  search 0/8  retrain 0/4",
        "wine_of_italy  not begun  search 0/8  retrain 0/4",
        f"to go on: python -m tuner.search --resume {suite.path}",
    ]


def test_a_suite_under_way(suite: Suite) -> None:
    iris, wine = suite.runs.values()
    finish(iris)
    say(iris, "ended", 1.0)
    add_trials(wine, "adam", "complete", "diverged", "failed")
    set_best(wine, adam=0)
    say(wine, "running", 3.0, adam=75.0, diag_hessian=3700.0)
    found = describe(suite)
    assert (found["state"], found["complete"]) == ("running", False)
    assert lines(found) == [
        f"{suite.path}: suite pair, 1 of 2 tasks are complete",
        "iris           ended    search 8/8  retrain 4/4",
        "wine_of_italy  running  search 3/8  retrain 0/4  4 running  1 diverged  1 failed  1:01:40 left",
    ]


@pytest.mark.parametrize("state", ["interrupted", "halted", "lost", "failed"])
def test_how_the_last_command_ended_is_the_suites_state(suite: Suite, state: str) -> None:
    """The first task may have ended before, and at the same second."""
    for ago_s in (0.0, 60.0):
        iris, wine = suite.runs.values()
        finish(iris) if not ago_s else None
        say(iris, "ended", 1.0 + ago_s)
        say(wine, state)
        found = describe(suite)
        assert (found["state"], found["complete"]) == (state, False)
        assert lines(found)[-1].startswith("to go on: ")


def test_a_command_that_says_nothing_any_more_is_silent(suite: Suite) -> None:
    iris, wine = suite.runs.values()
    say(iris, "ended", 500.0)
    say(wine, "running", 61.0)
    assert describe(suite)["state"] == "silent"


def test_an_earlier_interruption_is_not_the_last_word(suite: Suite) -> None:
    iris, wine = suite.runs.values()
    say(iris, "interrupted", 500.0)
    say(wine, "ended", 5.0)
    assert describe(suite)["state"] == "ended"


def test_a_complete_suite_does_not_say_how_to_go_on(suite: Suite) -> None:
    for run in suite.runs.values():
        finish(run)
        say(run, "ended")
    found = describe(suite)
    assert (found["state"], found["complete"]) == ("ended", True)
    assert lines(found)[0].endswith("2 of 2 tasks are complete") and len(lines(found)) == 3


def test_the_document_has_each_tasks_status(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(suite.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema_version"], found["suite"], found["folder"]) == (1, "pair", str(suite.path))
    assert list(found["tasks"]) == ["iris", "wine_of_italy"]
    assert found["tasks"]["iris"]["run"] == str(suite.path / "iris")


def test_a_watched_suite_that_nobody_works_on_is_shown_once(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(suite.path), "--watch"]) == 0
    assert capsys.readouterr().out.splitlines() == lines(describe(suite))

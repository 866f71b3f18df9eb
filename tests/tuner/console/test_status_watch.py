"""Watching a run until the command that is at work on it ends, or falls silent."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import tuner.status
from tests.tuner.console.test_status import NAMES, NOW, add_trials, at_noon, finish, new_run, say, set_best, set_seeds
from tuner.status import main
from tuner.store.run import Run


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """The time; to be changed."""
    return at_noon(monkeypatch)


@pytest.fixture
def run(tmp_path: Path, now: list[datetime]) -> Run:
    return new_run(tmp_path)


class Watched:
    """A run that moves on, one step a look."""

    def __init__(self, run: Run, monkeypatch: pytest.MonkeyPatch, steps: list[Callable[[], object]]) -> None:
        self.steps, self.slept = steps, 0
        monkeypatch.setattr(tuner.status, "time", SimpleNamespace(sleep=self.sleep))
        self.run, self.patch = run, monkeypatch

    def sleep(self, seconds: float) -> None:
        self.slept += 1
        assert seconds == tuner.status.REFRESH_S and self.steps, "it goes on after the end"
        self.steps.pop(0)()

    def shown(self, *flags: str, terminal: bool = False) -> str:
        out = io.StringIO()
        make = lambda **options: Console(file=out, width=200, force_terminal=terminal, **options)  # noqa: E731
        self.patch.setattr(tuner.status, "Console", make)
        assert main([str(self.run.path), "--watch", *flags]) == 0
        return out.getvalue()


@pytest.fixture
def watched(run: Run, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Looks: at the start; the same again; a trial; the end."""
    say(run, "running", 0.0)

    def the_end() -> None:
        add_trials(run, "adam", "diverged", start=1)
        say(run, "interrupted", 0.0)

    return Watched(
        run,
        monkeypatch,
        [
            lambda: say(run, "running", 1.0),
            lambda: add_trials(run, "adam", "complete"),
            the_end,
        ],
    )


def test_watching_without_a_terminal_says_what_is_new(watched: Watched) -> None:
    text = watched.shown().splitlines()
    searches = [line.split()[2:] for line in text if line.startswith("search   adam")]
    assert searches == [["0/4", "2", "running"], ["1/4", "2", "running"], ["2/4", "1", "diverged"]]
    heads = [line for line in text if line.startswith(f"{watched.run.path}: ")]
    assert len(heads) == 3 and "interrupted" in heads[-1] and watched.slept == 3
    assert text[-1].startswith("to go on: ")


def test_watching_on_a_terminal_draws_in_place(watched: Watched) -> None:
    text = watched.shown(terminal=True)
    assert text.count("search   adam") >= 4 and "\x1b[1A" in text  # the cursor goes up
    assert text.rindex("interrupted") > text.rindex("running, process")


def test_watching_ends_at_once_where_nobody_is_at_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for state, ago_s in (("ended", 1.0), ("interrupted", 1.0), ("halted", 1.0), ("running", 1000.0)):
        say(run, state, ago_s)
        assert Watched(run, monkeypatch, []).shown().count("search   adam") == 1


def test_watching_ends_when_the_command_falls_silent(
    run: Run, monkeypatch: pytest.MonkeyPatch, now: list[datetime]
) -> None:
    say(run, "running", 0.0)

    def later() -> None:
        now[0] = NOW + timedelta(seconds=61)

    assert "not running: last heard of" in Watched(run, monkeypatch, [later]).shown()


def test_watching_as_json_prints_a_document_for_each_look(watched: Watched) -> None:
    found = [json.loads(line) for line in watched.shown("--json").splitlines()]
    assert [look["phases"][0]["done"] for look in found] == [0, 0, 1, 2]
    assert found[-1]["state"] == "interrupted"


def test_the_end_is_said_also_where_nothing_else_is_new(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(run)
    say(run, "running", 0.0)
    progressless = json.loads((run.path / "status.json").read_text()) | {"progress": []}
    del progressless["schema_version"]
    run.write_status(progressless)
    text = Watched(run, monkeypatch, [lambda: run.write_status(progressless | {"state": "ended"})]).shown()
    assert f"{run.path}: ended" in text


def test_an_error_is_shown_to_the_letter(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        "task": "blobs",
        "optimizer": "adam",
        "study": 0,
        "trial": 0,
        "seed": 1,
        "state": "failed",
        "error": "KeyError: [red]:x:[/red]",
    }
    run.append_trials([row], ["lr"])
    say(run, "ended")
    assert "failed: adam trial 0: KeyError: [red]:x:[/red]" in Watched(run, monkeypatch, []).shown()


def test_watching_while_another_writes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look finds whole records, in the middle of whatever is being written."""
    monkeypatch.setattr(tuner.status, "REFRESH_S", 0.001)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for n in range(4):
                for name in NAMES:
                    add_trials(run, name, "complete", start=n)
                    set_best(run, **dict.fromkeys(NAMES, n))
                    say(run, "running", 0.0)
            finish_seeds = [(name, seed, "complete", 0.75) for name in NAMES for seed in (0, 1)]
            for n in range(1, 5):
                set_seeds(run, *finish_seeds[:n])
        except BaseException as error:
            failed.append(error)
        finally:
            say(run, "ended", 0.0)

    say(run, "running", 0.0)
    out = io.StringIO()
    monkeypatch.setattr(tuner.status, "Console", lambda **options: Console(file=out, width=200, **options))
    writer = threading.Thread(target=work)
    writer.start()
    try:
        main([str(run.path), "--watch"])
    finally:
        writer.join()
    assert failed == []
    counts = [
        int(line.split()[2].split("/")[0]) for line in out.getvalue().splitlines() if line.startswith("search   adam")
    ]
    assert counts == sorted(counts) and counts[-1] == 4
    assert "to go on" not in out.getvalue().splitlines()[-1]

"""A terminal shows each event in its sentence, on the stream and under the flags that it belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner import events
from tuner.console.terminal import Terminal, sentence_of
from tuner.errors import INTERRUPTED, NOTHING, PARTLY
from tuner.events import Ended, EndState, Event
from tuner.planning.progress import Progress

ONE = Progress("adam", "search", done=1, total=2, running=1, diverged=0, failed=0, best=0.5)
ALL = Progress("adam", "search", done=2, total=2, running=0, diverged=0, failed=0, best=0.25)
LOGS = Path("runs/a/logs")


def shown(capsys: pytest.CaptureFixture[str], *told: Event, quiet: bool = False) -> list[str]:
    terminal = Terminal(quiet=quiet)
    for event in told:
        terminal(event)
    out, err = capsys.readouterr()
    assert out == ""  # which is for results
    return err.splitlines()


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (events.CodeRemark("other code"), "other code"),
        (events.TaskWarning("a broadcast"), "warning: a broadcast"),
        (events.ResourceWarning("on CPUs"), "on CPUs"),
        (events.NotRecorded("study.db lacks 2 trials"), "study.db lacks 2 trials; trials.csv has them"),
        (events.SearchAbandoned("adam"), "adam: its search was given up, since all of its trials failed"),
        (events.WorkerReplaced("a worker was replaced"), "a worker was replaced"),
        (events.TrackerFailed("tracker mlflow: no"), "tracker mlflow: no"),
    ],
)
def test_warnings_are_shown_also_to_who_wants_quiet(
    event: Event, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(capsys, event) == shown(capsys, event, quiet=True) == [line]


@pytest.mark.parametrize(
    ("event", "lines"),
    [
        (events.Expected(["one", "[two]"]), ["one", "[two]"]),
        (events.RayRemark("starting Ray ..."), ["starting Ray ..."]),
        (
            events.RunsFailed("training", 1, "adam trial 3", "ValueError: no", LOGS),
            ["1 run failed; the first: adam trial 3: ValueError: no; see runs/a/logs"],
        ),
        (
            events.RunsFailed("analysis of the curvature", 2, "adam seed 0", "too large", LOGS),
            ["the curvature of 2 runs was not analysed; the first: adam seed 0: too large; see runs/a/logs"],
        ),
    ],
)
def test_the_rest_is_not(event: Event, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, event) == lines
    assert shown(capsys, event, quiet=True) == []


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_is_shown_until_training_ends(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    terminal, progress = Terminal(quiet=quiet), [ONE]
    terminal(events.TrainingBegan("val_loss", lambda: progress, Path("runs/a")))
    terminal(events.Progressed())
    progress[:] = [ALL]
    terminal(events.TrainingEnded())
    lines = capsys.readouterr().err.splitlines()
    if quiet:
        assert lines == []
        return
    first, last = lines
    assert first.split("  ")[:3] == ["search", "adam", "1/2"] and "best val_loss 0.5" in first
    assert last.split("  ")[:3] == ["search", "adam", "2/2"] and last.endswith("done")


def test_what_is_waited_for_is_no_line_where_it_is_soon_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, events.WaitBegan("loading the data ..."), events.WaitEnded()) == []


@pytest.mark.parametrize(
    ("state", "some_valid", "code", "begins"),
    [
        ("interrupted", True, INTERRUPTED, "interrupted: 3 of 10 training runs finished; runs/a has them; to go on: "),
        ("halted", True, PARTLY, "error: disk full; 3 of 10 training runs finished; when it can be written again: "),
        ("lost", False, NOTHING, "error: Ray was lost: disk full; 3 of 10 training runs finished; to go on: "),
    ],
)
def test_an_end_before_time_says_why_and_how_to_go_on(
    state: EndState, some_valid: bool, code: int, begins: str
) -> None:
    ended = Ended(state, "disk full", Path("runs/a"), 3, 10, some_valid)
    assert ended.exit_code == code
    assert sentence_of(ended).startswith(begins) and sentence_of(ended).endswith("-m tuner.search --resume runs/a")
    assert sentence_of(Ended("ended", "", Path("runs/a"), 10, 10, True)) == ""

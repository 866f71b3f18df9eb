from __future__ import annotations

import io
import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from rich.console import Console

import tuner.console.progress
import tuner.planning.progress
from tuner.console.progress import Lines, LiveView, PlainView, Silence, SuiteLines, lines_of, make_view
from tuner.planning.progress import Progress
from tuner.text import duration

TEN = Progress("adam", "search", done=0, total=10, running=0, diverged=0, failed=0)


class Clock:
    """Time that passes when told to; and the studies' progress."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.progress = [TEN]

    def set(self, *progress: Progress) -> None:
        self.progress = list(progress)

    def done(self, done: int, **changes: object) -> None:
        self.progress = [Progress(**{**vars(TEN), "done": done, **changes})]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (tuner.console.progress, tuner.planning.progress):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def plain(clock: Clock) -> tuple[PlainView, Callable[[], list[str]]]:
    out = io.StringIO()
    view = PlainView(Lines(lambda: clock.progress, "val_loss"), Console(file=out, width=40))
    return view, lambda: out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (0.4, "0:00"), (9.6, "0:10"), (42, "0:42"), (59.7, "1:00"), (60, "1:00"), (725, "12:05"),
     (3599.6, "1:00:00"), (11220, "3:07:00"), (360000, "100:00:00")],
)  # fmt: skip
def test_a_duration_is_minutes_and_seconds_with_hours_from_one_on(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# Lines for a pipe.


def test_a_line_is_printed_when_a_study_moves_on(clock: Clock) -> None:
    view, lines = plain(clock)
    with view:
        view.update()
        clock.done(0, running=2)
        view.update()
        assert lines() == []
        clock.done(1, running=2)
        view.update()
        view.update()
        assert len(lines()) == 1
        clock.now += 60
        view.update()
        assert len(lines()) == 1
        clock.done(2, running=2)
        view.update()
        assert len(lines()) == 2


def test_lines_of_a_study_keep_their_distance_but_the_last_comes_at_once(clock: Clock) -> None:
    view, lines = plain(clock)
    printed = []
    with view:
        for done in range(1, 11):
            clock.now += 0.5
            clock.done(done, running=1)
            view.update()
            printed.append(len(lines()))
    assert printed == [1, 1, 1, 1, 2, 2, 2, 2, 3, 4]
    assert len(lines()) == 4


def test_one_study_does_not_hold_back_another(clock: Clock) -> None:
    other = Progress("sgd", "search", 1, 10, 1, 0, 0)
    view, lines = plain(clock)
    with view:
        clock.done(1)
        view.update()
        clock.set(*clock.progress, other, Progress("adam", "retrain", 1, 5, 1, 0, 0))
        view.update()
    assert [line.split()[:3] for line in lines()] == [
        ["search", "adam", "1/10"], ["search", "sgd", "1/10"], ["retrain", "adam", "1/5"],
    ]  # fmt: skip


def test_what_was_not_yet_shown_is_shown_at_the_end(clock: Clock) -> None:
    view, lines = plain(clock)
    with view:
        clock.done(1)
        view.update()
        clock.done(3)
        view.update()
        assert len(lines()) == 1
    assert [line.split()[2] for line in lines()] == ["1/10", "3/10"]


def test_a_study_that_never_started_is_not_shown_at_the_end(clock: Clock) -> None:
    view, lines = plain(clock)
    with view:
        view.update()
    assert lines() == []


def test_a_line_says_how_the_study_stands(clock: Clock) -> None:
    view, lines = plain(clock)
    with view:
        clock.done(10, running=0, diverged=3, failed=2, best=0.123456)
        view.update()
    assert lines() == ["search  adam  10/10  0 running  3 diverged  2 failed  best val_loss 0.1235  done"]


def test_a_line_without_failures_or_best_says_neither(clock: Clock) -> None:
    view, lines = plain(clock)
    with view:
        clock.set(Progress("adam", "retrain", 5, 5, 0, 0, 0))
        view.update()
    assert lines() == ["retrain  adam  5/5  0 running  0 diverged  done"]


def test_a_line_is_never_wrapped_nor_read_as_markup(clock: Clock) -> None:
    name = "[red]" + "x" * 200
    view, lines = plain(clock)
    with view:
        clock.done(10, optimizer=name)
        view.update()
    assert len(lines()) == 1
    assert name in lines()[0]


def test_the_time_left_is_reckoned_from_the_pace_so_far(clock: Clock) -> None:
    view, lines = plain(clock)
    with view:
        clock.done(1, running=1)
        view.update()
        for done in (2, 3):
            clock.now += 30
            clock.done(done, running=1)
            view.update()
    assert lines()[-1].endswith("3:30 left")  # 7 more of 30 s


# Lines on a terminal.


def terminal(clock: Clock) -> tuple[LiveView, io.StringIO]:
    out = io.StringIO()
    return LiveView(Lines(lambda: clock.progress, "val_loss"), Console(file=out, force_terminal=True, width=120)), out


def last_frame(out: io.StringIO, lines: int) -> list[str]:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).replace("\r", "\n")
    return [line.strip() for line in text.splitlines() if line.strip()][-lines:]


def test_a_terminal_has_one_line_per_study(clock: Clock) -> None:
    clock.set(TEN, Progress("sgd", "search", 0, 10, 1, 0, 0), Progress("adam", "retrain", 0, 5, 0, 0, 0))
    view, out = terminal(clock)
    with view:
        clock.set(
            Progress("adam", "search", 10, 10, 0, 1, 0, 0.25), Progress("sgd", "search", 0, 10, 1, 0, 0),
            Progress("adam", "retrain", 0, 5, 0, 0, 0),
        )  # fmt: skip
    assert [" ".join(line.split()) for line in last_frame(out, 3)] == [
        "search adam 10/10 0 running 1 diverged best val_loss 0.25 done",
        "search sgd 0/10 1 running 0 diverged best val_loss - starting",
        "retrain adam 0/5 0 running 0 diverged waiting",
    ]


def test_a_terminal_is_redrawn_four_times_a_second(clock: Clock) -> None:
    view, out = terminal(clock)
    with view:
        shown = []
        for done in range(1, 6):
            clock.now += 0.1
            clock.done(done)
            view.update()
            shown.append("3/10" in out.getvalue())
        assert shown == [False, False, True, True, True]
        assert re.findall(r"\d+/10", out.getvalue()) == ["0/10", "3/10"]
    assert last_frame(out, 1)[0].split()[2] == "5/10"


# Which view.


def test_quiet_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    view = make_view(lambda: clock.progress, "val_loss", quiet=True)
    assert isinstance(view, Silence)
    with view:
        clock.done(10)
        view.update()
    assert capsys.readouterr() == ("", "")


def test_a_pipe_gets_plain_lines_on_stderr(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with make_view(lambda: clock.progress, "val_loss", quiet=False) as view:
        clock.done(10)
        view.update()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("search  adam  10/10  ") and "\x1b" not in err


def test_a_terminal_gets_live_lines(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Console, "is_terminal", True)
    assert isinstance(make_view(lambda: clock.progress, "val_loss", quiet=False), LiveView)


# Lines of a suite.


def part(run: str, phase: str, done: int, **changes: object) -> Progress:
    return Progress(**{**vars(TEN), "run": run, "phase": phase, "done": done, **changes})


def test_a_suite_has_a_line_per_task_and_one_for_all(clock: Clock) -> None:
    clock.set(part("iris", "search", 0), part("wine", "search", 0))
    lines = lines_of(lambda: clock.progress, "val_loss")
    clock.now += 60
    clock.set(
        part("iris", "search", 10, diverged=2), part("iris", "search", 4, optimizer="sgd", running=3, failed=1),
        part("iris", "retrain", 1, total=5), part("iris", "retrain", 0, total=5, optimizer="sgd"),
        part("wine", "search", 0),
    )  # fmt: skip
    assert [" ".join(filter(None, row.cells)) for row in lines.rows()] == [
        "iris search 14/20 retrain 1/10 3 running 2 diverged 1 failed",
        "wine search 0/10 0 running 0 diverged waiting",
        "all search 14/30 retrain 1/10 3 running 2 diverged 1 failed 1:40 left",  # 15 of 40 took a minute
    ]
    assert len({row.key for row in lines.rows()}) == 3


def test_a_task_that_is_done_says_so_and_all_when_all_are(clock: Clock) -> None:
    clock.set(part("iris", "search", 10), part("wine", "search", 9, running=1))
    lines = SuiteLines(lambda: clock.progress, "val_loss")
    assert [(row.over, row.cells[-1]) for row in lines.rows()] == [(True, "done"), (False, ""), (False, "")]
    clock.set(part("iris", "search", 10), part("wine", "search", 10))
    assert [(row.over, row.cells[-1]) for row in lines.rows()] == [(True, "done")] * 3


def test_a_run_alone_has_a_line_per_optimizer(clock: Clock) -> None:
    assert type(lines_of(lambda: clock.progress, "val_loss")) is Lines
    assert type(lines_of(lambda: [part("iris", "search", 0)], "val_loss")) is SuiteLines


def test_lines_of_a_suite_in_a_pipe_are_printed_as_its_tasks_move_on(clock: Clock) -> None:
    clock.set(part("iris", "search", 0), part("wine", "search", 0))
    out = io.StringIO()
    with PlainView(SuiteLines(lambda: clock.progress, "val_loss"), Console(file=out, width=40)) as view:
        clock.now += 10
        clock.set(part("iris", "search", 1), part("wine", "search", 0))
        view.update()
        view.update()
    assert [line.split("  ")[:2] for line in out.getvalue().splitlines()] == [
        ["iris", "search 1/10"], ["all", "search 1/20"],
    ]  # fmt: skip

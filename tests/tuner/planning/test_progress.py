"""How long the rest of all runs of a command takes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import tuner.planning.progress
from tuner.planning.progress import Progress, WholePace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; to be changed."""
    now = [1000.0]
    monkeypatch.setattr(tuner.planning.progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def at(*done: int, run_s: tuple[float, ...] = (2.0, 10.0), total: int = 10) -> list[Progress]:
    """Of a short task and a long one."""
    return [
        Progress("adam", "search", count, total, 0, 0, 0, run_s=seconds, run=name)
        for name, count, seconds in zip(("short", "long"), done, run_s, strict=True)
    ]


def test_what_is_left_is_weighed_by_how_long_it_is_expected_to_take(clock: list[float]) -> None:
    """All ten short runs are 20 of 120 expected seconds; they took 40, so that the other 100 take 200."""
    pace = WholePace(at(0, 0))
    clock[0] += 40
    assert pace.left_s(at(10, 0)) == pytest.approx(200)
    clock[0] += 100
    assert pace.left_s(at(10, 5)) == pytest.approx(140 / 70 * 50)


def test_only_the_ratio_of_expected_times_counts(clock: list[float]) -> None:
    paces = [WholePace(at(0, 0, run_s=run_s)) for run_s in ((2.0, 10.0), (200.0, 1000.0))]
    clock[0] += 7
    found = [
        pace.left_s(at(3, 1, run_s=run_s)) for pace, run_s in zip(paces, ((2.0, 10.0), (200.0, 1000.0)), strict=True)
    ]
    assert found[0] == pytest.approx(found[1])


def test_what_an_earlier_command_did_says_nothing_of_the_pace(clock: list[float]) -> None:
    """Nine of ten short ones were there, and the last took 30 s: the long ones take 50 times as long as that one."""
    pace = WholePace(at(9, 0))
    assert pace.left_s(at(9, 0)) is None
    clock[0] += 30
    assert pace.left_s(at(9, 0)) is None
    assert pace.left_s(at(10, 0)) == pytest.approx(30 / 2 * 100)


def test_at_the_end_nothing_is_left(clock: list[float]) -> None:
    pace = WholePace(at(0, 0))
    clock[0] += 10
    assert pace.left_s(at(10, 10)) == 0


def test_more_that_is_to_be_done_is_counted(clock: list[float]) -> None:
    """As retraining is, once it is known how much there is."""
    pace = WholePace(at(0, 0))
    clock[0] += 10
    assert pace.left_s(at(5, 0, total=20)) == pytest.approx(240 - 10)

"""Progress is shown on stderr: live lines on a terminal, of each optimizer or of each task of a suite, plain lines
elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tuner.planning.progress import Key, Pace, Progress, WholePace
from tuner.text import duration

REFRESH_S = 0.25
PLAIN_INTERVAL_S = 2.0


class View(Protocol):
    """Shows a run's progress. A context manager whose ``update`` may be called as often as one likes."""

    def __enter__(self) -> View: ...
    def __exit__(self, *error: object) -> None: ...
    def update(self) -> None: ...


def make_view(progress: Callable[[], Sequence[Progress]], metric: str, quiet: bool) -> View:
    """The view that fits where stderr goes."""
    console = Console(stderr=True)
    if quiet:
        return Silence()
    live = console.is_terminal and not console.is_dumb_terminal
    return (LiveView if live else PlainView)(lines_of(progress, metric), console)


def lines_of(progress: Callable[[], Sequence[Progress]], metric: str) -> Lines:
    """The lines that fit what is under way."""
    return (SuiteLines if any(p.run for p in progress()) else Lines)(progress, metric)


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *error: object) -> None: ...

    def update(self) -> None: ...


class Lines:
    """A line for each optimizer in each phase, with the time left."""

    def __init__(self, progress: Callable[[], Sequence[Progress]], metric: str) -> None:
        self.progress = progress
        self.metric = metric
        self.pace = Pace(progress())

    def rows(self) -> list[Row]:
        return [Row(p.key, p.done, p.done == p.total, self.cells(p)) for p in self.progress()]

    def cells(self, p: Progress) -> list[str]:
        """Phase, optimizer, done of total, running, diverged, best so far, time left."""
        cells = [p.phase, p.optimizer, f"{p.done}/{p.total}", f"{p.running} running", f"{p.diverged} diverged"]
        cells.append(f"{p.failed} failed" if p.failed else "")
        best = "-" if p.best is None else f"{p.best:.4g}"
        cells.append(f"best {self.metric} {best}" if p.phase == "search" else "")
        cells.append(self.time_left(p))
        return cells

    def time_left(self, p: Progress) -> str:
        if p.done == p.total:
            return "done"
        if not p.done:
            return "starting" if p.running else "waiting"
        left = self.pace.left_s(p)
        return "" if left is None else f"{duration(left)} left"


class SuiteLines(Lines):
    """A line for each run of a suite, and one for the whole, with the time left of that."""

    def __init__(self, progress: Callable[[], Sequence[Progress]], metric: str) -> None:
        super().__init__(progress, metric)
        self.whole = WholePace(progress())

    def rows(self) -> list[Row]:
        progress = self.progress()
        of_run: dict[str, list[Progress]] = {}
        for p in progress:
            of_run.setdefault(p.run, []).append(p)
        rows = [self._row((name, "", ""), name, parts, self._state(parts)) for name, parts in of_run.items()]
        left = self.whole.left_s(progress)
        return [*rows, self._row(("", "", ""), "all", progress, "" if left is None else f"{duration(left)} left")]

    def _row(self, key: Key, name: str, parts: Sequence[Progress], state: str) -> Row:
        """Name, both phases, running, diverged, state."""
        done, total = sum(p.done for p in parts), sum(p.total for p in parts)
        cells = [name]
        for phase in ("search", "retrain"):
            own = [p for p in parts if p.phase == phase]
            cells.append(f"{phase} {sum(p.done for p in own)}/{sum(p.total for p in own)}" if own else "")
        cells += [f"{sum(p.running for p in parts)} running", f"{sum(p.diverged for p in parts)} diverged"]
        failed = sum(p.failed for p in parts)
        return Row(
            key, done, done == total, [*cells, f"{failed} failed" if failed else "", "done" if done == total else state]
        )

    def _state(self, parts: Sequence[Progress]) -> str:
        return "" if any(p.done or p.running for p in parts) else "waiting"


@dataclass(frozen=True)
class Row:
    """A line of progress.

    Attributes:
        done: how much of it is done; the line is shown anew as this grows.
        over: whether there is no more.
    """

    key: Key
    done: int
    over: bool
    cells: list[str]


class _OnConsole:
    def __init__(self, lines: Lines, console: Console) -> None:
        self.lines = lines
        self.console = console


class LiveView(_OnConsole):
    """All lines, redrawn in place."""

    def __enter__(self) -> LiveView:
        self.live = Live(self.table(), console=self.console, auto_refresh=False)
        self.live.start(refresh=True)
        self.drawn = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.update(self.table(), refresh=True)
        self.live.stop()

    def update(self) -> None:
        if time.monotonic() - self.drawn >= REFRESH_S:
            self.drawn = time.monotonic()
            self.live.update(self.table(), refresh=True)

    def table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for row in self.lines.rows():
            table.add_row(*map(Text, row.cells))
        return table


class PlainView(_OnConsole):
    """A line whenever something has moved on, not more often than every two seconds, and one at its end."""

    def __enter__(self) -> PlainView:
        self.shown: dict[Key, tuple[int, float]] = {}
        return self

    def __exit__(self, *error: object) -> None:
        for row in self.lines.rows():
            if self.shown.get(row.key, (0, 0.0))[0] != row.done:
                self.show(row)

    def update(self) -> None:
        for row in self.lines.rows():  # which notes when the first run ended
            done, at = self.shown.get(row.key, (0, 0.0))
            if row.done != done and (row.over or time.monotonic() - at >= PLAIN_INTERVAL_S):
                self.show(row)

    def show(self, row: Row) -> None:
        self.shown[row.key] = (row.done, time.monotonic())
        self.console.print("  ".join(filter(None, row.cells)), markup=False, highlight=False, soft_wrap=True)

"""Progress is shown on stderr: one live line per study on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tuner.planning.progress import Key, Pace, Progress
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
    return (LiveView if live else PlainView)(progress, metric, console)


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *error: object) -> None: ...

    def update(self) -> None: ...


class Lines:
    """The text of each line, with the time left."""

    def __init__(self, progress: Callable[[], Sequence[Progress]], metric: str) -> None:
        self.progress = progress
        self.metric = metric
        self.pace = Pace(progress())

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


class _OnConsole(Lines):
    def __init__(self, progress: Callable[[], Sequence[Progress]], metric: str, console: Console) -> None:
        super().__init__(progress, metric)
        self.console = console


class LiveView(_OnConsole):
    """One line per study, redrawn in place."""

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
        for p in self.progress():
            table.add_row(*map(Text, self.cells(p)))
        return table


class PlainView(_OnConsole):
    """A line whenever a study has moved on, not more often than every two seconds, and one at its end."""

    def __enter__(self) -> PlainView:
        self.shown: dict[Key, tuple[int, float]] = {}
        return self

    def __exit__(self, *error: object) -> None:
        for p in self.progress():
            if self.shown.get(p.key, (0, 0.0))[0] != p.done:
                self.show(p)

    def update(self) -> None:
        for p in self.progress():
            done, at = self.shown.get(p.key, (0, 0.0))
            self.time_left(p)  # notes when the first run ended
            if p.done != done and (p.done == p.total or time.monotonic() - at >= PLAIN_INTERVAL_S):
                self.show(p)

    def show(self, p: Progress) -> None:
        self.shown[p.key] = (p.done, time.monotonic())
        self.console.print("  ".join(filter(None, self.cells(p))), markup=False, highlight=False, soft_wrap=True)

"""A notebook shows the events of a command below its cell: progress as one table that is redrawn in place."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from tuner.console.progress import Lines, Silence, View, lines_of
from tuner.console.terminal import Terminal
from tuner.planning.progress import Progress

REDRAW_S = 0.5


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


class Notebook(Terminal):
    """Listens to a command.

    Args:
        quiet: show no progress, and nothing that is no warning.
    """

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(quiet=quiet)
        self.console = Console(
            file=sys.stdout, quiet=quiet, force_jupyter=False, highlight=False, soft_wrap=True, emoji=False
        )

    def say(self, text: str) -> None:
        print(text)  # on stderr a notebook would show it as an error

    def make_view(self, progress: Callable[[], Sequence[Progress]], metric: str) -> View:
        return Silence() if self.quiet else NotebookView(lines_of(progress, metric))


class NotebookView:
    """A row per line of progress."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines

    def __enter__(self) -> NotebookView:
        from IPython.display import display

        self.handle: Any = display(self, display_id=True)
        self.drawn = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.update(self)

    def update(self) -> None:
        if time.monotonic() - self.drawn >= REDRAW_S:
            self.drawn = time.monotonic()
            self.handle.update(self)

    def _repr_html_(self) -> str:
        from tuner.reporting.as_cell import table

        return table(row.cells for row in self.lines.rows())

    def __repr__(self) -> str:
        return "\n".join("  ".join(filter(None, row.cells)) for row in self.lines.rows())

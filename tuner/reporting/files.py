"""A report's files are written into a folder: report.html, figures/, summary.csv and contrasts.csv."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.comparison.results import Results
from tuner.reporting import drawings, manifest
from tuner.reporting.page import page
from tuner.store.files import write_whole


@dataclass(frozen=True)
class Report:
    """A report on disk.

    Attributes:
        page: its report.html.
        figures: how many files lie in figures/.
    """

    page: Path
    figures: int


def write_report(results: Results, folder: Path, advance: Callable[[int, int], Any] = lambda drawn, of: None) -> Report:
    """
    Args:
        folder: it is made where there is none.
        advance: told how many figures are drawn, of how many.

    Raises:
        OSError: it cannot be written.
    """
    wanted = drawings.report_drawings(results)
    figures = folder / "figures"
    files = [f"{drawing.name}.{kind}" for drawing in wanted.all for kind in ("svg", "png")]
    manifest.begin(figures, files, old_report=(folder / "report.html").is_file())
    results.write_tables(folder)
    drawn = drawings.draw_all(wanted.all, figures, lambda number: advance(number, len(wanted.all)))
    manifest.end(figures, files)
    write_whole(folder / "report.html", page(results, wanted, drawn).encode("utf-8", "replace"))
    return Report(folder / "report.html", len(files))

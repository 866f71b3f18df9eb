"""A report's files are written into a folder: report.html, figures/, summary.csv and contrasts.csv."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tuner.comparison.results import Results
from tuner.errors import UserError
from tuner.reporting import drawings, manifest
from tuner.reporting.page import page
from tuner.store.files import write_whole
from tuner.store.folders import new_folder
from tuner.store.run import Run
from tuner.store.suites import is_suite


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


def folder(runs: Sequence[Run], out: Path | None, *, declared: bool, suite: Path | None = None) -> Path:
    """Where the report goes: into a single run if it is the one ``declared`` there, else beside the first, or its
    suite, into a folder that is made for it.

    Args:
        suite: the folder of a suite whose runs these are, which is as a single run.

    Raises:
        UserError: nothing can be written there.
    """
    run, own = suite or runs[0].path, declared and (len(runs) == 1 or suite is not None)
    beside = run.resolve().parent.parent if is_suite(run.resolve().parent) else run.resolve().parent
    path = out or (run if own else beside / f"report-{datetime.now():%Y%m%d-%H%M%S}")
    existing = next(part for part in (path.absolute(), *path.absolute().parents) if os.path.lexists(part))
    if not existing.is_dir():
        raise UserError(f"output folder {path}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"output folder {path}: {existing} cannot be written; choose another with --out")
    return path if out or own else new_folder(path)

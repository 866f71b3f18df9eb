"""Drawings are the figures of a report: which it has, each drawn once, in several processes. No torch, no ray."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tuner.analysis import curves, searches, units
from tuner.comparison.across import Across
from tuner.comparison.contrast import Contrast
from tuner.comparison.results import Results
from tuner.comparison.task_results import CLOCKS, TaskResults
from tuner.figures import lines, over_lr, pairs, ranks, svg
from tuner.figures import searches as search_figures
from tuner.reporting import sensitivity, tuning

CLOCK_NAMES = {"steps": "steps", "grad_equivalents": "gradient-equivalents", "seconds": "seconds"}
PROCESSES = min(4, os.cpu_count() or 1)
START = "fork" if sys.platform == "linux" else None
"""How they begin. Other ways take seconds, and run a program anew that asks for a report outside its ``__main__``."""


MOST_WHOLE = 6
"""Tasks of which each has all of its figures."""


@dataclass(frozen=True)
class Drawing:
    """A figure to be drawn.

    Attributes:
        name: of its files, and of its place in the page.
        title: for who cannot see it.
        caption: for who can.
        hover: whether the page shows values under the pointer.
    """

    name: str
    title: str
    caption: str
    draw: Callable[..., Figure]
    args: tuple[Any, ...]
    hover: bool = False


@dataclass(frozen=True)
class Drawn:
    """What of a drawing goes into the page."""

    svg: str
    hover: list[dict[str, Any]]


@dataclass(frozen=True)
class Drawings:
    """Those of a report.

    Attributes:
        tasks: of each task, by the parts of its section.
        across: over the tasks.
        sensitivity: of tuning.
    """

    tasks: list[dict[str, list[Drawing]]]
    across: list[Drawing]
    sensitivity: list[Drawing]

    @property
    def all(self) -> list[Drawing]:
        return [drawing for parts in self.tasks for part in parts.values() for drawing in part] + [
            *self.across,
            *self.sensitivity,
        ]


def report_drawings(results: Results) -> Drawings:
    names, whole = results.optimizers, is_whole(results)
    tasks = [task_drawings(task, index, names, whole=whole) for index, task in enumerate(results.tasks)]
    across = across_drawings(results.across) if results.across else []
    return Drawings(tasks, across, list(_sensitivity(results)))


def draw_all(drawings: Sequence[Drawing], folder: Path, on_drawn: Callable[[int], object]) -> dict[str, Drawn]:
    """Draw each and write its SVG and PNG files; ``on_drawn`` hears how many are done."""
    drawn: dict[str, Drawn] = {}
    with ProcessPoolExecutor(PROCESSES, get_context(START)) as processes:
        futures = {drawing.name: processes.submit(draw, drawing, folder) for drawing in drawings}
        for name, future in futures.items():
            drawn[name] = future.result()
            on_drawn(len(drawn))
    return drawn


def draw(drawing: Drawing, folder: Path) -> Drawn:
    figure = drawing.draw(*drawing.args)
    source = svg.render(figure)
    svg.write(figure, folder, drawing.name, source)
    return Drawn(svg.inline(figure, drawing.title, source=source), svg.hover(figure) if drawing.hover else [])


def is_whole(results: Results) -> bool:
    """Whether each task has all of its figures, or, of many, those that show all optimizers together."""
    return len(results.tasks) <= MOST_WHOLE


def task_drawings(
    task: TaskResults, index: int, names: Sequence[str], *, whole: bool = True
) -> dict[str, list[Drawing]]:
    """By the parts of a task's section."""
    most = None if whole else 1  # the others are not even prepared
    return {
        "curves": list(islice(_curves(task, index, names), most)),
        "pairs": list(islice(_pairs(task, index, names), most)),
        "search": list(_search(task, index, names)) if whole else [],
        "progress": list(_progress(task, index, names)),
    }


def _file(index: int, what: str) -> str:
    return f"{index + 1}-{what}"


def _of(name: str, names: Sequence[str]) -> str:
    """An optimizer in a file's name; ``name@run`` may hold what other systems allow in none."""
    slug = re.sub(r"[^A-Za-z0-9_.@-]+", "_", name)
    return slug if slug == name else f"{slug}-{names.index(name)}"


def _curves(task: TaskResults, index: int, names: Sequence[str]) -> Iterable[Drawing]:
    comparison = task.comparison
    metric = comparison.config.task.metric
    if task.filled.empty:
        return
    for name, clock in CLOCKS.items():
        if name == "seconds" and (comparison.borrowed or len(set(comparison.cohorts.values())) > 1):
            continue  # of other commands, or shares of stacks of several sizes
        label = CLOCK_NAMES[name] + (" (shared)" if name == "seconds" and comparison.shared else "")
        title = f"{comparison.task}: {metric} by {label}"
        bands = curves.bands(task.filled, clock)
        yield Drawing(_file(index, f"curves-{name}"), title, title.partition(": ")[2], lines.curves,
                      (bands, label, metric, names), hover=True)  # fmt: skip


def _pairs(task: TaskResults, index: int, names: Sequence[str]) -> Iterable[Drawing]:
    """The figures take values of which less is better, and show them with their own sign."""
    comparison = task.comparison
    sign, better = (1.0, "lower") if comparison.mode(comparison.metric) == "min" else (-1.0, "higher")
    values = comparison.values(comparison.metric).dropna(subset="value")
    values["value"] *= sign
    contrasts = [contrast for contrast in task.primary_contrasts if contrast.n > 0]
    if contrasts:
        intervals = pd.DataFrame([_interval(task, contrast, sign) for contrast in contrasts])
        title = f"{comparison.task}: differences to {comparison.baseline} on {comparison.metric}"
        caption = (f"Differences to {comparison.baseline} on {comparison.metric}, {_each(contrasts)}, with intervals "
                   f"at their Holm-corrected levels; {better} is better")  # fmt: skip
        differences_by_unit = pd.concat([_differences(task, contrast, sign) for contrast in contrasts])
        yield Drawing(_file(index, "differences"), title, caption, pairs.differences,
                      (intervals, differences_by_unit, comparison.baseline, names, comparison.metric,
                       better))  # fmt: skip
    for contrast in contrasts:
        name = contrast.optimizer
        title = f"{comparison.task}: {comparison.metric} of {name} and {comparison.baseline} by {contrast.unit}"
        file = _file(index, f"pairs-{_of(name, names)}")
        yield Drawing(file, title, f"{name} and {comparison.baseline}", pairs.slopes,
                      (_by_unit(values, contrast), name, comparison.baseline, comparison.metric, better,
                       names))  # fmt: skip


def _interval(task: TaskResults, contrast: Contrast, sign: float) -> dict[str, Any]:
    """A row of the figure of differences."""
    low, high = sorted(sign * end for end in contrast.interval)
    return {"optimizer": contrast.optimizer, "difference": sign * contrast.typical_difference, "low": low,
            "high": high, "verdict": task.standing(contrast.optimizer), "margin": contrast.margin}  # fmt: skip


def _each(contrasts: Sequence[Contrast]) -> str:
    return " or ".join(
        dict.fromkeys("study by study" if each.unit == "study" else "seed by seed" for each in contrasts)
    )


def _differences(task: TaskResults, contrast: Contrast, sign: float) -> pd.DataFrame:
    """Columns optimizer, seed, difference: one of each unit."""
    (row,) = task.primary[task.primary["optimizer"] == contrast.optimizer]["differences"]
    return pd.DataFrame({"optimizer": contrast.optimizer, "seed": range(len(row)), "difference": sign * row})


def _by_unit(values: pd.DataFrame, contrast: Contrast) -> pd.DataFrame:
    """Columns optimizer, seed, value of the two; of studies their means, numbered in place of seeds."""
    pair = units.by_run(values).reindex(columns=[contrast.baseline, contrast.optimizer]).dropna()
    made = units.pairs(pair[[contrast.optimizer, contrast.baseline]])
    columns = {contrast.optimizer: made.x, contrast.baseline: made.y}
    return pd.concat(
        pd.DataFrame({"optimizer": name, "seed": range(len(column)), "value": column})
        for name, column in columns.items()
    )


def _search(task: TaskResults, index: int, names: Sequence[str]) -> Iterable[Drawing]:
    comparison = task.comparison
    metric, mode = comparison.config.task.metric, comparison.config.task.mode
    for name in comparison.optimizers:
        trials = comparison.trials[comparison.trials["optimizer"] == name]
        if trials.empty or not comparison.spaces[name]:
            continue
        importance = searches.importance(trials, comparison.spaces[name], mode)
        shares = dict(zip(importance.table["hyperparameter"], importance.table["importance"], strict=True))
        listed = ", ".join(f"{key} {share:.2f}" for key, share in shares.items())
        few = f" (of {importance.n_trials} trials: little to go by)" if importance.few else ""
        about = f"No importances: {importance.reason}." if importance.reason else f"Importances: {listed}{few}."
        file = _file(index, f"search-{_of(name, names)}")
        yield Drawing(file, f"{comparison.task}: the search of {name}", f"{name}. {about}", search_figures.search,
                      (trials, name, comparison.spaces[name], comparison.winners(name), metric, mode, names,
                       shares))  # fmt: skip


def _progress(task: TaskResults, index: int, names: Sequence[str]) -> Iterable[Drawing]:
    comparison = task.comparison
    metric, curves = comparison.config.task.metric, tuning.curves_of(comparison)
    if not curves.table.empty:
        draw = lines.best_so_far if curves.kind == "single" else lines.tuning
        caption = tuning.caption(curves, comparison)
        yield Drawing(_file(index, "tuning"), f"{comparison.task}: {caption}", caption, draw,
                      (curves.table, names, metric), hover=True)  # fmt: skip


def across_drawings(across: Across) -> list[Drawing]:
    label, names = CLOCK_NAMES[across.clock], across.optimizers
    drawings = [Drawing("tasks-profile", f"Performance profile by {label}",
                     f"Share of tasks solved, by {label} to the target", lines.profile, (across.profile, names),
                     hover=True)]  # fmt: skip
    if len(across.ranks) and across.ranks.shape[1] > 1:
        p = None if across.friedman is None else across.friedman[1]
        caption = "Mean ranks; a bar joins what Wilcoxon's test, with Holm's correction, does not tell apart"
        drawings += [
            Drawing("tasks-ranks", "Ranks by task",
                    "Rank of each optimizer on each task, by its mean or, where runs diverged, median",
                    ranks.rank_heatmap, (across.ranks,)),
            Drawing("tasks-critical-difference", "Mean ranks and cliques", f"{caption} at {across.alpha:g}",
                    ranks.critical_difference, (across.ranks.mean(), across.cliques, p, names)),
        ]  # fmt: skip
    return drawings


def _sensitivity(results: Results) -> Iterable[Drawing]:
    panels = sensitivity.panels(results.sensitivity) if results.sensitivity.shown else []
    if panels:
        yield Drawing("learning-rates", "Values over the learning rate", sensitivity.CAPTION, over_lr.over_lr,
                      (panels, results.optimizers))  # fmt: skip

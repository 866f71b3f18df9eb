"""The figure of sensitivity to the learning rate: a panel per task, the best value reached by learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tuner.figures.canvas import WIDTH, Panel, belongs_to, draw_at, line_style, new_figure, new_panel, styled, write_at
from tuner.figures.labels import SMALL, fitted, labels, text_width
from tuner.figures.scales import Scale, scale

ROW = 138.0  # points, of a row of panels with its title and axis
PANEL = 92.0
COLUMNS = 2
GAP = 14.0
LEGEND_ROW = 12.5


@dataclass(frozen=True)
class TaskCurves:
    """What a panel shows.

    Attributes:
        task, metric: its title.
        mode: which end of the metric is better.
        curves: columns optimizer, low, high (of a stretch of learning rates), best (infinite where all diverged, NaN
            where none was tried), near (whether that is as good as the best); best has the metric's own sign.
        untrained: the metric before the first step: the worse edge of the panel, where all lies that is worse.
    """

    task: str
    metric: str
    mode: Literal["min", "max"]
    curves: pd.DataFrame
    untrained: float


@styled
def over_lr(tasks: Sequence[TaskCurves], names: Sequence[str]) -> Figure:
    """The best value reached by learning rate, on each task; dots where it is near the optimizer's best.

    Args:
        names: all optimizers of the report, in its order.
    """
    shown = [name for name in names if any(name in set(task.curves["optimizer"]) for task in tasks)]
    legend = _legend_rows(shown)
    rows = -(-len(tasks) // COLUMNS)
    height = rows * ROW + LEGEND_ROW * len(legend) + 16
    figure = new_figure(WIDTH, height)
    _draw_legend(figure, legend, names, height)
    scales = [_y(task) for task in tasks]
    left = 9 + max((text_width(label) for y in scales for label in y.labels), default=0)
    columns = min(COLUMNS, max(len(tasks), 1))
    width = (WIDTH - columns * left - GAP * (columns - 1) - 8) / columns
    for place, (task, y) in enumerate(zip(tasks, scales, strict=True)):
        row, column = divmod(place, columns)
        bottom = height - LEGEND_ROW * len(legend) - (row + 1) * ROW + 18
        at = left + column * (width + left + GAP)
        panel = new_panel(figure, (at, bottom, width, PANEL), _x(task), y)
        write_at(figure, at, bottom + PANEL + 7, fitted(f"{task.task}: {task.metric}", width))
        for name, own in task.curves.groupby("optimizer", sort=False):
            _draw(panel, own, task, str(name), list(names).index(str(name)))
    write_at(figure, WIDTH / 2, 4, "learning rate", ha="center")
    return figure


def _x(task: TaskCurves) -> Scale:
    ends = task.curves[["low", "high"]].to_numpy(float)
    x = scale([ends.min(), ends.max()], log=True, pad=0.02, ticks=4)
    kept = slice(None, None, 2 if len(x.ticks) > 4 else 1)
    return replace(x, ticks=x.ticks[kept], labels=x.labels[kept])


def _y(task: TaskCurves) -> Scale:
    best = task.curves["best"].to_numpy(float)
    better = best < task.untrained if task.mode == "min" else best > task.untrained
    return scale([*best[better & np.isfinite(best)], task.untrained], log=None, pad=0.06, ticks=4)


def _draw(panel: Panel, curve: pd.DataFrame, task: TaskCurves, name: str, index: int) -> None:
    """A line through the stretches that have trials."""
    known = curve[curve["best"].notna()]
    at = np.sqrt(known["low"].to_numpy(float) * known["high"].to_numpy(float))
    best = known["best"].to_numpy(float)
    held = np.minimum(best, task.untrained) if task.mode == "min" else np.maximum(best, task.untrained)
    held = np.where(np.isfinite(best), held, task.untrained)
    near = np.flatnonzero(known["near"].to_numpy(bool)).tolist()
    (line,) = panel.axes.plot(
        at, held, **line_style(index), linewidth=1.4, marker="o", markersize=3.6, markevery=near, clip_on=False
    )
    belongs_to(line, index, name)


def _legend_rows(names: Sequence[str]) -> list[list[tuple[str, str, float]]]:
    """Names row by row, each with how it is written and where its entry begins."""
    rows: list[list[tuple[str, str, float]]] = []
    at = WIDTH
    for name, label in zip(names, labels(list(names), WIDTH - 40, SMALL), strict=True):
        needed = 36 + text_width(label, SMALL)
        if at + needed > WIDTH:
            rows.append([])
            at = 6.0
        rows[-1].append((name, label, at))
        at += needed
    return rows


def _draw_legend(
    figure: Figure, rows: Sequence[Sequence[tuple[str, str, float]]], names: Sequence[str], height: float
) -> None:
    for row, entries in enumerate(rows):
        level = height - 8 - LEGEND_ROW * row
        for name, label, at in entries:
            index = list(names).index(name)
            key = draw_at(figure, [(at, level), (at + 18, level)], **line_style(index), linewidth=1.6)
            text = write_at(figure, at + 22, level, label, va="center_baseline", fontsize=SMALL)
            for artist in (key, text):
                belongs_to(artist, index, name)

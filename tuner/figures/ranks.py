"""Figures show ranks over several tasks: the critical-difference diagram, and every rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tuner.figures.canvas import (
    INK,
    WIDTH,
    Panel,
    belongs_to,
    colour,
    draw_at,
    index_of,
    new_figure,
    new_panel,
    styled,
    write_at,
)
from tuner.figures.labels import SMALL, labels, text_width
from tuner.figures.scales import Scale, number
from tuner.text import p_value

CELL = 22.0  # the height of a task's row, in points
NAME_ROOM = 100.0  # points


@styled
def critical_difference(
    mean_ranks: pd.Series, cliques: Sequence[Sequence[str]], p: float | None, names: Sequence[str]
) -> Figure:
    """Optimizers along the axis of mean ranks; a bar joins those between which no difference was shown (Demšar 2006).

    Args:
        mean_ranks: by optimizer, 1 is best.
        cliques: groups of optimizers, each joined by a bar.
        p: of the Friedman test over all of them.
    """
    ranks = mean_ranks[np.isfinite(mean_ranks.to_numpy(float))].sort_values(kind="stable")
    best_half = -(-len(ranks) // 2)
    bars = [clique for clique in cliques if len(clique) > 1 and set(clique) <= set(ranks.index)]
    below = 12 + 7.0 * len(bars)  # from the axis to the first name
    height = 44 + below + 15 * max(best_half, 1) + 8
    figure = new_figure(WIDTH, height)
    written = labels(list(ranks.index), NAME_ROOM)
    margin = max(map(text_width, written), default=0) + 34
    last = max(2, len(ranks))
    left, unit = _rank_axis(ranks.to_numpy(float), margin, last)
    axis = height - 44

    def across(rank: float) -> float:
        return left + unit * (rank - 1)

    draw_at(figure, [(across(1), axis), (across(last), axis)], color=INK, linewidth=0.8)
    for rank in range(1, last + 1):
        draw_at(figure, [(across(rank), axis), (across(rank), axis + 4)], color=INK, linewidth=0.8)
        write_at(figure, across(rank), axis + 7, str(rank), ha="center", fontsize=SMALL)
    title = "mean rank over tasks" + ("" if p is None or not np.isfinite(p) else f"; Friedman {p_value(p, least=1e-3)}")
    write_at(figure, WIDTH / 2, height - 5, title, ha="center", va="top")
    for index, (name, rank) in enumerate(ranks.items()):
        row = index if index < best_half else len(ranks) - 1 - index
        side = margin - 24 if index < best_half else WIDTH - margin + 24
        level = axis - below - 15 * row - 4
        at = across(float(rank)), axis
        parts = _elbow(figure, written[index], float(rank), colour(index_of(str(name), names)), at, level, side)
        for part in parts:
            belongs_to(part, index_of(str(name), names), str(name))
    for index, clique in enumerate(bars):
        ends = [float(ranks[list(clique)].min()), float(ranks[list(clique)].max())]
        level = axis - 8 - 7 * index
        draw_at(figure, [(across(ends[0]) - 3, level), (across(ends[1]) + 3, level)], color=INK, linewidth=3.2)
    return figure


def _rank_axis(ranks: NDArray[np.float64], margin: float, last: int) -> tuple[float, float]:
    """Where rank 1 lies and how far ranks are apart, so that all elbows begin between the names."""
    best, worst = (float(ranks.min()), float(ranks.max())) if len(ranks) else (1.0, float(last))
    unit = min((WIDTH - 2 * margin) / max(worst - best, 1e-9), (WIDTH - 24) / (last - 1))
    left = WIDTH / 2 - unit * ((best + worst) / 2 - 1)
    if left < 12 or left + unit * (last - 1) > WIDTH - 12:  # the ends would leave the figure: a shorter axis
        reach = max((best + worst) / 2 - 1, last - (best + worst) / 2)
        unit = min(unit, (WIDTH / 2 - 12) / reach)
        left = WIDTH / 2 - unit * ((best + worst) / 2 - 1)
    return left, unit


def _elbow(
    figure: Figure, label: str, rank: float, hue: str, at: tuple[float, float], level: float, side: float
) -> list[Artist]:
    """From the axis down and to the side, where the name stands, with the mean rank on the line."""
    to_left = side < at[0]
    line = draw_at(figure, [at, (at[0], level), (side, level)], color=hue, linewidth=1.2)
    text = write_at(figure, side + (-4 if to_left else 4), level, label,
                    ha="right" if to_left else "left", va="center_baseline")  # fmt: skip
    mean = write_at(figure, side + (2 if to_left else -2), level + 2, f"{rank:.2f}", fontsize=SMALL - 1.5,
                    ha="left" if to_left else "right")  # fmt: skip
    return [line, text, mean]


@styled
def rank_heatmap(ranks: pd.DataFrame) -> Figure:
    """Ranks as numbers in a table of tasks by optimizers, the better the deeper the colour; the best in bold.

    Args:
        ranks: one row per task, one column per optimizer; 1 is best; NaN where an optimizer was not run.
    """
    tasks, names = labels(list(ranks.index), NAME_ROOM), labels(list(ranks.columns), NAME_ROOM)
    rows, columns = max(len(tasks), 1), max(len(names), 1)
    left = 12 + max(map(text_width, tasks), default=0)
    longest = max((text_width(name, SMALL) for name in names), default=0)
    level = longest <= (WIDTH - left - 8) / columns - 4
    aside = 0.0 if level else 0.71 * longest  # what a slanted name takes to the right and upwards
    figure = new_figure(WIDTH + 0.6 * aside, 8 + CELL * rows + (18 if level else aside + 18))
    x, y = Scale(0, columns, False, [], []), Scale(rows, 0, False, [], [])
    panel = new_panel(figure, (left, 8, WIDTH - left - 8, CELL * rows), x, y, grid=False, base=False)
    _cells(figure, panel, ranks.to_numpy(float))
    for index, task in enumerate(tasks):
        write_at(figure, left - 7, float(panel.points(0, index + 0.5)[1]), task, ha="right", va="center_baseline")
    how: dict[str, Any] = {"ha": "center"} if level else {"rotation": 45, "ha": "left", "rotation_mode": "anchor"}
    for index, name in enumerate(names):
        at = float(panel.points(index + 0.5, 0)[0])
        write_at(figure, at, 8 + panel.height + 5, name, fontsize=SMALL, **how)
    return figure


def _cells(figure: Figure, panel: Panel, ranks: NDArray[np.float64]) -> None:
    squares, faces = [], []
    for (row, column), rank in np.ndenumerate(ranks):
        x, y = panel.points(column + 0.5, row + 0.5)
        known = bool(np.isfinite(rank))
        weight = "bold" if known and rank == np.nanmin(ranks[row]) else "normal"
        shown = number(float(rank)) if known else "–"
        write_at(figure, x, y, shown, ha="center", va="center_baseline", fontweight=weight)
        if known:
            share = 1 - (float(rank) - 1) / max(ranks.shape[1] - 1, 1)
            squares.append([(column, row), (column + 1, row), (column + 1, row + 1), (column, row + 1)])
            faces.append((*to_rgb(colour(0)), min(max(0.05 + 0.5 * share, 0.0), 1.0)))
    panel.axes.add_collection(PolyCollection(squares, facecolors=faces, linewidth=0), autolim=False)

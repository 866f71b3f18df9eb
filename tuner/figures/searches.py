"""Figures show a search: what each hyperparameter did to the result, and how much it mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tuner.config.engine_options import TRAINING
from tuner.config.space import Dimension
from tuner.figures.canvas import (
    INK,
    WIDTH,
    Panel,
    colour,
    index_of,
    new_figure,
    new_panel,
    styled,
    write_at,
)
from tuner.figures.labels import SMALL, labels, plain, text_width
from tuner.figures.scales import Scale, drawable, finite, scale
from tuner.store.tables import HP

PANEL_HEIGHT = 112.0
MOST_COLUMNS = 3
CROSSES_APART = 4.0  # points, in a crowd
CROWD = 500  # more trials than this are an image in each panel


@styled
def search(
    trials: pd.DataFrame,
    optimizer: str,
    space: Mapping[str, Dimension],
    winners: Sequence[Mapping[str, Any]],
    metric_label: str,
    mode: Literal["min", "max"],
    names: Sequence[str],
    importance: Mapping[str, float] | None = None,
) -> Figure:
    """One panel per hyperparameter: the value of every trial against it, on the searched scale.

    Diverged trials are crosses at the worse edge of the panel, whatever their value; those that a scheduler stopped are
    hollow; failed ones are not shown. Each study's winner is ringed where a trial has its values. The points of more
    than ``CROWD`` trials are smaller, and an image in an SVG.

    Args:
        trials: columns optimizer, state, value and ``hp.<name>``, of one task.
        winners: hyperparameters by name, of each study.
        importance: shares by hyperparameter, written beside its name.
    """
    counted = trials[(trials["optimizer"] == optimizer) & (trials["state"] != "failed")]
    columns = min(max(len(space), 1), MOST_COLUMNS) if len(space) != 4 else 2
    rows = -(-max(len(space), 1) // columns)
    values = drawable(counted["value"].to_numpy(float, na_value=np.nan))
    diverged = (counted["state"] == "diverged").to_numpy(bool) | ~np.isfinite(values)
    states = np.where(diverged, "diverged", counted["state"].to_numpy(str))
    y = scale(values[~diverged], log=None, pad=0.06, ticks=4)
    left = 9 + max(map(text_width, y.labels), default=0)
    height = rows * (PANEL_HEIGHT + 42) + 22
    figure = new_figure(WIDTH, height)
    gap = 12.0
    width = (WIDTH - left - 10 - gap * (columns - 1)) / columns
    edge = y.high if mode == "min" else y.low
    chosen = np.zeros(len(counted), bool)
    for winner in winners:
        chosen |= _chosen(counted, space, winner)
    titles = _with_importances(list(space), importance or {}, width)
    for index, (name, dimension) in enumerate(space.items()):
        row, column = divmod(index, columns)
        x, at = _axis(counted.get(HP + name), dimension, len(counted), width)
        bottom = height - 22 - (row + 1) * (PANEL_HEIGHT + 42) + 31
        shown = y if column == 0 else Scale(y.low, y.high, y.log, y.ticks, [""] * len(y.ticks))
        panel = new_panel(figure, (left + column * (width + gap), bottom, width, PANEL_HEIGHT), x, shown)
        heights = np.where(diverged, edge, values)
        _scatter(panel, at, heights, states, colour(index_of(optimizer, names)), chosen)
        write_at(figure, panel.left + width / 2, bottom - 27, titles[index], ha="center")
    count = f", {int(diverged.sum())} of {len(counted)} diverged (×)" if diverged.any() else ""
    write_at(figure, 5, height - 5, plain(metric_label) + count, va="top")
    return figure


def _axis(column: pd.Series | None, dimension: Dimension, rows: int, width: float) -> tuple[Scale, NDArray[np.float64]]:
    """The searched range as an axis, and where each trial lies on it."""
    if column is None:
        column = pd.Series([None] * rows, dtype=object)
    if dimension.choices is not None:
        kinds = [str(choice) for choice in dimension.choices]
        places = np.array([_choice(value, kinds) for value in column], float)
        room = width / len(kinds) - 4
        ticks = [float(i) for i in range(len(kinds))]
        return Scale(-0.5, len(kinds) - 0.5, False, ticks, labels(kinds, room)), places
    values = drawable(pd.to_numeric(column, errors="coerce").to_numpy(float, na_value=np.nan))
    assert dimension.low is not None and dimension.high is not None
    x = scale([dimension.low, dimension.high], dimension.log, pad=0.05, ticks=4)
    return _fitting(x, width), values


def _choice(value: Any, kinds: Sequence[str]) -> float:
    """Its place; a table read back may hold the number 1 for the text "1"."""
    text = str(value)
    if text in kinds:
        return float(kinds.index(text))
    short = text.removesuffix(".0")
    return float(kinds.index(short)) if short in kinds else np.nan


def _fitting(x: Scale, width: float) -> Scale:
    """Without labels that would run into each other: every second tick goes, as often as need be."""
    ticks, labels = x.ticks, x.labels
    while len(ticks) > 2 and sum(map(text_width, labels)) > width - 8 * len(labels):
        ticks, labels = ticks[::2], labels[::2]
    return Scale(x.low, x.high, x.log, ticks, labels)


def _chosen(trials: pd.DataFrame, space: Mapping[str, Dimension], winner: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Which trial has these hyperparameters, the first; none where it is not in the table."""
    same = (trials["state"] == "complete").to_numpy(bool) & (len(space) > 0)
    for name, dimension in space.items():
        column, value = trials.get(HP + name), winner.get(name)
        if column is None or value is None:
            return np.zeros(len(trials), bool)
        if dimension.choices is not None:
            kinds = [str(choice) for choice in dimension.choices]
            same &= np.array([_choice(one, kinds) == _choice(value, kinds) for one in column], bool)
        else:
            same &= np.isclose(pd.to_numeric(column, errors="coerce").to_numpy(float), float(value), rtol=1e-9, atol=0)
    return same & (np.cumsum(same) == 1)


def _scatter(
    panel: Panel,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    states: NDArray[np.str_],
    hue: str,
    chosen: NDArray[np.bool_],
) -> None:
    # Lines without strokes: in a page their markers take a third of what a scatter takes.
    crowd = len(x) > CROWD
    dots = {"color": hue, "marker": "o", "rasterized": crowd}
    kinds: tuple[tuple[NDArray[np.bool_], dict[str, Any]], ...] = (
        (
            states == "stopped",
            {**dots, "markersize": 2.4 if crowd else 3.2, "markerfacecolor": "none", "alpha": 0.5},
        ),
        (
            (states != "stopped") & (states != "diverged"),
            {**dots, "markersize": 2.6 if crowd else 3.8, "alpha": 0.5 if crowd else 0.55, "markeredgewidth": 0},
        ),
        (
            _apart(panel, x, y, states == "diverged") if crowd else states == "diverged",
            {"color": INK, "marker": "x", "markersize": 4.5, "alpha": 0.7},
        ),
        (chosen, {"color": INK, "marker": "o", "markersize": 8.5, "markerfacecolor": "none", "markeredgewidth": 1.3}),
    )
    for which, how in kinds:
        shown = which & np.isfinite(x)
        if shown.any():
            panel.axes.plot(x[shown], y[shown], **{"marker": "o", "linestyle": "none", "clip_on": False, **how})


def _apart(panel: Panel, x: NDArray[np.float64], y: NDArray[np.float64], which: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of those points one at each place that can be told from others: crosses have the page's ink, as no image can."""
    rows = np.flatnonzero(which & np.isfinite(x))
    places = np.round(panel.points(x[rows], y[rows]) / CROSSES_APART)
    kept = np.zeros(len(x), bool)
    kept[rows[np.unique(places, axis=0, return_index=True)[1]]] = True
    return kept


def _with_importances(names: Sequence[str], shares: Mapping[str, float], width: float) -> list[str]:
    known = [shares.get(name, np.nan) for name in names]
    after = [f" · {100 * share:.0f} %" if np.isfinite(share) else "" for share in known]
    room = width + 8 - max(map(text_width, after), default=0)
    written = labels([name.removeprefix(TRAINING) for name in names], room)
    return [label + share for label, share in zip(written, after, strict=True)]


@styled
def importance(table: pd.DataFrame, few: bool) -> Figure:
    """The share of the variation in the result that each hyperparameter explains, as bars.

    Args:
        table: columns hyperparameter, importance.
        few: too few trials to rely on it; the bars are hollow then, and it is said.
    """
    known = table[np.isfinite(table["importance"].to_numpy(float))]
    known = known.sort_values("importance", ascending=False, kind="stable")
    names = labels(list(known["hyperparameter"]), 140)
    shares = known["importance"].to_numpy(float)
    left = 12 + max(map(text_width, names), default=0)
    row = 17.0
    height = 26 + row * max(len(names), 1) + 5
    figure = new_figure(WIDTH, height)
    x = Scale(0, max(float(finite(shares).max(initial=0.0)), 1e-9), False, [], [])
    y = Scale(max(len(names), 1), 0, False, [], [])
    rectangle = (left, 5, max(WIDTH - left - 46, 20), row * max(len(names), 1))
    panel = new_panel(figure, rectangle, x, y, grid=False, base=False)
    bars = [[(0, i + 0.2), (share, i + 0.2), (share, i + 0.8), (0, i + 0.8)] for i, share in enumerate(shares)]
    face = "none" if few else (*(int(INK[i : i + 2], 16) / 255 for i in (1, 3, 5)), 0.55)
    panel.axes.add_collection(
        PolyCollection(bars, facecolor=face, edgecolor=INK, linewidth=0.8 if few else 0, clip_on=False), autolim=False
    )
    for i, (name, share) in enumerate(zip(names, shares, strict=True)):
        end, level = panel.points(max(share, 0.0), i + 0.5)
        write_at(figure, left - 7, float(level), name, ha="right", va="center_baseline")
        write_at(figure, float(end) + 5, float(level), f"{100 * share:.0f} %", va="center_baseline", fontsize=SMALL)
    label = "importance" + (" (few trials: a rough guess)" if few else "")
    write_at(figure, 5, height - 5, label if len(names) else "importance: not known", va="top")
    return figure

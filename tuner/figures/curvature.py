"""Figures show the loss's curvature along training: its spectrum, its diagonal, an optimizer's estimate of it.

As in ``lines``: functions take tables and return a ``matplotlib.figure.Figure``; ``names`` are all optimizers in
their order. ``table`` is curvature.parquet as ``Run.curvature`` reads it, of one task. Values are medians over seeds;
densities, which are on an axis of their own for every seed, are of one seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tuner.analysis import curves
from tuner.figures import lines as figures
from tuner.figures.canvas import (
    INK,
    WIDTH,
    Panel,
    belongs_to,
    colour,
    index_of,
    new_figure,
    new_panel,
    styled,
    write_at,
)
from tuner.figures.curvature_tables import MOMENTS, bands, densities, medians, moments
from tuner.figures.labels import labels, plain, text_width
from tuner.figures.scales import Scale, SignedScale, drawable, finite, scale, signed_scale

PANEL_HEIGHT = 104.0
ABOVE, BELOW, GAP = 20.0, 30.0, 18.0  # points around a panel: its name, its ticks
MOST_COLUMNS = 3
MOST_LINES = 60  # eigenvalues along training that can be told apart
LOWEST_SHARE = 1e-4  # of the highest peak of a density that is shown
QUANTITIES: dict[str, tuple[str, bool | None]] = {
    "eigenvalue": ("largest eigenvalue", None),
    "trace": ("trace", None),
    "estimate_relative_error": ("relative error of the estimate", None),
    "estimate_cosine": ("cosine of estimate and exact", False),
}
"""What there is one number of at a time (of the eigenvalues, the first): its label; whether its axis is logarithmic."""

Floats = NDArray[np.float64]


def along(
    table: pd.DataFrame, quantity: str, names: Sequence[str], log: bool | None = None, legend: bool = False
) -> Figure:
    """One of ``QUANTITIES`` along training: median and quartiles over seeds, per optimizer."""
    label, own_log = QUANTITIES[quantity]
    return figures.curves(bands(table, quantity), "steps", label, names, own_log if log is None else log, legend)


def clipped_fraction(table: pd.DataFrame, seeds: pd.DataFrame, names: Sequence[str], legend: bool = False) -> Figure:
    """The fraction of entries that clipped rules clipped in their last step.

    Args:
        table: curves.parquet, of one task.
        seeds: seeds.csv.
    """
    known = curves.bands(curves.filled(table, seeds, "train_clipped_fraction"), "step")
    return figures.curves(known, "steps", "fraction of entries clipped", names, log=False, legend=legend)


@styled
def spectrum(table: pd.DataFrame, names: Sequence[str]) -> Figure:
    """A panel per optimizer: its eigenvalues in descending order, at a few moments, the later the darker."""
    tables = medians(table, "eigenvalue")
    last = max((int(part.columns.max()) for part in tables.values()), default=1)
    y = signed_scale([row for part in tables.values() for row in _of_moments(part)])
    figure, panels = _panels(
        tables, names, scale([0, last], pad=0.0, ticks=2), y, "rank", "eigenvalue", _shown_steps(tables)
    )
    for name, panel in panels.items():
        part = tables[name].reindex(columns=range(int(tables[name].columns.max()) + 1))
        few = len(tables[name].columns) < 40  # both ends of a spectrum: lines of so few points cannot be seen
        for alpha, step in _shades(part.index):
            _line(panel, names, name, part.columns, part.loc[step], alpha, marker="o" if few else "", markersize=2.2)
    return figure


@styled
def eigenvalues(table: pd.DataFrame, names: Sequence[str]) -> Figure:
    """A panel per optimizer: each eigenvalue along training; of many, some, both ends among them."""
    tables = medians(table, "eigenvalue")
    shown = {name: part.iloc[:, _some(part.shape[1])] for name, part in tables.items()}
    y = signed_scale([row for part in shown.values() for row in part.to_numpy(float)])
    figure, panels = _panels(tables, names, _steps(tables), y, "steps", "eigenvalues")
    for name, panel in panels.items():
        part, index = shown[name], index_of(name, names)
        lines = [np.column_stack([part.index, part[rank]]) for rank in part.columns]
        drawn = LineCollection(lines, colors=colour(index), linewidths=0.7, alpha=0.6, clip_on=False, zorder=3)
        belongs_to(drawn, index, name)
        panel.axes.add_collection(drawn, autolim=False)
    return figure


@styled
def density(table: pd.DataFrame, names: Sequence[str], seed: int | None = None) -> Figure:
    """A panel per optimizer: where one seed's eigenvalues lie at a few moments, the later the darker.

    Heights are shares of the eigenvalues per decade, to be read as areas.
    """
    known = densities(table, seed)
    groups: list[Any] = [(str(name), step, part) for (name, step), part in known.groupby(["optimizer", "step"])]
    tables = {name: pd.DataFrame(index=[step for n, step, _ in groups if n == name]) for name, _, _ in groups}
    lines = {(name, step): part.sort_values("x")[["x", "value"]].to_numpy(float) for name, step, part in groups
             if step in moments(tables[name].index)}  # fmt: skip
    x = signed_scale([line[line[:, 1] > 0, 0] for line in lines.values()], ticks=6)
    unit = x.threshold if isinstance(x, SignedScale) else 1.0
    shares = {key: line[:, 1] * np.hypot(line[:, 0], unit) * math.log(10) for key, line in lines.items()}
    largest = max((finite(share).max(initial=0.0) for share in shares.values()), default=1.0)
    floor = LOWEST_SHARE * (largest or 1.0)
    y = scale([floor, largest or 1.0], log=True, ticks=5)
    figure, panels = _panels(tables, names, x, y, "eigenvalue", "share per decade", _shown_steps(tables))
    for name, panel in panels.items():
        for alpha, step in _shades(tables[name].index):
            share = np.where(shares[name, step] > floor, shares[name, step], np.nan)
            _line(panel, names, name, lines[name, step][:, 0], share, alpha)
    return figure


@styled
def diagonal(table: pd.DataFrame, names: Sequence[str]) -> Figure:
    """A panel per optimizer: quantiles of the Hessian's diagonal along training, the median as a line.

    The bands hold the inner half of the entries, the inner nine tenths, and all.
    """
    tables = medians(table, "diagonal_quantile")
    y = signed_scale([row for part in tables.values() for row in part.to_numpy(float)])
    figure, panels = _panels(tables, names, _steps(tables), y, "steps", "entries of the diagonal")
    for name, panel in panels.items():
        part = tables[name]
        steps, quantiles = part.index.to_numpy(float), part.to_numpy(float)
        middle = quantiles.shape[1] // 2
        for inner in range(middle):
            _band(panel, names, name, steps, quantiles[:, inner], quantiles[:, -1 - inner])
        _line(panel, names, name, steps, quantiles[:, middle], 1.0)
    return figure


@styled
def positive_share(table: pd.DataFrame, names: Sequence[str]) -> Figure:
    """A panel per optimizer: the share of positive entries on the Hessian's diagonal along training."""
    known = bands(table, "positive_share")
    tables = {str(name): part.set_index("step") for name, part in known.groupby("optimizer")}
    y = Scale(-0.02, 1.03, False, [0.0, 0.5, 1.0], ["0 %", "50 %", "100 %"])
    figure, panels = _panels(tables, names, _steps(tables), y, "steps", "positive entries of the diagonal")
    for name, panel in panels.items():
        quartiles = tables[name]
        _band(
            panel,
            names,
            name,
            quartiles.index.to_numpy(float),
            quartiles["low"].to_numpy(float),
            quartiles["high"].to_numpy(float),
        )
        _line(panel, names, name, quartiles.index, quartiles["median"], 1.0)
    return figure


# Parts of them.


def _panels(
    tables: dict[str, Any], names: Sequence[str], x: Scale, y: Scale, x_label: str, y_label: str, note: str = ""
) -> tuple[Figure, dict[str, Panel]]:
    """A panel per optimizer that has a table, in the order of the names, all on the same axes."""
    shown = [name for name in names if name in tables]
    columns = min(max(len(shown), 1), MOST_COLUMNS) if len(shown) != 4 else 2
    rows = -(-max(len(shown), 1) // columns)
    left = 9 + max(map(text_width, y.labels), default=0)
    width = (WIDTH - left - 10 - GAP * (columns - 1)) / columns
    height = 20 + rows * (ABOVE + PANEL_HEIGHT + BELOW)
    figure, x = new_figure(WIDTH, height), _fitting(x, width)
    written = labels(shown, width)
    panels = {}
    for index in range(max(len(shown), 1)):
        row, column = divmod(index, columns)
        at = left + column * (width + GAP), height - 20 - (row + 1) * (ABOVE + PANEL_HEIGHT + BELOW) + BELOW
        panel = _panel(
            figure, (*at, width, PANEL_HEIGHT), x, y if column == 0 else replace(y, labels=[""] * len(y.ticks))
        )
        write_at(figure, at[0] + width / 2, at[1] - 26, x_label, ha="center")
        if shown:
            name = shown[index]
            panels[name] = panel
            hue = colour(index_of(name, names))
            text = write_at(figure, at[0], at[1] + PANEL_HEIGHT + 6, written[index], color=hue)
            belongs_to(text, index_of(name, names), name)
    write_at(figure, 5, height - 5, plain(y_label + (f" {note}" if note else "")), va="top")
    return figure, panels


def _panel(figure: Figure, rectangle: tuple[float, float, float, float], x: Scale, y: Scale) -> Panel:
    panel = new_panel(figure, rectangle, x, y)
    if isinstance(y, SignedScale) and y.low < 0 < y.high:
        panel.axes.axhline(0, color=INK, linewidth=0.7, alpha=0.5, zorder=1)
    return panel


def _fitting(x: Scale, width: float) -> Scale:
    """Without the ticks whose labels would run into those further out."""
    kept: list[tuple[float, str]] = []
    before = math.inf
    for tick, label in sorted(zip(x.ticks, x.labels, strict=True), reverse=True):
        at, half = width * float(x.share(tick)), text_width(label) / 2
        if at + half + 4 <= before:
            kept.insert(0, (tick, label))
            before = at - half
    return replace(x, ticks=[tick for tick, _ in kept], labels=[label for _, label in kept])


def _line(panel: Panel, names: Sequence[str], name: str, x: Any, y: Any, alpha: float, **how: Any) -> None:
    index = index_of(name, names)
    x, y = (drawable(np.asarray(values, float)) for values in (x, y))
    (drawn,) = panel.axes.plot(
        x, y, **{"color": colour(index), "linewidth": 1.4, "alpha": alpha, "clip_on": False, "zorder": 3, **how}
    )
    belongs_to(drawn, index, name)


def _band(panel: Panel, names: Sequence[str], name: str, x: Floats, low: Floats, high: Floats) -> None:
    index = index_of(name, names)
    corners = np.concatenate([np.column_stack([x, low]), np.column_stack([x, high])[::-1]])
    drawn = PolyCollection([corners[np.isfinite(corners).all(axis=1)]], facecolor=colour(index), linewidth=0,
                           alpha=0.17, clip_on=False, zorder=2)  # fmt: skip
    belongs_to(drawn, index, name)
    panel.axes.add_collection(drawn, autolim=False)


def _steps(tables: dict[str, pd.DataFrame]) -> Scale:
    return scale([step for part in tables.values() for step in part.index], pad=0.0, ticks=2)


def _some(count: int) -> list[int]:
    return [int(index) for index in np.unique(np.linspace(0, count - 1, min(count, MOST_LINES)).round())]


def _shades(steps: Any) -> list[tuple[float, int]]:
    chosen = moments(steps)
    return list(zip(np.linspace(1.0 if len(chosen) == 1 else 0.25, 1.0, len(chosen)).tolist(), chosen, strict=True))


def _of_moments(part: pd.DataFrame) -> Floats:
    return part.loc[moments(part.index)].to_numpy(float)


def _shown_steps(tables: dict[str, pd.DataFrame]) -> str:
    chosen = sorted({step for part in tables.values() for step in moments(part.index)})
    listed = ", ".join(str(step) for step in chosen)
    return f"after {listed} steps, light to dark" if 0 < len(chosen) <= MOMENTS else ""

"""Lines show what changes along a clock: training curves, the best trial so far, performance profiles.

Every function takes tables and returns a ``matplotlib.figure.Figure`` made without pyplot. ``names`` are all optimizers
of a report in their order: it gives each its colour in every figure. Lines, bands and labels of an optimizer bear its
name (``figure_parts.belongs_to``), so that a page can hide them together. With ``legend`` the names stand above the
axes, in full; without it they stand where the lines end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tuner.figures.canvas import (
    HEIGHT,
    WIDTH,
    Panel,
    belongs_to,
    colour,
    draw_at,
    line_style,
    new_figure,
    new_panel,
    spread,
    styled,
    write_at,
    write_below,
)
from tuner.figures.labels import FONT, SMALL, labels, plain, text_width
from tuner.figures.scales import LARGEST, Scale, drawable, finite, scale, tick_labels, wants_log

MOST_POINTS = 240  # of one line: more than a figure of this size can show
MOST_END_LABELS = 14
END_ROOM = 105.0  # points, of a name at the end of its line
ROW = 12.5  # points from one line of text to the next

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """What one optimizer's line shows; ``low`` and ``high`` bound its band."""

    name: str
    index: int
    x: Floats
    y: Floats
    low: Floats | None = None
    high: Floats | None = None

    def last(self) -> tuple[float, float] | None:
        """Where it ends."""
        known = np.flatnonzero(np.isfinite(self.x) & np.isfinite(self.y))
        return (float(self.x[known[-1]]), float(self.y[known[-1]])) if len(known) else None


@styled
def curves(
    bands: pd.DataFrame,
    clock_label: str,
    metric_label: str,
    names: Sequence[str],
    log: bool | None = None,
    legend: bool = False,
) -> Figure:
    """Median over seeds and a band around it, per optimizer.

    Args:
        bands: columns optimizer, x, median, low, high, in the order in which the lines run.
        log: of the metric's axis; None: where all medians are positive and they span a factor of 20.
    """
    lines = [
        Line(name, i, *(_column(rows, column) for column in ("x", "median", "low", "high")))
        for i, name, rows in _by_optimizer(bands, names)
    ]
    lines = [_thinned(line) for line in lines]
    log = wants_log(_joined(lines, "y")) if log is None else log
    lines = [_positive(line) for line in lines] if log else lines
    shown = np.concatenate([_joined(lines, "y"), _joined(lines, "low"), _joined(lines, "high")])
    return _figure(lines, _clock(lines), scale(shown, log), clock_label, metric_label, legend)


@styled
def best_so_far(
    table: pd.DataFrame, names: Sequence[str], metric_label: str, log: bool | None = None, legend: bool = False
) -> Figure:
    """The best value among the first n trials, per optimizer, as steps.

    Args:
        table: columns optimizer, n, value; NaN before the first trial that counts.
    """
    lines = [Line(name, i, _column(rows, "n"), _column(rows, "value")) for i, name, rows in _by_optimizer(table, names)]
    y = scale(_joined(lines, "y"), log)
    lines = [_positive(line) for line in lines] if y.log else lines
    return _figure(lines, _clock(lines), y, "trials", f"best {metric_label} so far", legend, steps=True)


@styled
def tuning(
    table: pd.DataFrame, names: Sequence[str], metric_label: str, log: bool | None = None, legend: bool = False
) -> Figure:
    """What each optimizer comes to with the best of n trials, with its band.

    Args:
        table: columns optimizer, n, value, low, high; an infinite end of a band is at the axes' edge, NaN is none.
    """
    found = _by_optimizer(table, names)
    lines = [Line(name, i, *(_column(rows, part) for part in ("n", "value", "low", "high"))) for i, name, rows in found]
    log = wants_log(_joined(lines, "y")) if log is None else log
    y = scale(np.concatenate([_joined(lines, part) for part in ("y", "low", "high")]), log)
    lines = [_positive(line) for line in lines] if y.log else lines
    bands = [[rows[end].to_numpy(float, na_value=np.nan).clip(y.low, y.high) for end in ("low", "high")]
             for _, _, rows in found]  # fmt: skip
    lines = [_thinned(replace(line, low=low, high=high)) for line, (low, high) in zip(lines, bands, strict=True)]
    return _figure(lines, _clock(lines), y, "trials", f"best {metric_label}", legend)


@styled
def profile(profile: pd.DataFrame, names: Sequence[str], legend: bool = False) -> Figure:
    """Share of tasks that each optimizer solved within a multiple of the fastest one's time.

    Args:
        profile: index tau (1 and more), one column per optimizer.
    """
    taus = drawable(profile.index)
    lines = [Line(name, i, taus, drawable(profile[name])) for i, name in enumerate(names) if name in profile.columns]
    x = scale(taus, log=len(taus) > 0 and wants_log(taus), pad=0.0)
    shares = [0.0, 0.25, 0.5, 0.75, 1.0]
    y = Scale(-0.02, 1.03, False, shares, [f"{100 * share:.0f} %" for share in shares])
    labels = "time, as a multiple of the fastest optimizer's", "tasks solved within it"
    return _figure(lines, x, y, *labels, legend, steps=True)


# Tables into lines.


def _by_optimizer(table: pd.DataFrame, names: Sequence[str]) -> list[tuple[int, str, pd.DataFrame]]:
    groups = {str(name): rows for name, rows in table.groupby("optimizer", sort=False)}
    return [(i, name, groups[name]) for i, name in enumerate(names) if name in groups]


def _column(table: pd.DataFrame, name: str) -> Floats:
    """Its values, with NaN for what cannot be drawn."""
    return drawable(table[name].to_numpy(float, na_value=np.nan))


def _joined(lines: Sequence[Line], part: str) -> Floats:
    parts = [getattr(line, part) for line in lines if getattr(line, part) is not None]
    return finite(np.concatenate(parts)) if parts else np.empty(0)


def _positive(line: Line) -> Line:
    """Only what a logarithmic axis can show."""
    y, low, high = (
        None if values is None else np.where(values > 1 / LARGEST, values, np.nan)
        for values in (line.y, line.low, line.high)
    )
    assert y is not None
    return replace(line, y=y, low=low, high=high)


def _thinned(line: Line) -> Line:
    """A long line by its first, last, least and largest value in each of as many stretches as can be told apart."""
    if len(line.x) <= MOST_POINTS:
        return line
    kept = {0, len(line.x) - 1}
    for stretch in np.array_split(np.arange(len(line.x)), MOST_POINTS // 2 - 1):
        known = stretch[np.isfinite(line.y[stretch])]
        if len(known):
            kept |= {int(known[np.argmin(line.y[known])]), int(known[np.argmax(line.y[known])])}
        else:
            kept.add(int(stretch[0]))
    rows = np.array(sorted(kept))
    x, y, low, high = (None if values is None else values[rows] for values in (line.x, line.y, line.low, line.high))
    assert x is not None and y is not None
    return replace(line, x=x, y=y, low=low, high=high)


def _clock(lines: Sequence[Line]) -> Scale:
    """The axis of what runs on: only whole ticks where it counts, as steps and trials do."""
    values = _joined(lines, "x")
    x = scale(values, pad=0.0)
    whole = [tick for tick in x.ticks if tick == round(tick)]
    counts = len(whole) > 1 and bool((values == np.round(values)).all())
    return replace(x, ticks=whole, labels=tick_labels(whole)) if counts else x


# Lines into a figure.


def _figure(
    lines: Sequence[Line], x: Scale, y: Scale, x_label: str, y_label: str, legend: bool, steps: bool = False
) -> Figure:
    labelled = [line for line in lines if line.last() is not None]
    at_ends = not legend and len(labelled) <= MOST_END_LABELS
    left = 9 + max((text_width(label) for label in y.labels), default=0)
    ends = max(map(text_width, _end_labels(labelled)), default=0) if at_ends else 0
    right = 25 + ends if ends else 14
    rows = _legend_rows(labelled, WIDTH - 16) if legend else []
    figure = new_figure(WIDTH, HEIGHT + ROW * len(rows))
    panel = new_panel(figure, (left, 33, WIDTH - left - right, HEIGHT - 33 - 22), x, y)
    write_at(figure, 5, HEIGHT - 5, plain(y_label), va="top")
    write_below(figure, left + panel.width / 2, 5, plain(x_label))
    for line in lines:
        _draw_band(panel, line)
        _draw_line(panel, line, steps)
    if at_ends:
        _label_ends(figure, panel, labelled)
    _draw_legend(figure, rows)
    return figure


def _draw_line(panel: Panel, line: Line, steps: bool) -> None:
    """A single evaluation is a dot: a line through one point cannot be seen."""
    alone = np.isfinite(line.y).sum() == 1
    (drawn,) = panel.axes.plot(
        line.x, line.y, **line_style(line.index), linewidth=1.6, marker="o" if alone else "", markersize=4,
        drawstyle="steps-post" if steps else "default", clip_on=False, zorder=3,
    )  # fmt: skip
    belongs_to(drawn, line.index, line.name)


def _draw_band(panel: Panel, line: Line) -> None:
    """One polygon for every stretch in which both bounds are known; none where they are the same."""
    if line.low is None or line.high is None:
        return
    known = np.isfinite(line.x) & np.isfinite(line.low) & np.isfinite(line.high)
    if not known.any() or np.array_equal(line.low[known], line.high[known]):
        return
    breaks = np.flatnonzero(np.diff(np.flatnonzero(known)) > 1) + 1
    polygons = []
    for rows in np.split(np.flatnonzero(known), breaks):
        above = np.column_stack([line.x[rows], line.high[rows]])
        below = np.column_stack([line.x[rows], line.low[rows]])
        polygons.append(np.concatenate([above, below[::-1]]))
    width = 3.0 if known.sum() == 1 else 0.0
    band = PolyCollection(polygons, facecolor=colour(line.index), edgecolor=colour(line.index), linewidth=width,
                          alpha=0.17, clip_on=False, zorder=2)  # fmt: skip
    belongs_to(band, line.index, line.name)
    panel.axes.add_collection(band, autolim=False)


def _end_labels(lines: Sequence[Line]) -> list[str]:
    return labels([line.name for line in lines], END_ROOM)


def _label_ends(figure: Figure, panel: Panel, lines: Sequence[Line]) -> None:
    """Each name beside the end of its line, with a stroke in the line's colour from one to the other."""
    ends = [panel.points(*line.last()) for line in lines if line.last() is not None]  # type: ignore[misc]
    top, right = panel.bottom + panel.height, panel.left + panel.width
    heights = spread([y for _, y in ends], FONT + 1.5, panel.bottom + 2, top)
    for line, label, (x, y), height in zip(lines, _end_labels(lines), ends, heights, strict=True):
        if right - x > 4:  # it ended before the others
            away = draw_at(figure, [(x, y), (right, y)], color=colour(line.index), linewidth=0.6, alpha=0.5)
            belongs_to(away, line.index, line.name)
        stroke = draw_at(figure, [(right + 2, y), (right + 12, height), (right + 18, height)],
                         **line_style(line.index), linewidth=1.2)  # fmt: skip
        belongs_to(stroke, line.index, line.name)
        text = write_at(figure, right + 21, height, label, va="center_baseline")
        belongs_to(text, line.index, line.name)


def _legend_rows(lines: Sequence[Line], width: float) -> list[list[tuple[Line, str, float]]]:
    """Lines row by row, each with its name as it is written and the place at which its entry begins."""
    rows: list[list[tuple[Line, str, float]]] = []
    at = width + 1
    for line, label in zip(lines, labels([line.name for line in lines], width - 24, SMALL), strict=True):
        needed = 24 + text_width(label, SMALL)
        if at + needed > width:
            rows.append([])
            at = 0.0
        rows[-1].append((line, label, at))
        at += needed + 12
    return rows


def _draw_legend(figure: Figure, rows: Sequence[Sequence[tuple[Line, str, float]]]) -> None:
    for row_index, row in enumerate(rows):
        height = HEIGHT + ROW * (len(rows) - row_index) - 10
        for line, label, at in row:
            key = draw_at(figure, [(6 + at, height), (24 + at, height)], **line_style(line.index), linewidth=1.6)
            text = write_at(figure, 28 + at, height, label, va="center_baseline", fontsize=SMALL)
            belongs_to(key, line.index, line.name)
            belongs_to(text, line.index, line.name)

"""Figures compare final results on one task: pairs of runs, differences to the baseline.

Values come as everywhere in the statistics: lower is better, metrics of which more is better negated. ``better`` says
which way the metric goes; figures show it with its own sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from numpy.typing import NDArray

from tuner.analysis.paired import differences as paired_differences
from tuner.analysis.stats import median
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
    write_below,
)
from tuner.figures.labels import SMALL, labels, plain, text_width
from tuner.figures.scales import Scale, drawable, finite, number, scale

Better = Literal["lower", "higher"]
ROW = 24.0  # points per optimizer
LINE = 8.5  # points from one line of a verdict to the next
NAME_ROOM = 110.0  # points


@styled
def slopes(
    values: pd.DataFrame, optimizer: str, baseline: str, metric_label: str, better: Better, names: Sequence[str]
) -> Figure:
    """One line per seed from the baseline's value to the optimizer's; seeds that only one of them has are left out.

    Seeds on which the optimizer wins are full lines in its colour, losses are dashed and hollow, ties dotted. Those on
    which one of them diverged have no line, but count.

    Args:
        values: columns optimizer, seed, value of one task; infinite where a run diverged.
    """
    both = values.pivot(index="seed", columns="optimizer", values="value")
    both = both.reindex(columns=[baseline, optimizer]).dropna()
    theirs, ours = both.to_numpy(float).T
    counts = _counts(paired_differences(ours, theirs))
    lost = {baseline: int(np.isinf(theirs).sum()), optimizer: int(np.isinf(ours).sum())}
    pairs = _own_sign(drawable(both), better)
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    gain = pairs[:, 1] - pairs[:, 0] if better == "higher" else pairs[:, 0] - pairs[:, 1]
    figure = new_figure(WIDTH, 223)
    y = scale(pairs, log=None if better == "lower" else False)
    left = 9 + max(map(text_width, y.labels), default=0)
    panel = new_panel(figure, (left, 33, WIDTH - left - 10, 150), Scale(-0.65, 1.65, False, [], []), y, base=False)
    kinds: tuple[tuple[Any, dict[str, Any]], ...] = (
        (gain == 0, {"color": INK, "linestyle": (0, (1, 1.5)), "markerfacecolor": INK}),
        (gain < 0, {"color": INK, "linestyle": (0, (4, 2)), "markerfacecolor": "none"}),
        (gain > 0, {"color": colour(index_of(optimizer, names)), "linestyle": "solid"}),
    )
    for which, how in kinds:
        if which.any():
            x, heights = _broken(pairs[which])
            panel.axes.plot(x, heights, linewidth=1.0, marker="o", markersize=3.6, clip_on=False, alpha=0.8, **how)
    _middles(panel, figure, _own_sign(both.to_numpy(float), better), "median" if any(lost.values()) else "mean")
    _column_names(panel, figure, [baseline, optimizer])
    write_at(figure, 5, 218, plain(metric_label), va="top")
    counts += "".join(f"; {plain(name, 24)}: {count} diverged" for name, count in lost.items() if count)
    write_at(figure, left + panel.width / 2, 200, counts, ha="center", va="top", fontsize=SMALL)
    return figure


def _own_sign(values: NDArray[np.float64], better: Better) -> NDArray[np.float64]:
    return -values + 0.0 if better == "higher" else values


def _counts(d: NDArray[np.float64]) -> str:
    """Of differences of which less is better."""
    if not len(d):
        return "no pairs"
    wins, ties, losses = int((d < 0).sum()), int((d == 0).sum()), int((d > 0).sum())
    return f"{_count(wins, 'win')}, {_count(ties, 'tie')}, {_count(losses, 'loss')}"


def _count(n: int, what: str) -> str:
    plural = "losses" if what == "loss" else what + "s"
    return f"{n} {what if n == 1 else plural}"


def _broken(pairs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The pairs as one line with gaps."""
    gaps = np.full(len(pairs), np.nan)
    return np.tile([0.0, 1.0, np.nan], len(pairs)), np.column_stack([pairs, gaps]).ravel()


def _middles(panel: Panel, figure: Figure, pairs: NDArray[np.float64], which: Literal["mean", "median"]) -> None:
    """A heavy stroke outside each column at its mean or median, with the number; none where half of it diverged."""
    middles = [float(column.mean()) if which == "mean" else median(column) for column in pairs.T] if len(pairs) else []
    for middle, (inner, outer), side in zip(middles, ((-0.08, -0.2), (1.08, 1.2)), ("right", "left"), strict=False):
        if not np.isfinite(drawable(middle)):
            continue
        ends = panel.points([inner, outer], [middle, middle])
        draw_at(figure, ends, color=INK, linewidth=2.4)
        x, y = ends[1]
        write_at(
            figure, x + (4 if side == "left" else -4), y, number(middle), ha=side, va="center_baseline", fontsize=SMALL
        )


def _column_names(panel: Panel, figure: Figure, names: Sequence[str]) -> None:
    for index, label in enumerate(labels(names, panel.width * 0.42)):
        x = panel.left + panel.width * float(panel.x.share(index))
        write_at(figure, x, 16, label, ha="center", va="baseline")


@styled
def differences(
    contrasts: pd.DataFrame,
    points: pd.DataFrame,
    baseline: str,
    names: Sequence[str],
    metric_label: str,
    better: Better,
) -> Figure:
    """Per optimizer the mean difference to the baseline with its interval, and the difference on every seed.

    Args:
        contrasts: columns optimizer, difference, low, high, and, where they are to be shown, verdict, and margin,
            within which differences to both sides do not matter; lower is better. Differences may be infinite medians.
        points: columns optimizer, seed, difference.
    """
    table = contrasts[contrasts["optimizer"].isin(list(names))]
    rows = [(str(row["optimizer"]), row) for _, row in table.iterrows()]
    sign = -1.0 if better == "higher" else 1.0
    shown = [points.loc[points["optimizer"].isin([name for name, _ in rows]), "difference"].to_numpy(float)]
    shown += [table[column].to_numpy(float) for column in ("difference", "low", "high")]
    x = scale(np.append(sign * finite(np.concatenate(shown)), 0.0), ticks=4)
    written = labels([name for name, _ in rows], NAME_ROOM)
    verdicts = [_lines(str(row.get("verdict", ""))) for _, row in rows]
    margins = [float(row.get("margin", np.nan)) for _, row in rows]
    left = 12 + max(map(text_width, written), default=0)
    right = 12 + max((text_width(line, SMALL) for lines in verdicts for line in lines), default=0)
    height = 33 + ROW * max(len(rows), 1) + 20
    figure = new_figure(WIDTH, height)
    y = Scale(-0.5, max(len(rows), 1) - 0.5, False, [], [])
    panel = new_panel(figure, (left, 33, WIDTH - left - right, height - 53), x, y)
    _equivalence(panel, margins)
    panel.axes.axvline(0, color=INK, linewidth=0.8, alpha=0.7, zorder=1)
    for index, (name, row) in enumerate(rows):
        by_seed = sign * finite(points.loc[points["optimizer"] == name, "difference"])
        _row(panel, index_of(name, names), name, len(rows) - 1 - index, by_seed, sign * _interval(row))
        middle = float(panel.points(x.low, len(rows) - 1 - index)[1])
        label_text = write_at(figure, left - 7, middle, written[index], ha="right", va="center_baseline")
        belongs_to(label_text, index_of(name, names), name)
        for line, text in enumerate(verdicts[index]):
            below = LINE * (line - (len(verdicts[index]) - 1) / 2)
            part = write_at(figure, WIDTH - right + 6, middle - below, text, va="center_baseline", fontsize=SMALL)
            belongs_to(part, index_of(name, names), name)
    _directions(figure, panel, better)
    sizes = list(dict.fromkeys(number(margin, 3) for margin in margins if margin > 0))
    shaded = f" (shaded: {'±' + sizes[0] if len(sizes) == 1 else 'the margins'})" if sizes else ""
    said_below = plain(f"{metric_label}, difference to {baseline}", 60 - len(shaded)) + shaded
    write_below(figure, left + panel.width / 2, 5, said_below)
    return figure


def _interval(row: pd.Series) -> NDArray[np.float64]:
    return drawable([row["low"], row["difference"], row["high"]])


def _lines(verdict: str) -> list[str]:
    """What qualifies it stands below it."""
    word, bracket, undeclared = verdict.partition(" (")
    return [*word.split(", "), *([f"({undeclared}"] if bracket else [])]


def _equivalence(panel: Panel, margins: Sequence[float]) -> None:
    """A band per row, from the first one downwards."""
    for index, margin in enumerate(margins):
        if margin > 0:
            low, high, row = max(-margin, panel.x.low), min(margin, panel.x.high), len(margins) - 1 - index
            corners = [(low, row - 0.5), (high, row - 0.5), (high, row + 0.5), (low, row + 0.5)]
            panel.axes.add_patch(Polygon(corners, facecolor=INK, edgecolor="none", alpha=0.09, zorder=0))


def _row(
    panel: Panel, index: int, name: str, height: float, seeds: NDArray[np.float64], interval: NDArray[np.float64]
) -> None:
    """Seeds as small strokes below the interval; the mean as a dot on it."""
    ticks = [[(value, height - 0.32), (value, height - 0.14)] for value in seeds]
    faint = LineCollection(ticks, colors=colour(index), linewidths=1.0, alpha=0.55, clip_on=False, zorder=2)
    low, mean, high = interval
    bar = LineCollection([[(low, height), (high, height)]] if np.isfinite([low, high]).all() else [],
                         colors=colour(index), linewidths=2.0, clip_on=False, zorder=3)  # fmt: skip
    dot = panel.axes.scatter([mean] if np.isfinite(mean) else [], [height] if np.isfinite(mean) else [], s=30,
                             color=colour(index), clip_on=False, zorder=4)  # fmt: skip
    panel.axes.add_collection(faint, autolim=False)
    panel.axes.add_collection(bar, autolim=False)
    parts: list[Artist] = [faint, bar, dot]
    for part in parts:
        belongs_to(part, index, name)


def _directions(figure: Figure, panel: Panel, better: Better) -> None:
    """On which side of zero an optimizer is better, written above that side."""
    zero = float(panel.points(0.0, 0.0)[0])
    top = panel.bottom + panel.height + 5
    sides = {"lower": ("← better", "worse →"), "higher": ("← worse", "better →")}[better]
    if zero - panel.left > 45:
        write_at(figure, zero - 6, top, sides[0], ha="right", fontsize=SMALL)
    if panel.left + panel.width - zero > 45:
        write_at(figure, zero + 6, top, sides[1], fontsize=SMALL)

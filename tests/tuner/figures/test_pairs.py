"""Slopes, differences, critical differences, ranks: what the artists hold is what the tables say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tests.support.figure_tables import NAMES, ODD_NAMES, bands, marked, pairs, places, texts
from tuner.figures import svg
from tuner.figures.lines import curves
from tuner.figures.pairs import differences, slopes
from tuner.figures.ranks import critical_difference, rank_heatmap

PAIRS = pairs({"adam": [0.5, 0.6, 0.7, 0.8], "sgd": [0.4, 0.6, 0.75, 0.6], "other": [9, 9, 9, 9]})


def segments(figure: Figure) -> dict[str, set[tuple[float, float]]]:
    """(baseline, optimizer) of every line, by the dashes of its kind."""
    found = {}
    for line in figure.axes[0].lines:
        y = np.asarray(line.get_ydata(), float).reshape(-1, 3)
        found["-" if line.get_linestyle() == "-" else str(line._dash_pattern)] = {(a, b) for a, b, _ in y}
    return found


def test_slopes_tell_wins_from_losses_and_ties() -> None:
    figure = slopes(PAIRS, "sgd", "adam", "val_loss", "lower", NAMES)
    wins, losses, ties = {(0.5, 0.4), (0.8, 0.6)}, {(0.7, 0.75)}, {(0.6, 0.6)}
    assert segments(figure)["-"] == wins
    assert set(map(frozenset, segments(figure).values())) == {frozenset(wins), frozenset(losses), frozenset(ties)}
    assert "2 wins, 1 tie, 1 loss" in texts(figure)
    (won,) = [line for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    shown = curves(bands([2, 1]), "steps", "m", NAMES).axes[0].lines
    assert to_hex(won.get_color()) in {to_hex(line.get_color()) for line in shown if line.get_label() == "sgd"}


def test_slopes_of_what_should_be_high_have_its_sign() -> None:
    accuracies = PAIRS.assign(value=-PAIRS["value"])  # as the statistics take them
    figure = slopes(accuracies, "sgd", "adam", "val_acc", "higher", NAMES)
    assert segments(figure)["-"] == {(0.7, 0.75)}
    assert "1 win, 1 tie, 2 losses" in texts(figure)
    assert {"0.65", "0.5875"} <= set(texts(figure))  # the means


def test_slopes_need_both_of_a_pair() -> None:
    missing = PAIRS[~((PAIRS["optimizer"] == "sgd") & (PAIRS["seed"] == 0))]
    assert "1 win, 1 tie, 1 loss" in texts(slopes(missing, "sgd", "adam", "val_loss", "lower", NAMES))
    assert "no pairs" in texts(slopes(PAIRS, "nobody", "adam", "val_loss", "lower", NAMES))


CONTRASTS = pd.DataFrame({
    "optimizer": ["sgd", "diag_hessian"], "difference": [0.02, -0.05], "low": [-0.01, -0.08], "high": [0.05, -0.02],
    "verdict": ["inconclusive", "better"], "margin": [0.01, 0.01],
})  # fmt: skip
POINTS = pd.DataFrame({
    "optimizer": ["sgd"] * 3 + ["diag_hessian"] * 2, "seed": [0, 1, 2, 0, 1],
    "difference": [0.0, 0.01, 0.05, -0.1, 0.0],
})  # fmt: skip


def row(figure: Figure, index: int) -> dict[str, Any]:
    parts = marked(figure, index)
    strokes, bar = (part.get_segments() for part in parts if isinstance(part, LineCollection))
    (dot,) = [part.get_offsets() for part in parts if isinstance(part, PathCollection)]
    return {"seeds": sorted(s[0][0] for s in strokes), "interval": sorted(bar[0][:, 0]), "mean": dot[0][0],
            "height": dot[0][1]}  # fmt: skip


@pytest.mark.parametrize(("better", "sign"), [("lower", 1), ("higher", -1)])
def test_differences_show_mean_interval_and_seeds(better: Any, sign: int) -> None:
    figure = differences(CONTRASTS, POINTS, "adam", NAMES, "val_loss", better)
    for index, contrast in zip((1, 2), CONTRASTS.itertuples(), strict=True):
        shown = row(figure, index)
        assert shown["mean"] == sign * contrast.difference
        assert shown["interval"] == sorted([sign * contrast.low, sign * contrast.high])
        own = POINTS.loc[POINTS["optimizer"] == contrast.optimizer, "difference"]
        assert shown["seeds"] == sorted(sign * own)
    assert row(figure, 1)["height"] > row(figure, 2)["height"]
    assert {"sgd", "inconclusive", "better", "val_loss, difference to adam (shaded: ±0.01)"} <= set(texts(figure))


@pytest.mark.parametrize(("better", "left"), [("lower", "← better"), ("higher", "← worse")])
def test_differences_say_which_side_is_better(better: Any, left: str) -> None:
    figure = differences(CONTRASTS, POINTS, "adam", NAMES, "m", better)
    at = places(figure)
    other = "worse →" if better == "lower" else "better →"
    axes = figure.axes[0]
    zero = axes.get_position().x0 + axes.get_position().width * (0 - axes.get_xlim()[0]) / np.diff(axes.get_xlim())[0]
    assert at[left][0] < zero * 331 < at[other][0]


def test_the_margin_is_a_band_around_zero() -> None:
    own = CONTRASTS.assign(margin=[0.01, 0.02])
    bands = differences(own, POINTS, "adam", NAMES, "m", "lower").axes[0].patches
    corners = [band.get_path().vertices for band in bands]
    assert [(min(x), max(x)) for x, _ in (each.T for each in corners)] == [(-0.01, 0.01), (-0.02, 0.02)]
    assert [(min(y), max(y)) for _, y in (each.T for each in corners)] == [(0.5, 1.5), (-0.5, 0.5)]
    assert "m, difference to adam (shaded: the margins)" in texts(differences(own, POINTS, "adam", NAMES, "m", "lower"))
    for none in (CONTRASTS.assign(margin=np.nan), CONTRASTS.drop(columns="margin")):
        assert not differences(none, POINTS, "adam", NAMES, "m", "lower").axes[0].patches


def test_what_qualifies_a_verdict_stands_below_it() -> None:
    words = ["worse, by less than matters (not declared)", "better"]
    figure = differences(CONTRASTS.assign(verdict=words), POINTS, "adam", NAMES, "m", "lower")
    at = places(figure)
    lines = [at["worse"], at["by less than matters"], at["(not declared)"]]
    assert [x for x, _ in lines] == [at["better"][0]] * 3
    assert [y for _, y in lines] == sorted((y for _, y in lines), reverse=True)


def test_pairs_of_which_one_diverged_count_and_have_no_line() -> None:
    table = pairs({"adam": [0.5, 0.6, 0.7, np.inf], "sgd": [0.4, np.inf, 0.75, np.inf]})
    figure = slopes(table, "sgd", "adam", "val_loss", "lower", NAMES)
    assert "1 win, 1 tie, 2 losses; adam: 1 diverged; sgd: 2 diverged" in texts(figure)
    assert set().union(*segments(figure).values()) == {(0.5, 0.4), (0.7, 0.75)}
    assert "0.65" in texts(figure)  # adam's median; half of sgd's runs diverged
    assert not {"0.6", "0.575"} & set(texts(figure)[-6:])


ALIKE = [f"a_rather_long_optimizer_name@run-{n}" for n in range(4)]


def test_names_that_begin_alike_are_told_apart() -> None:
    table = pairs({name: [1.0, 2.0] for name in ALIKE})
    contrasts = pd.DataFrame({"optimizer": ALIKE, "difference": 0.1, "low": 0.0, "high": 0.3})
    ranks = pd.DataFrame(np.ones((4, 4)), columns=ALIKE, index=ALIKE)
    for figure, count in (
        (slopes(table, ALIKE[1], ALIKE[0], "m", "lower", ALIKE), 2),
        (differences(contrasts, POINTS, "adam", ALIKE, "m", "lower"), 4),
        (critical_difference(pd.Series([1.0, 2, 3, 4], index=ALIKE), [], None, ALIKE), 4),
        (rank_heatmap(ranks), 4),
    ):
        shown = [text.get_text() for text in figure.texts if text.get_text().startswith("a_")]
        assert {label[-1] for label in shown} == set("0123"[:count]) and len(set(shown)) == count
        assert all("…" in label for label in shown)


RANKS = pd.Series({"sgd": 3.5, "adam": 1.5, "diag_hessian": 2.0, "x": 3.0})


def test_elbows_begin_at_the_ranks() -> None:
    names = list(RANKS.index)
    figure = critical_difference(RANKS, [["adam", "diag_hessian"], ["diag_hessian", "x"], ["sgd"]], 0.0123, names)
    at = places(figure)
    one, step = at["1"][0], at["2"][0] - at["1"][0]
    for index, (name, rank) in enumerate(RANKS.items()):
        (line,) = [part for part in marked(figure, index) if hasattr(part, "get_xdata")]
        assert line.get_xdata()[0] == pytest.approx(one + step * (rank - 1))
        assert {name, f"{rank:.2f}"} <= set(texts(figure))
    bars = [line.get_xdata() for line in figure.findobj(Line2D) if line.get_linewidth() > 3]
    expected = [(1.5, 2.0), (2.0, 3.0)]
    for bar, (low, high) in zip(bars, expected, strict=True):
        assert bar == pytest.approx([one + step * (low - 1) - 3, one + step * (high - 1) + 3])
    assert any("Friedman p = 0.012" in text for text in texts(figure))


def test_names_never_stand_on_each_other() -> None:
    ranks = pd.Series({f"name_{'x' * 30}_{i}": 4 + i / 10 for i in range(12)})
    figure = critical_difference(ranks, [], None, list(ranks.index))
    at = np.array([text.get_position() for text in figure.texts if text.get_text().startswith("name_")])
    for side in np.unique(at[:, 0]):
        assert np.diff(np.sort(at[at[:, 0] == side, 1])).min() >= 12
    tops = [line.get_xdata()[0] for i in range(12) for line in marked(figure, i) if hasattr(line, "get_xdata")]
    assert min(tops) > 0 and max(tops) < 331


def test_ranks_as_a_table() -> None:
    ranks = pd.DataFrame({"adam": [1.5, 3.0], "sgd": [1.5, np.nan], "diag_hessian": [3.0, 1.0]}, index=["t1", "t2"])
    figure = rank_heatmap(ranks)
    shown = [text for text in figure.texts if text.get_text() in ("1", "1.5", "3", "–")]
    assert [text.get_text() for text in shown] == ["1.5", "1.5", "3", "3", "–", "1"]
    assert [text.get_weight() == "bold" for text in shown] == [True, True, False, False, False, True]
    at = {text: (round(x), round(y)) for text, (x, y) in places(figure).items()}
    assert at["t1"][1] > at["t2"][1] and at["adam"][0] < at["sgd"][0] < at["diag_hessian"][0]
    (cells,) = figure.axes[0].collections
    assert isinstance(cells, PolyCollection)
    depths = [to_rgba(face)[3] for face in cells.get_facecolor()]
    assert len(depths) == 5  # none where there is no rank
    assert depths[4] > depths[0] == depths[1] > depths[2] == depths[3]


@pytest.mark.parametrize("values", [[np.nan], [np.inf, 1], [0, 0], [-1e12, 1e-12], [1e300, 1]])
def test_odd_values(values: Sequence[float]) -> None:
    table = pairs({"adam": values, "sgd": list(reversed(values))})
    svg.inline(slopes(table, "sgd", "adam", "m", "lower", NAMES), "slopes")
    contrasts = CONTRASTS.assign(difference=values[0], low=values[-1], high=values[0], margin=1e9)
    points = POINTS.assign(difference=values[0])
    svg.inline(differences(contrasts, points, "adam", NAMES, "m", "higher"), "differences")
    svg.inline(differences(contrasts[:0], points[:0], "adam", NAMES, "m", "lower"), "differences")


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_odd_names_and_numbers_of_optimizers(count: int) -> None:
    names = ODD_NAMES[:count]
    ranks = pd.Series(np.arange(1.0, count + 1), index=names, dtype=float)
    for mean in (ranks, ranks * 0 + 2, ranks * np.nan):
        svg.inline(critical_difference(mean, [names], np.nan, names), "cd")
    svg.inline(rank_heatmap(pd.DataFrame(np.ones((2, count)), columns=names, index=ODD_NAMES[:2])), "ranks")
    svg.inline(rank_heatmap(pd.DataFrame(np.full((2, count), np.nan), columns=names)), "ranks")
    table = pairs({name: [1.0, 2.0] for name in names})
    for name in names:
        svg.inline(slopes(table, name, names[0], "$m$", "lower", names), "slopes")
    contrasts = pd.DataFrame({"optimizer": names, "difference": 0.1, "low": 0.0, "high": 0.3, "margin": 0.1})
    figure = differences(contrasts, POINTS, "x" * 40, names, "m", "lower")
    svg.inline(figure, "differences")

"""Curves, the best trial so far and profiles: what the artists hold is what the tables say."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tests.support.figure_tables import NAMES, ODD_NAMES, bands, marked, places, texts
from tuner.figures import svg
from tuner.figures.labels import text_width
from tuner.figures.lines import best_so_far, curves, profile, tuning

VALUES = [2.0, 1.0, 0.7, 0.6]


def curve(figure: Figure, index: int) -> Line2D:
    (line,) = [line for line in figure.axes[0].lines if line.get_gid() == f"series-{index}"]
    return line


def test_curves_show_medians_and_bands() -> None:
    table = bands(VALUES)
    figure = curves(table, "steps", "val_loss", NAMES)
    for index, name in enumerate(NAMES):
        own = table[table["optimizer"] == name]
        np.testing.assert_array_equal(curve(figure, index).get_xydata(), own[["x", "median"]])
        assert curve(figure, index).get_label() == name
        (band,) = [part for part in marked(figure, index) if isinstance(part, PolyCollection)]
        corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
        assert corners == {*zip(own["x"], own["low"], strict=True), *zip(own["x"], own["high"], strict=True)}
    assert {"steps", "val_loss", *NAMES} <= set(texts(figure))


def test_an_optimizer_has_its_colour_whoever_is_with_it() -> None:
    table = bands(VALUES)
    alone = curves(table[table["optimizer"] == "sgd"], "steps", "val_loss", NAMES)
    together = curves(table, "steps", "val_loss", NAMES)
    assert to_hex(curve(alone, 1).get_color()) == to_hex(curve(together, 1).get_color())
    assert len({to_hex(curve(together, i).get_color()) for i in range(3)}) == 3
    trials = pd.DataFrame({"optimizer": "sgd", "n": [1, 2], "value": [2.0, 1.0]})
    assert curve(best_so_far(trials, NAMES, "val_loss"), 1).get_color() == curve(alone, 1).get_color()


def test_names_stand_beside_the_ends_in_their_order() -> None:
    last = {"adam": 0.3, "sgd": 0.9, "diag_hessian": 0.31}
    table = pd.concat([bands([2.0, value], [name]) for name, value in last.items()])
    at = places(curves(table, "steps", "val_loss", NAMES))
    heights = [at[name][1] for name in ("adam", "diag_hessian", "sgd")]
    assert np.diff(heights).min() >= 10
    assert len({at[name][0] for name in last}) == 1


def test_all_that_is_of_an_optimizer_is_marked() -> None:
    figure = curves(bands(VALUES), "steps", "val_loss", NAMES)
    kinds = sorted(type(part).__name__ for part in marked(figure, 2))
    assert kinds == ["Line2D", "Line2D", "PolyCollection", "Text"]  # its line, the stroke to its name, band, name


@pytest.mark.parametrize("legend", [False, True])
def test_names_that_begin_alike_are_told_apart(legend: bool) -> None:
    names = [f"a_rather_long_optimizer_with_{middle}@run-{n}" for middle in ("x" * 9, "y" * 40) for n in (1, 2)]
    figure = curves(bands(VALUES, names), "steps", "val_loss", names, legend=legend)
    shown = {text.get_text(): text for text in figure.texts if text.get_gid()}
    assert len(shown) == len(names)
    assert all(label[0] == "a" and label.endswith(str(text.get_label())[-4:]) for label, text in shown.items())
    assert all(text.get_position()[0] + text_width(label, text.get_fontsize()) < 331 for label, text in shown.items())


def test_a_legend_has_full_names_and_leaves_the_axes_as_they_are() -> None:
    names = [*NAMES, "x" * 40]
    plain, with_legend = (curves(bands(VALUES, names), "steps", "val_loss", names, legend=on) for on in (False, True))
    assert set(names) <= set(texts(with_legend)) and "x" * 40 not in texts(plain)
    heights = [f.axes[0].get_position().height * f.get_size_inches()[1] for f in (plain, with_legend)]
    assert heights[0] == pytest.approx(heights[1])


@pytest.mark.parametrize(
    ("values", "asked", "expected"),
    [([100, 1], None, "log"), ([2, 1], None, "linear"), ([-1, 100], None, "linear"), ([100, 1], False, "linear"),
     ([2, 1], True, "log"), ([-2, -1], True, "linear"), ([np.nan, np.inf], None, "linear")],
)  # fmt: skip
def test_the_scale(values: Sequence[float], asked: bool | None, expected: str) -> None:
    assert curves(bands(values, ["adam"]), "steps", "m", NAMES, log=asked).axes[0].get_yscale() == expected


def test_one_evaluation_is_a_dot_and_one_seed_has_no_band() -> None:
    table = bands([1.0], ["adam"]).assign(low=1.0, high=1.0)
    figure = curves(table, "steps", "val_loss", NAMES)
    assert curve(figure, 0).get_marker() == "o"
    assert not figure.axes[0].collections
    assert curve(curves(bands(VALUES), "steps", "val_loss", NAMES), 0).get_marker() == ""


def test_gaps_stay_gaps() -> None:
    figure = curves(bands([4, 3, np.inf, 2, 1], ["adam"]), "steps", "m", NAMES)
    np.testing.assert_array_equal(curve(figure, 0).get_ydata(), [4, 3, np.nan, 2, 1])
    (band,) = figure.axes[0].collections
    spans = [(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in band.get_paths()]
    assert spans == [(0, 10), (30, 40)]


def test_long_curves_keep_their_ends_and_extremes() -> None:
    values = np.full(5000, 0.5)
    values[[0, 1234, 3210, 4999]] = 0.7, 0.9, 0.1, 0.6
    shown = curve(curves(bands(values, ["adam"]), "steps", "m", NAMES), 0)
    assert len(shown.get_xdata()) <= 240
    points = {tuple(point) for point in shown.get_xydata()}
    assert {(0.0, 0.7), (12340.0, 0.9), (32100.0, 0.1), (49990.0, 0.6)} <= points


def test_all_that_is_shown_lies_in_the_axes() -> None:
    table = bands([50.0, 3.0, 0.01, 0.02]).assign(low=lambda t: t["median"] / 3, high=lambda t: t["median"] * 3)
    axes = curves(table, "steps", "m", NAMES).axes[0]
    low, high = axes.get_ylim()
    assert low <= table["low"].min() and table["high"].max() <= high
    assert axes.get_xlim() == (0, 30)


def test_whole_clocks_have_whole_ticks() -> None:
    figure = curves(bands(VALUES, x=[0, 1, 2, 3]), "steps", "m", NAMES)
    assert [tick for tick in figure.axes[0].get_xticks() if tick % 1] == []


def test_the_best_so_far_goes_down_in_steps() -> None:
    values = [np.nan, 3.0, 3.0, 1.0]
    table = pd.DataFrame({"optimizer": "sgd", "n": [1, 2, 3, 4], "value": values})
    line = curve(best_so_far(table, NAMES, "val_loss"), 1)
    assert line.get_drawstyle() == "steps-post"
    np.testing.assert_array_equal(line.get_ydata(), values)
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4])


def test_a_band_without_a_bound_reaches_the_edge() -> None:
    table = pd.DataFrame({"optimizer": "sgd", "n": [1, 2, 3], "value": [np.inf, 2.0, 1.5],
                          "low": [1.0, 0.5, -np.inf], "high": [np.inf, 3.0, 2.0]})  # fmt: skip
    figure = tuning(table, NAMES, "val_loss")
    low, high = figure.axes[0].get_ylim()
    assert low < 0.5 and high > 3
    np.testing.assert_array_equal(curve(figure, 1).get_xydata(), [(1, np.nan), (2, 2), (3, 1.5)])
    (band,) = [part for part in marked(figure, 1) if isinstance(part, PolyCollection)]
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
    assert corners == {(1, 1), (2, 0.5), (3, low), (1, high), (2, 3), (3, 2)}
    assert {"trials", "best val_loss", "sgd"} <= set(texts(figure))


def test_a_band_below_zero_reaches_the_edge_of_a_logarithmic_axis() -> None:
    table = pd.DataFrame(
        {"optimizer": "sgd", "n": [1, 2], "value": [100.0, 1.0], "low": [-20.0, 0.5], "high": [300.0, 2]}
    )
    figure = tuning(table, NAMES, "val_loss")
    assert figure.axes[0].get_yscale() == "log"
    (band,) = [part for part in marked(figure, 1) if isinstance(part, PolyCollection)]
    assert (1, figure.axes[0].get_ylim()[0]) in {tuple(corner) for corner in band.get_paths()[0].vertices}


def test_of_one_study_there_is_a_curve_without_a_band() -> None:
    table = pd.DataFrame({"optimizer": "sgd", "n": [1, 2], "value": [2.0, 1.0], "low": np.nan, "high": np.nan})
    assert not tuning(table, NAMES, "val_loss").axes[0].collections


def test_a_profile_shows_shares() -> None:
    table = pd.DataFrame({"sgd": [0.0, 0.5, 1.0], "adam": [1.0, 1.0, 1.0]}, index=[1.0, 2.0, 4.0])
    figure = profile(table, NAMES)
    np.testing.assert_array_equal(curve(figure, 0).get_ydata(), [1, 1, 1])
    np.testing.assert_array_equal(curve(figure, 1).get_xydata(), [(1, 0), (2, 0.5), (4, 1)])
    assert marked(figure, 2) == []
    assert {"0 %", "50 %", "100 %"} <= set(texts(figure))


@pytest.mark.parametrize("legend", [False, True])
@pytest.mark.parametrize(
    "values",
    [[], [1.0], [np.nan], [-np.inf, np.inf], [np.nan, 1, np.nan, 2], [-1, -2], [0, 0], [5, 5, 5], [1e-12, 1e12],
     [1e12, 1e12 + 1], [1e300, 1e-300], [1e308, -1e308]],
)  # fmt: skip
def test_odd_values(values: Sequence[float], legend: bool) -> None:
    with np.errstate(over="ignore"):
        table = bands(values, ["adam", "sgd"])
    for log in (None, True):
        svg.inline(curves(table, "steps", "m", NAMES, log=log, legend=legend), "curves")
        by_trials = table.rename(columns={"x": "n", "median": "value"})
        svg.inline(tuning(by_trials, NAMES, "m", log=log, legend=legend), "tuning")


@pytest.mark.parametrize("count", [1, 12, 25])
def test_odd_names_and_many(count: int) -> None:
    names = (ODD_NAMES + [f"name_{i}" for i in range(25)])[:count]
    figure = curves(bands(VALUES, names), names[0], "$m_1$ <&>", names)
    svg.inline(figure, "curves")
    assert len({(curve(figure, i).get_color(), str(curve(figure, i)._dash_pattern)) for i in range(count)}) == count
    assert "$m_1$ <&>" in texts(figure)


@pytest.mark.parametrize("style", ["dark_background", "seaborn-v0_8-talk", "ggplot", "bmh"])
def test_the_style_of_a_notebook_does_not_matter(style: str) -> None:
    before = svg.inline(curves(bands(VALUES), "steps", "m", NAMES), "curves")
    with mpl.style.context(style):
        assert svg.inline(curves(bands(VALUES), "steps", "m", NAMES), "curves") == before

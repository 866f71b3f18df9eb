"""Figures of the curvature: what the artists hold is what the tables say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from tests.support.figure_tables import NAMES, ODD_NAMES, texts
from tuner.figures import svg
from tuner.figures.canvas import colour
from tuner.figures.curvature import (
    along,
    clipped_fraction,
    density,
    diagonal,
    eigenvalues,
    positive_share,
    spectrum,
)
from tuner.figures.curvature_tables import densities, moments, smoothed
from tuner.figures.scales import signed_scale

STEPS = [0, 10, 20, 30, 40, 50]
QUANTILES = [-2.0, -1.0, 0.5, 1.0, 4.0, 50.0, 800.0]
PANELS = (spectrum, eigenvalues, density, diagonal, positive_share)

Rows = list[tuple[str, int, int, str, int, float, float]]


def table(rows: Rows) -> pd.DataFrame:
    """As the store reads it."""
    found = pd.DataFrame(rows, columns=["optimizer", "seed", "step", "quantity", "index", "value", "x"])
    found = found.assign(task="t", epoch=0.0)
    types: Any = {"task": "string", "optimizer": "string", "quantity": "string", "seed": "Int64", "step": "Int64",
                  "index": "Int64", "value": "float64", "x": "float64"}  # fmt: skip
    return found.astype(types)


def made(names: Sequence[str] = NAMES[:2], values: Sequence[float] = (100.0, 1.0, 0.0, -1.0)) -> pd.DataFrame:
    """Three seeds, of which the second is the median; eigenvalues grow from step to step and from name to name."""
    rows: Rows = []
    for place, name in enumerate(names):
        for seed, factor in enumerate((0.5, 1.0, 7.0)):
            for step in STEPS:
                size = factor * (1 + step) * (1 + place)
                rows += [(name, seed, step, "eigenvalue", rank, size * v, np.nan) for rank, v in enumerate(values)]
                rows += [(name, seed, step, "diagonal_quantile", i, factor * v, 0.1) for i, v in enumerate(QUANTILES)]
                rows += [(name, seed, step, "positive_share", 0, 1 - factor / 10, np.nan)]
                rows += [(name, seed, step, "trace", 0, size, np.nan)]
    return table(rows)


def data(axes: Axes, names: Sequence[str] = NAMES) -> list[np.ndarray]:
    return [np.asarray(line.get_xydata()) for line in axes.lines if (line.get_gid() or "").startswith("series-")]


# Tables.


@pytest.mark.parametrize(
    ("steps", "expected"),
    [([], []), ([5], [5]), ([5, 1, 5], [1, 5]), (range(4), [0, 1, 2, 3]), (range(0, 110, 10), [0, 30, 70, 100])],
)
def test_moments_are_the_first_the_last_and_some_between(steps: Sequence[int], expected: list[int]) -> None:
    assert moments(steps) == expected


def test_a_smoothed_density_has_each_eigenvalues_share_where_it_lies() -> None:
    values = np.array([1000.0] * 3 + [10.0] * 2 + [-40.0] * 5)
    x, y = smoothed(values, 1e-3)
    assert np.trapezoid(y, x) == pytest.approx(1.0, abs=5e-3)
    for low, high, share in ((200, 9000, 0.3), (2, 60, 0.2), (-300, -6, 0.5)):
        inside = (x > low) & (x < high)
        assert np.trapezoid(y[inside], x[inside]) == pytest.approx(share, abs=5e-3)


def test_densities_that_were_estimated_are_taken_as_they_are() -> None:
    rows: Rows = [("sgd", seed, 0, "density", i, 0.5 + seed, float(i)) for seed in (3, 4) for i in range(3)]
    rows += [("sgd", 3, 0, "eigenvalue", 0, 2.0, np.nan)]
    found = densities(table(rows))
    assert found[["x", "value"]].to_numpy().tolist() == [[0, 3.5], [1, 3.5], [2, 3.5]]
    assert set(densities(table(rows), seed=4)["value"]) == {4.5}


# The axis.


def test_a_signed_axis_has_equal_decades_on_both_sides_of_zero() -> None:
    axis = signed_scale([[-1000.0, 1e-9, 1000.0]])
    decades = np.diff(axis.share([10.0, 100.0, 1000.0]))
    assert decades[0] == pytest.approx(decades[1], rel=1e-2)
    assert axis.share(-37.0) + axis.share(37.0) == pytest.approx(1.0)
    assert axis.share(0.0) == pytest.approx(0.5)
    assert dict(zip(axis.labels, axis.ticks, strict=True)).items() >= {"0": 0.0, "1,000": 1e3, "−1,000": -1e3}.items()


def test_a_signed_axis_shows_the_upper_decades_of_the_smallest_group() -> None:
    axis = signed_scale([[1e7, 1.0], [0.1, -0.05]])
    assert axis.share(0.1) - axis.share(0.01) == pytest.approx(axis.share(1e7) - axis.share(1e6), rel=1e-2)
    assert "10⁷" in axis.labels and axis.low < -0.05 and axis.high > 1e7


@pytest.mark.parametrize(
    "groups", [[], [[]], [[0.0, 0.0]], [[np.nan, np.inf]], [[5.0]], [[-5.0, -5.0]], [[1e-300, 1e99]]]
)
def test_odd_values_have_an_axis_that_holds_them(groups: list[list[float]]) -> None:
    axis = signed_scale(groups)
    known = [v for group in groups for v in group if abs(v) < 1e100]
    assert axis.low < axis.high and all(axis.low <= v <= axis.high for v in known)
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks)


# Figures.


def test_a_spectrum_is_medians_over_seeds_at_a_few_moments() -> None:
    for place, axes in enumerate(spectrum(made(), NAMES).axes):
        lines = data(axes)
        assert len(lines) == 4
        for line, step in zip(lines, (0, 20, 30, 50), strict=True):
            size = (1 + step) * (1 + place)
            assert line.tolist() == [[0, 100 * size], [1, size], [2, 0], [3, -size]]
        alphas = [line.get_alpha() for line in axes.lines if line.get_gid()]
        assert alphas == sorted(alphas) and alphas[0] < alphas[-1] == 1


def test_a_panel_is_true_to_its_axis() -> None:
    figure = spectrum(made(), NAMES)
    svg.inline(figure, "drawn")
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    share = [float(axes.transAxes.inverted().transform(axes.transData.transform((0, v)))[1]) for v in (low, 0, 5, high)]
    whole = signed_scale([s * np.array([100, 1, -1]) for n in (1, 2) for s in (n, 21 * n, 31 * n, 51 * n)])
    assert share == pytest.approx(whole.share([whole.low, 0, 5, whole.high]), abs=1e-6)


def test_gaps_between_known_ranks_stay_gaps() -> None:
    rows: Rows = [("sgd", 0, 0, "eigenvalue", rank, value, np.nan) for rank, value in ((0, 9.0), (1, 8.0), (5, -1.0))]
    (axes,) = spectrum(table(rows), NAMES).axes
    (line,) = data(axes)
    np.testing.assert_array_equal(line[:, 1], [9, 8, np.nan, np.nan, np.nan, -1])
    assert {line.get_marker() for line in axes.lines if line.get_gid()} == {"o"}


def test_eigenvalues_along_training() -> None:
    for place, axes in enumerate(eigenvalues(made(), NAMES).axes):
        (lines,) = [part for part in axes.collections if isinstance(part, LineCollection)]
        expected = [[[step, (1 + step) * (1 + place) * v] for step in STEPS] for v in (100, 1, 0, -1)]
        np.testing.assert_allclose(np.array(lines.get_segments()), expected)


def test_of_many_eigenvalues_the_ends_are_among_those_shown() -> None:
    values = np.linspace(50, -30, 500)
    (lines,) = eigenvalues(made(["sgd"], values.tolist()), NAMES).axes[0].collections
    first = [segment[0, 1] for segment in lines.get_segments()]  # type: ignore[attr-defined]
    assert len(first) < 100 and (first[0], first[-1]) == (50, -30)


def test_the_area_below_a_density_is_the_share_of_the_eigenvalues() -> None:
    rows: Rows = [
        ("sgd", 0, 0, "eigenvalue", i, v, np.nan) for i, v in enumerate([5000.0] * 6 + [500.0] * 3 + [-2000.0])
    ]
    (axes,) = density(table(rows), NAMES).axes
    (line,) = data(axes)
    for low, high, share in ((1580, 50000, 0.6), (60, 1580, 0.3)):
        x, y = line[(line[:, 0] > low) & (line[:, 0] < high) & np.isfinite(line[:, 1])].T
        assert np.trapezoid(y, np.log10(x)) == pytest.approx(share, abs=5e-3)
    x, y = line[(line[:, 0] < -60) & np.isfinite(line[:, 1])].T
    assert np.trapezoid(y, -np.log10(-x)) == pytest.approx(0.1, abs=5e-3)


def test_bands_of_the_diagonal_are_pairs_of_quantiles() -> None:
    axes = diagonal(made(["sgd"]), NAMES).axes[0]
    bands = [part for part in axes.collections if isinstance(part, PolyCollection)]
    heights = [sorted(set(band.get_paths()[0].vertices[:, 1])) for band in bands]
    assert heights == [[-2, 800], [-1, 50], [0.5, 4]]
    (line,) = data(axes)
    assert line.tolist() == [[step, 1.0] for step in STEPS]


def test_the_share_of_positive_entries_is_shown_of_all() -> None:
    figure = positive_share(made(["sgd"]), NAMES)
    (line,) = data(figure.axes[0])
    np.testing.assert_allclose(line, [[step, 0.9] for step in STEPS])
    (band,) = figure.axes[0].collections
    assert sorted(set(band.get_paths()[0].vertices[:, 1].round(6))) == [0.6, 0.925]  # quartiles of 0.3, 0.9, 0.95
    low, high = figure.axes[0].get_ylim()
    assert low <= 0 and high >= 1 and {"0 %", "100 %"} <= set(texts(figure))


def test_a_quantity_along_training_is_a_curve() -> None:
    figure = along(made(), "trace", NAMES)
    for place in (0, 1):
        (line,) = [line for line in figure.axes[0].lines if line.get_gid() == f"series-{place}"]
        np.testing.assert_allclose(line.get_xydata(), [[step, (1 + step) * (1 + place)] for step in STEPS])
    assert {"trace", "steps"} <= set(texts(figure))
    assert along(made(), "trace", NAMES, legend=True).get_figheight() > figure.get_figheight()
    largest = along(made(), "eigenvalue", NAMES).axes[0].lines[0].get_ydata()
    np.testing.assert_allclose(largest, [100.0 * (1 + step) for step in STEPS])


def test_what_clipped_rules_say_of_themselves() -> None:
    rows = [{"task": "t", "optimizer": "sgd", "phase": "retrain", "trial": 0, "seed": seed, "step": step, "epoch": 0.0,
             "seconds": 0.0, "grad_equivalents": 0.0, "split": "train", "metric": metric, "value": value}
            for seed in (0, 1, 2) for step in (10, 20)
            for metric, value in (("clipped_fraction", step / 100 + seed), ("loss", 9.0))]  # fmt: skip
    seeds = pd.DataFrame({"optimizer": ["sgd"] * 3, "seed": [0, 1, 2], "status": ["complete"] * 3, "steps": [20] * 3})
    figure = clipped_fraction(pd.DataFrame(rows), seeds, NAMES)
    (line,) = data(figure.axes[0])
    np.testing.assert_allclose(line, [[10, 1.1], [20, 1.2]])


@pytest.mark.parametrize("draw", PANELS)
def test_panels_are_alike_apart_and_in_the_order_of_the_names(draw: Any) -> None:
    names = ["b", "a", "missing", "c", "d", "e"]
    shown = ["b", "a", "c", "d", "e"]
    figure = draw(made(shown), names)
    assert len(figure.axes) == 5
    assert len({axes.get_ylim() for axes in figure.axes}) == len({axes.get_xlim() for axes in figure.axes}) == 1
    boxes = [axes.get_position() for axes in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    written = [text for text in figure.texts if text.get_text() in shown]
    assert [text.get_text() for text in written] == shown
    assert [to_hex(text.get_color()) for text in written] == [colour(names.index(name)) for name in shown]
    marked = {part.get_label() for axes in figure.axes for part in axes.get_children() if part.get_gid()}
    assert marked == set(shown)


def test_panels_of_names_that_begin_alike_are_told_apart() -> None:
    names = [f"a_rather_long_optimizer_name@run-{n}" for n in range(3)]
    shown = [text.get_text() for text in positive_share(made(names), names).texts if text.get_gid()]
    assert [label[-1] for label in shown] == ["0", "1", "2"] and all("…" in label for label in shown)


def odd_tables() -> Mapping[str, pd.DataFrame]:
    whole = made(ODD_NAMES[:4])
    return {
        "nothing": whole[:0],
        "one step": whole[whole["step"] == 10],
        "one seed": whole[whole["seed"] == 1],
        "zeros": whole.assign(value=0.0),
        "not finite": whole.assign(value=np.where(whole["index"] == 1, np.inf, np.nan)),
        "huge": whole.assign(value=whole["value"] * 1e250),
        "tiny": whole.assign(value=whole["value"] * 1e-250),
        "other quantities": whole.assign(quantity="rows"),
    }


@pytest.mark.parametrize("kind", odd_tables())
def test_odd_tables(kind: str) -> None:
    given = odd_tables()[kind]
    figures: list[Figure] = [draw(given, ODD_NAMES) for draw in PANELS]
    figures += [along(given, quantity, ODD_NAMES) for quantity in ("trace", "estimate_cosine")]
    for figure in figures:
        svg.inline(figure, "drawn")

"""Effective dimensionality of functions of which it is known, and how far a model of them is to be believed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern, WhiteKernel

from tuner.analysis.surrogate import effective_dimensionality, fit, left_out, modelled, places
from tuner.config.space import Dimension

Array = NDArray[np.float64]
COLUMNS = {"lr": [0], "beta": [1], "eps": [2]}
GRID = np.array(list(product(np.linspace(0, 1, 11), repeat=3)))


def bowl(*middle: float) -> Callable[[Array], Array]:
    """A separable quadratic with its best score, 1, at a place."""

    def score(points: Array) -> Array:
        return np.asarray(1 - ((points - np.array(middle)) ** 2).sum(axis=1), float)

    return score


@pytest.mark.parametrize(
    ("middles", "names"),
    [
        ([(0.5, 0.5, 0.5), (0.5, 0.5, 0.5)], ()),
        ([(0.1, 0.5, 0.5), (0.9, 0.5, 0.5)], ("lr",)),  # 1 - 0.16 with the shared one
        ([(0.4, 0.5, 0.5), (0.6, 0.5, 0.5)], ()),  # 1 - 0.01 is near enough
        ([(0.1, 0.5, 0.9), (0.9, 0.5, 0.1)], ("lr", "eps")),
        ([(0.1, 0.3, 0.9), (0.9, 0.7, 0.1)], ("lr", "eps")),  # what beta then costs is 0.04
        ([(0.1, 0.9, 0.9), (0.9, 0.1, 0.1)], ("lr", "beta", "eps")),
    ],
)
def test_as_many_must_be_tuned_as_have_other_optima_on_other_tasks(
    middles: list[tuple[float, ...]], names: tuple[str, ...]
) -> None:
    predict = {f"task{i}": bowl(*middle) for i, middle in enumerate(middles)}
    assert effective_dimensionality(predict, GRID, COLUMNS) == (len(names), names)


def test_the_columns_of_a_choice_are_tuned_together() -> None:
    """One task wants the first of two choices, the other the second."""
    points = np.array([[0.5, 1, 0], [0.5, 0, 1]])
    predict = {"t": lambda at: at[:, 1], "u": lambda at: at[:, 2]}
    assert effective_dimensionality(predict, points, {"lr": [0], "kind": [1, 2]}) == (1, ("kind",))


def test_where_tuning_leads_nowhere_nothing_is_said() -> None:
    assert effective_dimensionality({"t": lambda at: -at.sum(axis=1)}, GRID, COLUMNS) is None


def drawn(middle: tuple[float, ...], seed: int) -> tuple[Array, Array]:
    points = np.random.default_rng(seed).random((60, 3))
    return points, bowl(*middle)(points)


def test_a_model_of_random_draws_finds_the_same_dimensionality() -> None:
    middles = {"t": (0.1, 0.5, 0.5), "u": (0.9, 0.5, 0.5)}
    surrogates = {task: fit(*drawn(middle, seed)) for seed, (task, middle) in enumerate(middles.items())}
    assert all(each.fits and each.explained > 0.99 and each.n == 60 for each in surrogates.values())
    points = np.concatenate([drawn(middle, seed)[0] for seed, middle in enumerate(middles.values())])
    table = modelled(surrogates, points)
    for task, middle in middles.items():
        np.testing.assert_allclose(table[task], bowl(*middle)(points), atol=0.05)
    predict = {task: each.predict for task, each in surrogates.items()}
    assert effective_dimensionality(predict, points, COLUMNS) == (1, ("lr",))


def test_errors_are_those_of_models_which_do_not_know_the_trial() -> None:
    """Brute force: a process of the same kernel, fitted without each."""
    rng = np.random.default_rng(3)
    points = rng.random((25, 2))
    scores = np.sin(5 * points[:, 0]) + 0.1 * rng.normal(size=25)
    kernel = Matern([0.3, 2.0], nu=2.5) + WhiteKernel(0.05)

    def process(rows: Array) -> GaussianProcessRegressor:
        return GaussianProcessRegressor(kernel, optimizer=None).fit(points[rows], scores[rows])

    errors = [scores[row] - process(np.arange(25) != row).predict(points[[row]])[0] for row in range(25)]
    np.testing.assert_allclose(left_out(process(np.full(25, True))), errors, rtol=1e-6)


def test_noise_does_not_fit_and_what_is_flat_does() -> None:
    rng = np.random.default_rng(1)
    points = rng.random((40, 2))
    assert not fit(points, rng.normal(size=40)).fits
    assert fit(points, 0.02 * rng.normal(size=40)).fits
    level = fit(points, np.full(40, 0.3))
    assert level.fits
    assert level.predict(points[:2]).tolist() == [0.3, 0.3]


def test_equal_configurations_are_one_and_few_are_refused() -> None:
    points = np.repeat(np.linspace(0, 1, 12), 3)[:, None]
    assert fit(points, np.tile([0.0, 0.5, 1.0], 12) + points[:, 0]).explained > 0.99
    with pytest.raises(ValueError, match="9 different configurations; at least 10 are needed"):
        fit(points[:27], points[:27, 0])


def test_places_are_on_the_searched_scale_and_choices_have_a_column_each() -> None:
    space = {"lr": Dimension(low=1e-4, high=1.0, log=True), "kind": Dimension(choices=["a", "b", 3]),
             "momentum": Dimension(low=0.5, high=1.0)}  # fmt: skip
    trials = pd.DataFrame({"hp.lr": [1e-4, 1e-2], "hp.kind": ["b", "3"], "hp.momentum": [0.5, 0.75]})
    points, columns = places(trials, space)
    np.testing.assert_allclose(points, [[0, 0, 1, 0, 0], [0.5, 0, 0, 1, 0.5]])
    assert columns == {"lr": [0], "kind": [1, 2, 3], "momentum": [4]}
    assert places(trials, {})[0].shape == (2, 0)
    with pytest.raises(ValueError, match="is not between"):
        places(trials.assign(**{"hp.lr": 2.0}), space)

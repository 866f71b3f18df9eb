"""What configurations that a task has not tried would have scored there, by a model of those that it has.

No torch, no ray. A search that draws at random draws other configurations for each task, so they have few in common; a
Gaussian process of each task's scores is asked in their place, as far as it predicts trials that it has not seen.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from tuner.analysis.paired import Array
from tuner.config.space import Dimension
from tuner.store.tables import HP

FEWEST_TRIALS = 10
MOST_TRIALS = 300
"""Fitted: the time grows with their cube. Of more, so many are drawn."""
LEAST_FIT = 0.5
LARGEST_ERROR = 0.05
"""A model is good enough by either: the explained share of the variance, or its error in scores, 0 to 1."""
ENOUGH = 0.95
"""Of the score when all hyperparameters are tuned."""
MOST_HYPERPARAMETERS = 10
"""All of their subsets are tried."""

Predict = Callable[[Array], Array]


@dataclass(frozen=True)
class Surrogate:
    """A model of the scores of one optimizer on one task.

    Attributes:
        predict: scores (n) of places (n, columns), see ``places``.
        explained: 1 less the mean squared error, over trials that are left out in turn, over the scores' variance.
        error: the root of that error.
        n: configurations that it was fitted to.
    """

    predict: Predict
    explained: float
    error: float
    n: int

    @property
    def fits(self) -> bool:
        return self.explained >= LEAST_FIT or self.error <= LARGEST_ERROR


def places(trials: pd.DataFrame, space: Mapping[str, Dimension]) -> tuple[Array, dict[str, list[int]]]:
    """Configurations as points of a unit cube: intervals on their searched scale, choices as a column each.

    Returns:
        (trials, columns), and the columns of each hyperparameter.

    Raises:
        ValueError: a trial lies outside of the space.
    """
    parts: list[Array] = []
    columns: dict[str, list[int]] = {}
    for name, dimension in space.items():
        cells = [dimension.read(cell) for cell in trials[f"{HP}{name}"]]
        wide = dimension.choices or [None]
        at: list[list[Any]] = (
            [[dimension.position(cell)] for cell in cells]  # type: ignore[arg-type]
            if dimension.choices is None
            else [[float(cell == choice) for choice in wide] for cell in cells]
        )
        start = sum(part.shape[1] for part in parts)
        columns[name] = list(range(start, start + len(wide)))
        parts.append(np.array(at, float).reshape(len(cells), len(wide)))
    return np.hstack(parts) if parts else np.empty((len(trials), 0)), columns


def fit(points: Array, scores: Array) -> Surrogate:
    """A Gaussian process with Matérn's covariance of 5/2, a length scale per column, and noise, by maximal likelihood.

    How well it predicts is by leaving out each configuration in turn, with the length scales of all (Rasmussen and
    Williams 2006, equation 5.12). Equal configurations are one, with their mean score.

    Args:
        points: (n, columns); ``places``'s.
        scores: (n).

    Raises:
        ValueError: there are fewer than ``FEWEST_TRIALS`` different configurations.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
    from threadpoolctl import threadpool_limits

    different, which = np.unique(points, axis=0, return_inverse=True)
    if len(different) < FEWEST_TRIALS:
        raise ValueError(f"{len(different)} different configurations; at least {FEWEST_TRIALS} are needed")
    means = np.bincount(which.ravel(), scores) / np.bincount(which.ravel())
    kept = np.sort(np.random.default_rng(0).permutation(len(means))[:MOST_TRIALS])
    different, means = different[kept], means[kept]
    middle, spread = float(means.mean()), float(means.std())
    if spread == 0:
        return Surrogate(lambda at: np.full(len(at), middle), 0.0, 0.0, len(means))
    scales = np.full(points.shape[1], 0.3)
    kernel = ConstantKernel(1.0, (0.01, 100.0)) * Matern(scales, (0.03, 30.0), nu=2.5) + WhiteKernel(0.05, (1e-6, 2.0))
    model = GaussianProcessRegressor(kernel, alpha=1e-10, random_state=0)
    with warnings.catch_warnings(), threadpool_limits(1):  # matrices so small are faster on one core
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(different, (means - middle) / spread)
    error = spread * left_out(model)
    explained = 1 - float(np.mean(error**2)) / spread**2
    return Surrogate(
        lambda at: middle + spread * model.predict(at), explained, float(np.sqrt(np.mean(error**2))), len(means)
    )


def left_out(model: Any) -> Array:
    """What a fitted process was given, less what it predicts of it without it, with the same kernel."""
    from scipy.linalg import cho_solve

    inverse = cho_solve((model.L_, True), np.eye(len(model.L_)))
    return np.asarray(model.alpha_).ravel() / np.diag(inverse)


def modelled(surrogates: Mapping[str, Surrogate], points: Array) -> pd.DataFrame:
    """The scores of all configurations on all tasks: index their number, columns task."""
    return pd.DataFrame({task: surrogate.predict(points) for task, surrogate in surrogates.items()})


def effective_dimensionality(
    predict: Mapping[str, Predict], points: Array, columns: Mapping[str, Sequence[int]]
) -> tuple[int, tuple[str, ...]] | None:
    """How many hyperparameters must be tuned task by task, the others left at the best shared configuration.

    Adkins et al. 2024 (arXiv 2412.07165): the fewest with which the mean score over tasks is ``ENOUGH`` of that with
    all of them tuned.

    Args:
        predict: by task, scores of places.
        points: (n, columns): the configurations that are tuned over.
        columns: those of each hyperparameter.

    Returns:
        The number, and the best such hyperparameters; ``None`` where tuning leads to no score above 0, or there are
        more than ``MOST_HYPERPARAMETERS``.
    """
    scores = np.stack([score(points) for score in predict.values()])
    shared = points[int(np.argmax(scores.mean(axis=0)))]
    enough = ENOUGH * float(scores.max(axis=1).mean())
    if not enough > 0 or len(columns) > MOST_HYPERPARAMETERS:
        return None
    for count in range(len(columns) + 1):
        found = {names: _tuned(predict, points, shared, [column for name in names for column in columns[name]])
                 for names in combinations(columns, count)}  # fmt: skip
        best = max(found, key=lambda names: found[names])
        if found[best] >= enough or math.isclose(found[best], enough):
            return count, best
    return None


def _tuned(predict: Mapping[str, Predict], points: Array, shared: Array, free: list[int]) -> float:
    """The mean over tasks of the best score with some columns free."""
    tried = np.tile(shared, (len(points), 1))
    tried[:, free] = points[:, free]
    tried = np.unique(tried, axis=0)
    return float(np.mean([score(tried).max() for score in predict.values()]))

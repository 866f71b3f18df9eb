"""How much an optimizer depends on its hyperparameters: on the learning rate, and on being tuned task by task.

No torch, no ray. Pure functions of tables of trials in which lower values are better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from tuner.analysis.paired import Array
from tuner.analysis.searches import COUNTED
from tuner.store.tables import HP

BINS = 12
"""Stretches of equal length that the searched range of learning rates is cut into, in its logarithm."""
NEAR = 0.05
"""What may be lost of the way from an untrained network to the best value."""
PERCENTILES = (5.0, 95.0)
FEWEST_SHARED = 10
"""Configurations that every task has tried; a best one of fewer says more of luck than of the optimizer."""


# The learning rate.


def over_lr(trials: pd.DataFrame, low: float, high: float) -> pd.DataFrame:
    """The best value reached, by learning rate: the lower envelope of all trials.

    Args:
        trials: of one optimizer on one task, all studies; columns state, value and ``hp.lr``. Those that neither ended
            nor diverged do not count; diverged ones are infinite.
        low, high: the searched range.

    Returns:
        A row per stretch of the range, lowest first: low, high, n (trials), best (NaN where no trial lies, infinite
        where all diverged).
    """
    edges = np.geomspace(low, high, BINS + 1)
    counted = trials[trials["state"].isin(COUNTED)]
    lr = pd.to_numeric(counted[f"{HP}lr"], errors="coerce").to_numpy(float)
    known = ~np.isnan(lr) & (lr >= low) & (lr <= high)
    values = _values(counted)[known]
    rows = np.clip(np.searchsorted(edges, lr[known], side="right") - 1, 0, BINS - 1)
    best = pd.Series(values).groupby(rows).min().reindex(range(BINS))
    n = np.bincount(rows, minlength=BINS)
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "n": n, "best": best.to_numpy(float)})


def share_near_best(curve: pd.DataFrame, untrained: float) -> float:
    """The share of the range of learning rates, in its logarithm, in which what is reached is near the best.

    Near is within ``NEAR`` of the way from the untrained network's value to the best one. A share of the value itself
    would be out of reach of losses that go to zero, would depend on a loss's offset and would differ between an
    accuracy and an error; the values of diverged runs are bounds that somebody set.

    Args:
        curve: ``over_lr``'s.
        untrained: the value of a network before its first step.

    Returns:
        Of the stretches that have trials; NaN where there are none, or none got better than an untrained network.
    """
    best = curve["best"].dropna().to_numpy(float)
    lowest = best.min(initial=math.inf)
    if not lowest < untrained:
        return math.nan
    return float(np.mean(best <= lowest + NEAR * (untrained - lowest)))


# Scores.


def normalised(trials: pd.DataFrame, untrained: Mapping[str, float]) -> pd.DataFrame:
    """With a column ``score``: 0 at the 95th percentile of a task's trials, 1 at the 5th, of all optimizers together.

    Adkins, Bowling and White 2024 (NeurIPS, arXiv 2412.07165) scale returns so. A loss has no worst value, so a trial
    that diverged, or ended worse than it began, counts here as an untrained network.

    Args:
        trials: columns task, optimizer, state, value.
        untrained: by task; NaN where it is not known, then it is as bad as the worst that did not diverge.

    Returns:
        The trials that count, a copy; NaN where the percentiles of a task are the same.
    """
    counted = trials[trials["state"].isin(COUNTED)]
    value = pd.Series(_values(counted), index=counted.index)
    worst_known = value.where(np.isfinite(value)).groupby(counted["task"]).transform("max")
    bound = counted["task"].map(untrained).astype(float).fillna(worst_known)
    by_task = value.where(value < bound, bound).groupby(counted["task"])
    best, worst = (by_task.transform(lambda own, q=q: own.quantile(q / 100)) for q in PERCENTILES)
    score = (worst - value.where(value < bound, bound)) / (worst - best).where(worst > best)
    return counted.assign(score=score)


def in_common(trials: pd.DataFrame, names: Sequence[str], tasks: Sequence[str]) -> pd.DataFrame:
    """The configurations that every task has tried, study by study.

    Args:
        trials: ``normalised``'s, of one optimizer.
        names: its hyperparameters.
        tasks: those that it was searched on.

    Returns:
        Index study and ``hp.<name>`` of each, columns task: the score, the mean of those of equal trials.
    """
    keys = ["study", *(f"{HP}{name}" for name in names)]
    table = trials.reindex(columns=[*keys, "task", "score"])
    texts = {key: table[key].astype(str) for key in keys if table[key].dtype == object}  # of mixed kinds
    scores = table.assign(**texts).groupby([*keys, "task"])["score"].mean().unstack("task")
    return scores.reindex(columns=list(tasks)).dropna()


def sensitivity(scores: pd.DataFrame) -> float:
    """What tuning task by task gains over the best single configuration, the mean over tasks (Adkins et al. 2024).

    Args:
        scores: index configuration, columns task; higher is better.

    Returns:
        0 where one configuration is the best everywhere; NaN where there is none.
    """
    return float(scores.max().mean() - scores.mean(axis=1).max()) if len(scores) else math.nan


def _values(trials: pd.DataFrame) -> Array:
    """Infinite where a trial diverged, or has none."""
    found = trials["value"].to_numpy(float, na_value=np.nan)
    return np.where((trials["state"] == "diverged") | ~np.isfinite(found), math.inf, found)

"""AlgoPerf's competition scores by rules of its own, which are here to repeat its figures. No torch, no ray.

The rules are those of Kasimbeg et al. 2025 ("Accelerating neural network training: an analysis of the AlgoPerf
competition", ICLR) and Dahl et al. 2023 (arXiv 2306.07179, section 4). Its workloads are tasks, its submissions
optimizers. What this project's own reports show is ``across_tasks.algoperf_score``, which has no variants and an exact
integral.

Times are tables with index task and columns optimizer: the median over studies of the time to the target, infinite
where the target was not reached, NaN where the optimizer was not run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from tuner.analysis.across_tasks import performance_profile

TAU_MAX = 4.0
"""Beyond so many times the fastest a task counts as not solved."""
POINTS = 100
"""At which the competition evaluates the profile, from 1 to ``TAU_MAX``."""


def held_to_variants(times: pd.DataFrame, variants: Mapping[str, str]) -> pd.DataFrame:
    """The tasks that are scored, in which optimizers count as the competition has it.

    A variant does not count where its task was not solved; nothing counts beyond ``TAU_MAX`` times the fastest; then a
    task does not count where a variant of it does not.

    Args:
        variants: task by variant; both are rows of ``times``.

    Returns:
        ``times`` without the variants, infinite where an optimizer does not count.

    Raises:
        ValueError: a variant or its task is no row of ``times``.
    """
    if missing := sorted({*variants, *variants.values()} - set(times.index)):
        raise ValueError(f"no times of {', '.join(missing)}")
    table = times.astype(float).fillna(np.inf)
    for variant, task in variants.items():
        table.loc[variant] = table.loc[variant].mask(np.isinf(table.loc[task]), np.inf)
    table = table.where(table.le(TAU_MAX * table.min(axis=1), axis=0), np.inf)
    for variant, task in variants.items():
        table.loc[task] = table.loc[task].mask(np.isinf(table.loc[variant]), np.inf)
    return table.drop(index=list(variants))


def competition_score(times: pd.DataFrame, variants: Mapping[str, str]) -> pd.Series:
    """The profile's mean over tau from 1 to ``TAU_MAX``, of each optimizer, by trapezoids between ``POINTS`` points.

    Args:
        times, variants: see ``held_to_variants``.

    Returns:
        Index optimizer; between 0, and 1 for the fastest on every task. NaN where there is no task.
    """
    taus = np.linspace(1.0, TAU_MAX, POINTS)
    profile = performance_profile(held_to_variants(times, variants), taus.tolist())
    area = np.trapezoid(profile.to_numpy(float), taus, axis=0)
    return pd.Series(area / (TAU_MAX - 1), index=profile.columns, name="score")


def mean_time_ratios(times: pd.DataFrame, baseline: str) -> pd.Series:
    """The geometric mean over tasks of each optimizer's time over the baseline's: below 1 is faster.

    Where neither reached the target both took the whole budget, a ratio of 1, as in the competition's analysis.

    Args:
        times: of the tasks alone, without variants.

    Returns:
        Index optimizer; NaN where one of the two alone solved a task, since the time of the other is not known.
    """
    known = times.to_numpy(float, na_value=np.nan)
    base = times[baseline].to_numpy(float, na_value=np.nan)[:, None]
    solved, base_solved = np.isfinite(known), np.isfinite(base)
    ratios = np.divide(known, base, out=np.ones_like(known), where=solved & base_solved)
    means = np.exp(np.log(ratios).mean(axis=0))
    return pd.Series(np.where((solved == base_solved).all(axis=0), means, np.nan), index=times.columns, name="ratio")

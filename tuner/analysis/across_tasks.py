"""Several tasks together say which optimizer is better: profiles, ranks, interquartile means. No torch, no ray.

All functions are pure functions of tables in which lower is better. What cannot be said is NaN, empty or ``None``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tuner.analysis.paired import Array, differences, holm, wilcoxon

Rows = NDArray[np.intp]

LEFT_OUT = "left_out"
"""The key under which a table's ``attrs`` say what it does not cover."""
FEWEST_FOR_FRIEDMAN = (3, 2)
"""Optimizers; tasks."""
TOO_FEW_STUDIES = 2
"""To be drawn from; one stands aside, and its seeds are drawn."""


# Time to target.


def performance_profile(times: pd.DataFrame, taus: Sequence[float]) -> pd.DataFrame:
    """The share of tasks that an optimizer solves within tau times the fastest one's time (Dolan and More 2002).

    Args:
        times: index task, columns optimizer; infinite where the target was never reached, NaN, which counts the same,
            where it was not tried. A task that nobody solved counts, for nobody. Where the fastest took no time at all,
            those that took none either are as fast, and no factor is enough for the others.

    Returns:
        Index tau, columns optimizer; NaN where there is no task.

    Raises:
        ValueError: a time is negative.
    """
    slower = _times_the_fastest(times)
    tau = np.asarray(taus, float)
    solved = slower[None] <= tau[:, None, None]
    shares = solved.mean(axis=1) if len(times) else np.full((len(tau), times.shape[1]), np.nan)
    return pd.DataFrame(shares, index=pd.Index(tau, name="tau"), columns=times.columns)


def algoperf_score(times: pd.DataFrame, tau_max: float = 4.0) -> pd.Series:
    """The profile's mean over tau from 1 to ``tau_max``, of each optimizer (Dahl et al. 2023): between 0,
    and 1 for the fastest on every task. A step function's integral, not a sum over a grid.

    Raises:
        ValueError: ``tau_max`` is not above 1; a time is negative.
    """
    if not tau_max > 1:
        raise ValueError(f"tau_max must be above 1, got {tau_max:g}")
    within = np.clip(tau_max - _times_the_fastest(times), 0, None) / (tau_max - 1)
    scores = within.mean(axis=0) if len(times) else np.full(times.shape[1], np.nan)
    return pd.Series(scores, index=times.columns, name="score")


def _times_the_fastest(times: pd.DataFrame) -> Array:
    """(tasks, optimizers): 1 for the fastest, infinite for those that did not solve the task."""
    known = times.to_numpy(float, na_value=np.nan)
    if (known < 0).any():
        raise ValueError("times must not be negative")
    known = np.where(np.isnan(known), np.inf, known)
    fastest = known.min(axis=1, keepdims=True, initial=np.inf)
    solved = np.isfinite(known)
    slower = np.full_like(known, np.inf)
    with np.errstate(over="ignore"):
        np.divide(known, fastest, out=slower, where=solved & (fastest > 0))
    slower[solved & (known == fastest)] = 1.0
    return slower


# Ranks.


def ranks(means: pd.DataFrame) -> pd.DataFrame:
    """The optimizers' ranks on each task: 1 is the best, those that are equal share the mean of their ranks.

    Args:
        means: index task, columns optimizer; NaN where an optimizer was not run on the task, infinite where it
            diverged, which is last. What only rounding tells apart is equal.

    Returns:
        The same without the tasks that lack an optimizer, which ``attrs["left_out"]`` names.
    """
    complete = means.dropna()
    levels = np.array([_levels(row) for row in complete.to_numpy(float)]).reshape(complete.shape)
    table = pd.DataFrame(levels, complete.index, complete.columns).rank(axis=1, method="average")
    table.attrs[LEFT_OUT] = [task for task in means.index if task not in complete.index]
    return table


def _levels(values: Array) -> Array:
    """0 for the best, one more for each that is told apart from the one before."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    levels = np.zeros(len(values))
    levels[order[1:]] = np.cumsum(differences(ordered[1:], ordered[:-1]) != 0)
    return levels


def friedman(means: pd.DataFrame) -> tuple[float, float] | None:
    """Friedman's chi-squared, corrected for ties, and its p-value, over the tasks that have every optimizer.

    The p-value is that of a chi-squared distribution with one degree of freedom less than there are optimizers, which
    few tasks follow only roughly (Demsar 2006).

    Returns:
        ``None`` of fewer than 3 optimizers, of fewer than 2 tasks, and where all are tied on every task.
    """
    from scipy import stats

    ranked = ranks(means)
    optimizers, tasks = FEWEST_FOR_FRIEDMAN
    if ranked.shape[1] < optimizers or len(ranked) < tasks or (ranked.nunique(axis=1) == 1).all():
        return None
    test = stats.friedmanchisquare(*(ranked[name].to_numpy(float) for name in ranked))
    return float(test.statistic), float(test.pvalue)


def wilcoxon_holm(means: pd.DataFrame) -> pd.DataFrame:
    """Wilcoxon's signed-rank test of every pair of optimizers, over the tasks that have all of them.

    Tasks on which a pair is equal do not count for it. p-values are two-sided, of ``paired.wilcoxon``. Of n
    tasks none is below 2 / 2^n.

    Returns:
        Columns first, second, p, p_holm (Holm 1979, over all pairs); a row per pair, in the order of the columns. p is
        1 where a pair is equal on every task, or there is none.
    """
    complete = means.dropna()
    pairs = list(combinations(complete.columns, 2))
    columns = {name: complete[name].to_numpy(float) for name in complete}
    p = np.array([wilcoxon(differences(columns[a], columns[b])) for a, b in pairs], float)
    firsts, seconds = [a for a, _ in pairs], [b for _, b in pairs]
    return pd.DataFrame({"first": firsts, "second": seconds, "p": p, "p_holm": holm(p)})


def cliques(mean_ranks: pd.Series, pairs: pd.DataFrame, alpha: float) -> list[list[str]]:
    """The bars of a critical-difference diagram: groups, contiguous by rank, in which no pair differs.

    Args:
        mean_ranks: index optimizer.
        pairs: ``wilcoxon_holm``'s, of all these optimizers; those with ``p_holm`` up to ``alpha`` differ.

    Returns:
        The largest such groups, of two at least, best first; none is part of another.
    """
    differ = {frozenset(pair) for pair in pairs.loc[pairs["p_holm"] <= alpha, ["first", "second"]].to_numpy()}
    names = [str(name) for name in mean_ranks.sort_values(kind="stable").index]
    groups: list[list[str]] = []
    reached = 0
    for start in range(len(names)):
        end = start + 1
        while end < len(names) and not any(frozenset((one, names[end])) in differ for one in names[start:end]):
            end += 1
        if end > reached and end - start > 1:
            groups.append(names[start:end])
        reached = max(reached, end)
    return groups


# Scores.


def normalised(values: pd.DataFrame) -> pd.DataFrame:
    """With a column ``score``: on each task 1 is the best value, 0 the worst of a run that did not diverge.

    Args:
        values: columns task, status and value, lower is better; one row per run.

    Returns:
        A copy. Diverged runs, and infinite values, have 0; runs without a value have NaN. Where those that did not
        diverge are all equal they have 0.5: nothing tells the best from the worst.
    """
    value = values["value"].astype(float)
    diverged = (values["status"] == "diverged") | np.isinf(value)
    by_task = value.mask(diverged).groupby(values["task"])
    best, worst = by_task.transform("min"), by_task.transform("max")
    score = ((worst - value) / (worst - best)).mask((worst == best) & value.notna(), 0.5)
    return values.assign(score=score.mask(diverged, 0.0))


def interquartile_means(
    values: pd.DataFrame, baseline: str, resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> pd.DataFrame:
    """The mean of the middle half of each optimizer's scores over tasks and seeds (Agarwal et al. 2021).

    Of n scores the int(n / 4) highest and lowest are left out. Intervals are percentiles of a bootstrap that draws,
    within each task, studies with all their seeds, or, of a single study, seeds; the same ones for every optimizer, so
    that the interval of a difference is one of paired runs. It does not know what other tasks would have shown, and of
    a single study not what another search would have found.

    Args:
        values: ``normalised``'s; columns task, optimizer, study, seed, score. Only seeds that have a score of every
            optimizer count, task by task; so a task that an optimizer was not run on counts for nobody.

    Returns:
        Columns optimizer, iqm, low, high, difference (to the baseline), difference_low, difference_high; a row per
        optimizer in order of appearance. ``attrs["seeds"]`` says how many seeds of each task counted,
        ``attrs["left_out"]`` how many runs of each optimizer did not. All is NaN where no seed counts; intervals are
        where one seed alone, or two studies, stand for a task.

    Raises:
        ValueError: the baseline is not among the optimizers; an optimizer has two runs of a seed.
    """
    names = list(dict.fromkeys(values["optimizer"]))
    if baseline not in names:
        raise ValueError(f"the baseline {baseline!r} is none of {names}")
    table = values.pivot(index=["task", "study", "seed"], columns="optimizer", values="score")[names]
    common = table.dropna()
    counts = common.groupby(level="task").size()
    scores = common.to_numpy(float).T
    point = np.array([_iqm(row) for row in scores])
    units, studies = _units(common.index), common.reset_index().groupby("task")["study"].nunique()
    if units and min(map(len, units)) > 1 and (studies != TOO_FEW_STUDIES).all():
        draws = _draws(units, resamples, seed)
        drawn = np.stack([_iqm(row[draws]) for row in scores])
    else:
        drawn = np.full((len(names), 1), np.nan)
    baseline_index = names.index(baseline)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(drawn, tails, axis=1)
    difference_low, difference_high = np.quantile(drawn - drawn[baseline_index], tails, axis=1)
    means = pd.DataFrame({
        "optimizer": names, "iqm": point, "low": low, "high": high, "difference": point - point[baseline_index],
        "difference_low": difference_low, "difference_high": difference_high,
    })  # fmt: skip
    unused = table.notna().sum() - len(common)
    means.attrs["seeds"] = {task: int(n) for task, n in counts.items()}
    means.attrs[LEFT_OUT] = {name: int(n) for name, n in unused.items() if n}
    return means


def _iqm(scores: Array) -> Any:
    """Over the last axis."""
    from scipy import stats

    return stats.trim_mean(scores, 0.25, axis=-1) if scores.shape[-1] else np.nan


def _units(index: Iterable[tuple[Any, ...]]) -> list[list[Rows]]:
    """Of each task, the rows that belong together: those of a study, or, of a single study, each by itself.

    Args:
        index: task, study, seed; sorted.
    """
    by_task: dict[str, dict[int, list[int]]] = {}
    for row, (task, study, _) in enumerate(index):
        by_task.setdefault(task, {}).setdefault(study, []).append(row)
    return [
        [np.array(rows) for rows in studies.values()]
        if len(studies) > 1
        else [np.array([row]) for rows in studies.values() for row in rows]
        for studies in by_task.values()
    ]


def _draws(tasks: Sequence[Sequence[Rows]], resamples: int, seed: int) -> Rows:
    """(resamples, rows): in place of each unit of each task another of its units, whose rows are repeated, or cut, to
    as many."""
    rng = np.random.default_rng(seed)
    parts = []
    for units in tasks:
        chosen = rng.integers(len(units), size=(resamples, len(units)))
        for place, unit in enumerate(units):
            filled = np.stack([np.resize(other, len(unit)) for other in units])
            parts.append(filled[chosen[:, place]])
    return np.concatenate(parts, axis=1)

"""Tuning curves say what an optimizer comes to with the best of n trials. No torch, no ray.

Trials of a random search are independent draws, so one search says how the best of any n of them is distributed; those
of several studies are one sample. Of a sampler that learns they are not: of each study there is one best so far at each
n, and only several studies say how it varies. All trials of a study train from its search seed, so the curves are of
the seeds that were searched with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from tuner.analysis.distribution_band import bounds_of_order_statistics
from tuner.analysis.paired import NAN, Array
from tuner.analysis.rules import FEWEST_PAIRS
from tuner.analysis.stats import Mode

Kind = Literal["median", "mean", "single"]
COLUMNS = ["optimizer", "n", "value", "low", "high"]


@dataclass(frozen=True)
class TuningCurves:
    """What optimizers of one task come to with the best of n trials.

    Attributes:
        kind: "median" of the best of n independent trials, with a band that holds for all n, and all optimizers, at
            once; "mean" over studies of the best of the first n, with a t interval at each n; "single", the best of
            the first n of one study.
        table: columns optimizer, n (from 1), value, low, high. Where nothing bounds the band its end is infinite; what
            cannot be said is NaN.
        reason: why it is not the median, or has no interval; empty where it is and has.
    """

    kind: Kind
    table: pd.DataFrame
    reason: str = ""


@dataclass(frozen=True)
class Lead:
    """Whose median best of n is better, by bands that do not touch, from n = ``first`` to ``last``."""

    optimizer: str
    first: int
    last: int


def tuning_curves(
    trials: pd.DataFrame,
    samplers: Collection[str],
    mode: Mode,
    confidence: float = 0.95,
    enqueued: Mapping[str, int] | None = None,
) -> TuningCurves:
    """The curves that such trials allow.

    Args:
        trials: of one task, as ``Run.trials()`` reads them. A diverged or failed trial is one, worse than any other;
            what a scheduler stopped has no value at its full budget.
        samplers: that drew them.
        confidence: of intervals; of bands, over all optimizers (Bonferroni).
        enqueued: how many points of a study were not drawn but given, and so came first, by optimizer.
    """
    names, studies = list(dict.fromkeys(trials["optimizer"])), _studies(trials)
    if not (reason := _reason_dependent(trials, samplers)):
        given = trials["optimizer"].map(enqueued or {}).fillna(0)
        drawn = trials[trials["trial"] >= given]
        each = 1 - (1 - confidence) / max(len(names), 1)
        parts = [
            median_best(_values(drawn[drawn["optimizer"] == name], mode), mode, each).assign(optimizer=name)
            for name in names
        ]
        return TuningCurves("median", _joined(parts))
    table = _joined([_over_studies(trials[trials["optimizer"] == name], name, mode, confidence) for name in names])
    if studies < 2:
        table = table.assign(low=NAN, high=NAN)  # also of who has several
        return TuningCurves("single", table, f"{reason}; of one study nothing says how its curve varies")
    if studies < FEWEST_PAIRS:
        reason = f"{reason}; an interval of {studies} studies says nothing, at least {FEWEST_PAIRS} are needed"
    return TuningCurves("mean", table, reason)


def _studies(trials: pd.DataFrame) -> int:
    """The fewest that an optimizer has."""
    return int(trials.groupby("optimizer")["study"].nunique().min()) if len(trials) else 0


def _reason_dependent(trials: pd.DataFrame, samplers: Collection[str]) -> str:
    """Why the trials are no independent draws; empty where they are."""
    if others := sorted(set(samplers) - {"random"}):
        return f"trials of the sampler {' and '.join(others)} are not independent draws"
    if (trials["state"] == "stopped").any():
        return "trials that a scheduler stopped have no value at their full budget"
    return ""


def _values(trials: pd.DataFrame, mode: Mode) -> Array:
    worst = np.inf if mode == "min" else -np.inf
    value = trials["value"].astype(float).where(trials["state"] == "complete")
    return np.asarray(value.fillna(worst), np.float64)


def median_best(values: Array, mode: Mode, confidence: float = 0.95) -> pd.DataFrame:
    """The median of the best of n independent trials, and a band that holds for all n at once.

    Half of all searches of n random trials end better than the median. It is the quantile 2^(-1/n) of one trial's value
    where more is better, 1 - 2^(-1/n) where less is (Lourie, Cho and He 2024, arXiv 2311.09480); the band is made of
    the bounds of their distribution function: ``bounds_of_order_statistics``. No band can say how good the best of many
    trials may be beyond those that there are: from some n on, ``known_to``, it is bounded on the worse side only.

    Args:
        values: (m,), that of a trial without one infinite, on the worse side.

    Returns:
        Columns n, 1 to m, value, low and high.
    """
    m = len(values)
    if not m:
        return pd.DataFrame(columns=COLUMNS[1:], dtype=float)
    n = np.arange(1, m + 1)
    share = 0.5 ** (1 / n) if mode == "max" else 1 - 0.5 ** (1 / n)
    ordered = np.concatenate([[-np.inf], np.sort(values), [np.inf]])
    below, above = bounds_of_order_statistics(m, confidence)
    # The first place at which the distribution function, or its bound, has come to the share.
    value = ordered[1 + np.searchsorted(np.arange(1, m + 1) / m, share)]
    high = ordered[1 + np.searchsorted(below, share)]
    low = ordered[np.searchsorted(above, share)]
    return pd.DataFrame({"n": n, "value": value, "low": low, "high": high})


def known_to(table: pd.DataFrame, mode: Mode) -> int:
    """The largest n of an optimizer's curve up to which the band bounds how good the best is; 0 where it never does."""
    known = np.isfinite(table["low" if mode == "min" else "high"].to_numpy(float))
    return len(known) if known.all() else int(np.argmin(known))


def leads(table: pd.DataFrame, one: str, other: str, mode: Mode) -> list[Lead]:
    """Where one of two optimizers is better: from which number of trials on, and up to which.

    A lead is where their bands do not touch. That any is wrong has at most the chance that any band is, so nothing has
    to be corrected for how many n there are. Where no lead is, none has been shown.

    Args:
        table: that of "median" curves, with both optimizers.
    """
    sign = 1.0 if mode == "min" else -1.0
    best, worst = ("low", "high") if mode == "min" else ("high", "low")
    ends = table.pivot(index="n", columns="optimizer", values=["low", "high"]).dropna()
    found: list[Lead] = []
    for name, behind in ((one, other), (other, one)):
        ahead = (sign * ends[worst, name] < sign * ends[best, behind]).to_numpy(bool)
        at = ends.index.to_numpy(int)[ahead]
        stretches = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(at) else []
        found += [Lead(name, int(stretch[0]), int(stretch[-1])) for stretch in stretches]
    return sorted(found, key=lambda lead: lead.first)


def _over_studies(trials: pd.DataFrame, optimizer: str, mode: Mode, confidence: float) -> pd.DataFrame:
    """The mean over studies, its t interval, from where each has a valid trial to where the first one ends."""
    sign = 1.0 if mode == "min" else -1.0
    paths = [
        np.minimum.accumulate(sign * _values(own.sort_values("trial", kind="stable"), mode))
        for _, own in trials.groupby("study", sort=True)
    ]
    length = min(map(len, paths))
    best = sign * np.array([path[:length] for path in paths])  # (studies, n)
    valid = np.flatnonzero(np.isfinite(best).all(axis=0))
    value, half = np.full((2, length), NAN)
    value[valid] = best[:, valid].mean(axis=0)
    if len(paths) >= FEWEST_PAIRS:
        half[valid] = _half_of_t_interval(best[:, valid], confidence)
    n = np.arange(1, length + 1)
    return pd.DataFrame({"optimizer": optimizer, "n": n, "value": value, "low": value - half, "high": value + half})


def _half_of_t_interval(best: Array, confidence: float) -> Array:
    """Of the mean over the first axis; NaN where nothing varies beyond rounding."""
    from scipy import stats

    rows = len(best)
    half = stats.t.ppf((1 + confidence) / 2, rows - 1) * best.std(axis=0, ddof=1) / np.sqrt(rows)
    return np.where(np.ptp(best, axis=0) > 1e-12 * np.abs(best).max(axis=0), half, NAN)


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    whole = [part for part in parts if len(part)]
    return pd.concat(whole, ignore_index=True)[COLUMNS] if whole else pd.DataFrame(columns=COLUMNS)

"""Differences of pairs, (n,), have tests and intervals here. No torch, no ray.

A run that diverged has an infinite value, worse than any number; where both of a pair diverged they are tied. Only
``differences``, ranks and medians take such values. What cannot be said of so few, or such, numbers is NaN.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tuner.analysis.rules import FEWEST_PAIRS

Array = NDArray[np.float64]

MOST_EXACT = 30
"""Differences whose 2^n signs are all looked at."""
RESAMPLES = 9_999
ROUNDING = 1e-13
"""What it may have added to a difference, as a share of the larger of the two values."""
NAN = float("nan")


def differences(x: Array, y: Array) -> Array:
    """x - y; zero, and tied in size with another, where only rounding of the values tells them apart."""
    both = np.isinf(x) & (x == y)
    d = np.where(both, 0.0, x - np.where(both, 0.0, y))
    larger = np.fmax(np.abs(x), np.abs(y))
    unsure = ROUNDING * np.where(np.isfinite(larger), larger, 0.0)
    sizes = np.where(np.abs(d) <= unsure, 0.0, np.abs(d)).tolist()
    for before, here in pairwise(np.argsort(sizes, kind="stable").tolist()):
        if 0 < sizes[here] - sizes[before] <= max(unsure[before], unsure[here]) and sizes[before]:
            sizes[here] = sizes[before]
    return np.copysign(sizes, d)


def varies(d: Array) -> bool:
    """Whether there is a spread beyond rounding, among enough differences; what has no bound has one."""
    if len(d) < FEWEST_PAIRS:
        return False
    return bool(np.isinf(d).any() or np.ptp(d) > 1e-12 * np.abs(d).max())


def t_test(d: Array) -> float:
    """Two-sided p-value of the paired t-test."""
    from scipy import stats

    return float(stats.ttest_1samp(d, 0.0).pvalue) if varies(d) else NAN


def t_statistic(d: Array) -> float:
    """NaN without spread, and of differences that are not all numbers."""
    if not varies(d) or np.isinf(d).any():
        return NAN
    return float(d.mean() / (d.std(ddof=1) / np.sqrt(len(d))))


def signed_ranks(d: Array) -> Array:
    """Ranks of the absolute differences but for zeros, with their signs; equal ones share their mean rank."""
    from scipy import stats

    nonzero = d[d != 0]
    return stats.rankdata(np.abs(nonzero)) * np.sign(nonzero)


def wilcoxon(d: Array) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test, without zeros, 1 where nothing else is there; exact, also with
    ties, for up to ``MOST_EXACT`` differences, and without ties for up to 50. Infinite ones are the largest."""
    from scipy import stats

    signed = signed_ranks(d)
    if not len(signed):
        return 1.0
    return _share_as_far(signed) if len(signed) <= MOST_EXACT else float(stats.wilcoxon(signed).pvalue)


def sign_flip(d: Array) -> float:
    """Two-sided p-value of the sign-flip (Fisher-Pitman) test of the mean: the share of the 2^n signs that give a sum
    at least as far from zero; of more than ``MOST_EXACT`` differences, of 9,999 random ones."""
    from scipy import stats

    if not varies(d):
        return NAN
    if len(d) > MOST_EXACT:
        test = stats.permutation_test(
            (d,), lambda x, axis: x.sum(axis), permutation_type="samples", n_resamples=RESAMPLES, rng=0, vectorized=True
        )
        return float(test.pvalue)
    return _share_as_far(d)


def _share_as_far(d: Array) -> float:
    """The share of all 2^n signs with which the sum is at least as far from zero."""
    first, second = _signed_sums(d[: len(d) // 2]), np.sort(_signed_sums(d[len(d) // 2 :]))
    bound = abs(d.sum()) - 1e-9 * np.abs(d).sum()  # sums in another order differ by rounding
    if bound <= 0:
        return 1.0
    beyond = len(second) - np.searchsorted(second, bound - first)
    return float(2 * beyond.sum() / 2.0 ** len(d))


def _signed_sums(d: Array) -> Array:
    sums = np.zeros(1)
    for x in d:
        sums = np.concatenate([sums + x, sums - x])
    return sums


def t_interval(x: Array, confidence: float) -> tuple[float, float]:
    """Of the mean."""
    from scipy import stats

    if not varies(x):
        return NAN, NAN
    low, high = stats.ttest_1samp(x, 0.0).confidence_interval(confidence)
    return float(low), float(high)


def bca_interval(x: Array, confidence: float) -> tuple[float, float]:
    """Of the mean, by the bias-corrected and accelerated bootstrap (Efron 1987), 9,999 resamples of a fixed seed."""
    from scipy import stats

    if not varies(x):
        return NAN, NAN
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of data on which it is degenerate, where it says NaN
        ends = stats.bootstrap(
            (x,), np.mean, confidence_level=confidence, n_resamples=RESAMPLES, method="BCa", rng=0, vectorized=True
        ).confidence_interval
    return float(ends.low), float(ends.high)


def median_interval(x: Array, confidence: float) -> tuple[float, float]:
    """Of the median, between two order statistics, whatever the distribution: its chance of covering is the binomial's,
    ``confidence`` at least (David and Nagaraja 2003, section 7.1); of fewer than 6 values there is none at 95 %."""
    from scipy import stats

    rank = int(stats.binom.ppf((1 - confidence) / 2, len(x), 0.5)) if len(x) else 0
    if rank < 1:
        return NAN, NAN
    ordered = np.sort(x)
    return float(ordered[rank - 1]), float(ordered[-rank])


def tost(d: Array, margin: float) -> float:
    """The larger p-value of the two one-sided t-tests that the mean difference lies beyond -margin, or beyond it."""
    from scipy import stats

    if not (varies(d) and margin > 0):
        return NAN
    n, ones = len(d), np.ones(len(d))
    mean = d @ ones / n
    standard_error = np.sqrt((d - mean) ** 2 @ ones / n) / np.sqrt(n - 1)
    return float(stats.t.cdf((abs(mean) - margin) / standard_error, n - 1))


@dataclass(frozen=True)
class Once:
    """Differences, (n,), that are looked at once; what is made of means is NaN where one is infinite."""

    d: Array

    @property
    def _finite(self) -> Array:
        return self.d[:0] if np.isinf(self.d).any() else self.d

    def t_test(self) -> float:
        return t_test(self._finite)

    def wilcoxon(self) -> float:
        return wilcoxon(self.d) if varies(self.d) else NAN

    def sign_flip(self) -> float:
        return sign_flip(self._finite)

    def tost(self, margin: float) -> float:
        return tost(self._finite, margin)

    def interval(self, confidence: float) -> tuple[float, float]:
        return t_interval(self._finite, confidence)


def holm(p: Array) -> Array:
    """Holm's (1979) corrected p-values, of those that there are; NaN stays NaN and does not count."""
    corrected = np.full(len(p), NAN)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]  # NaN last
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return corrected


def power(n: int, alpha: float, d_z: float = 1.0) -> float:
    """The chance that the paired t-test of n seeds finds a difference of ``d_z`` standard deviations."""
    from scipy import stats

    if n < FEWEST_PAIRS:
        return 0.0
    bound = stats.t.ppf(1 - alpha / 2, n - 1)
    shift = d_z * n**0.5
    return float(stats.nct.sf(bound, n - 1, shift) + stats.nct.sf(bound, n - 1, -shift))

"""The variance of retraining runs is split into what the search adds and what the seed adds. No torch, no ray.

The model is one-way with random effects: run j of study i has the value mu + a_i + e_ij. The luck of the search is a_i,
of variance ``search_variance``; that of the seed is e_ij, of variance ``seed_variance``; both are taken to be normal.
What cannot be said of so few, or such, runs is NaN, with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tuner.analysis.paired import NAN, Array
from tuner.analysis.rules import FEWEST_PAIRS

GRID = 50
"""Shares that are tried before the likelihood of an unbalanced table is maximised between two of them."""


@dataclass(frozen=True)
class VarianceSplit:
    """How far runs of one optimizer, or the paired differences of two, vary by the search and by the seed.

    Variances are in the metric's unit, squared; intervals are of the confidence that was asked for.

    Attributes:
        studies: those that have a run.
        seeds: runs of a study; where studies have unequal numbers, their harmonic mean.
        search_variance, seed_variance: between studies and within, by restricted maximum likelihood (Patterson and
            Thompson 1971), so never negative.
        share: of the search in the variance of a single run, search / (search + seed): the intraclass correlation.
        search_low, search_high: of the search's variance, by Burdick and Eickman (1986): the limits of the ratio,
            times the variance of the studies' means; of balanced tables these are Williams's (1962). Approximate.
        seed_low, seed_high: of the seed's variance, exact by the chi-squared of the squares within studies.
        share_low, share_high: of the share, exact by Wald's (1940) F of the ratio, balanced or not; an end that would
            be negative is 0.
        reason: why something is NaN; empty where nothing is.
    """

    studies: int
    seeds: float
    search_variance: float = NAN
    search_low: float = NAN
    search_high: float = NAN
    seed_variance: float = NAN
    seed_low: float = NAN
    seed_high: float = NAN
    share: float = NAN
    share_low: float = NAN
    share_high: float = NAN
    reason: str = ""

    def study_variance(self, seeds: float) -> float:
        """Of the mean of a study's runs, had each study so many seeds: more seeds take away the seed's part only."""
        return self.search_variance + self.seed_variance / seeds


def split_variance(values: pd.DataFrame, confidence: float = 0.95) -> VarianceSplit:
    """How far runs vary by the search, and how far by the seed.

    Args:
        values: columns study, value, a row per retraining run of one optimizer, or per seed with the paired difference
            of two. A row without a value (NaN) is missing; the value of a diverged run is infinite.
        confidence: of each interval.

    Returns:
        Point estimates of two studies, one of which has two seeds; with intervals of three and more.
    """
    runs = values.dropna(subset="value")
    value, study = runs["value"].to_numpy(float), pd.factorize(runs["study"])[0]
    counts = np.bincount(study).astype(float)
    split = VarianceSplit(len(counts), float(len(counts) / (1 / counts).sum()) if len(counts) else NAN)
    if reason := _reason_unsaid(value, counts):
        return replace(split, reason=reason)
    unit = float(np.abs(value).max()) or 1.0
    layout = _Layout.of(value / unit, study, counts)
    if not layout.within > 1e-24 * len(value):  # the squares of rounding
        return replace(split, reason="seeds make no difference within a study")
    ratio = _likeliest_ratio(layout)
    seed = float(layout.seed_variance(ratio))
    search = ratio * seed * unit * unit  # 0 stays so where the square is no number, and anything else is infinite
    split = replace(split, search_variance=search, seed_variance=seed * unit * unit, share=ratio / (1 + ratio))
    if len(counts) < FEWEST_PAIRS:
        reason = f"intervals of {len(counts)} studies say nothing; at least {FEWEST_PAIRS} are needed"
        return replace(split, reason=reason)
    with np.errstate(over="ignore"):
        return _with_intervals(split, layout, unit, confidence)


def _reason_unsaid(value: Array, counts: Array) -> str:
    """Why there is no variance to split; empty where there is."""
    if len(counts) < 2:
        return f"{len(counts) or 'no'} {'study' if len(counts) == 1 else 'studies'}; search luck shows between studies"
    if np.isinf(value).any():
        return "a run diverged, and has no value"
    if counts.max() < 2:
        return "one seed in each study; search and seed cannot be told apart"
    return ""


@dataclass(frozen=True)
class _Layout:
    """What the likelihood needs of a table: of each study its number of runs and their mean, (R,), and the sum of
    squares within studies."""

    counts: Array
    means: Array
    within: float

    @classmethod
    def of(cls, value: Array, study: NDArray[np.intp], counts: Array) -> _Layout:
        means = np.bincount(study, value) / counts
        return cls(counts, means, float(((value - means[study]) ** 2).sum()))

    @cached_property
    def free(self) -> int:
        """Degrees of freedom within studies."""
        return int(self.counts.sum()) - len(self.counts)

    @cached_property
    def spread(self) -> float:
        """The variance of the studies' means, each with the same weight."""
        return float(self.means.var(ddof=1))

    def between(self, ratio: float) -> float:
        """The weighted squares between studies, where the search has ``ratio`` times the seed's variance: over the
        seed's variance they are chi-squared with R - 1 degrees of freedom."""
        weights = self.counts / (1 + self.counts * ratio)
        centre = weights @ self.means / weights.sum()
        return float(weights @ (self.means - centre) ** 2)

    def seed_variance(self, ratio: float) -> float:
        """The likeliest, given the ratio."""
        return (self.within + self.between(ratio)) / (self.counts.sum() - 1)

    def deviance(self, ratio: float) -> float:
        """Minus twice the restricted log likelihood of the ratio, the seed's variance being the likeliest."""
        inflated = 1 + self.counts * ratio
        free = self.counts.sum() - 1
        likeliest = np.log(self.seed_variance(ratio))
        return float(free * likeliest + np.log(inflated).sum() + np.log((self.counts / inflated).sum()))


def _likeliest_ratio(layout: _Layout) -> float:
    """Search to seed, by restricted maximum likelihood: in closed form where studies have equal numbers of runs."""
    from scipy import optimize

    if np.ptp(layout.counts) == 0:
        free = len(layout.counts) - 1
        f = layout.between(0) / free / (layout.within / layout.free)
        return max(0.0, (f - 1) / float(layout.counts[0]))
    shares = np.linspace(0, 1, GRID, endpoint=False)
    best = int(np.argmin([layout.deviance(share / (1 - share)) for share in shares]))
    ends = shares[max(best - 1, 0)], shares[best + 1] if best + 1 < GRID else 1 - 1e-12
    found = optimize.minimize_scalar(
        lambda share: layout.deviance(share / (1 - share)), bounds=ends, method="bounded", options={"xatol": 1e-12}
    )
    return float(found.x / (1 - found.x)) if found.fun < layout.deviance(0) else 0.0


def _with_intervals(split: VarianceSplit, layout: _Layout, unit: float, confidence: float) -> VarianceSplit:
    from scipy import stats

    tails = np.array([(1 + confidence) / 2, (1 - confidence) / 2])  # of the lower end and of the upper one
    free = len(layout.counts) - 1
    ratios = np.array([_ratio_at(layout, f) for f in stats.f.ppf(tails, free, layout.free)])
    # The means' spread estimates search + seed / seeds, of which the ratio says which part is the search's.
    part = split.seeds * ratios / (1 + split.seeds * ratios)
    search_low, search_high = (part * free * layout.spread / stats.chi2.ppf(tails, free) * unit * unit).tolist()
    seed_low, seed_high = (layout.within / stats.chi2.ppf(tails, layout.free) * unit * unit).tolist()
    share_low, share_high = (ratios / (1 + ratios)).tolist()
    return replace(
        split,
        search_low=search_low,
        search_high=search_high,
        seed_low=seed_low,
        seed_high=seed_high,
        share_low=share_low,
        share_high=share_high,
    )


def _ratio_at(layout: _Layout, f: float) -> float:
    """The ratio of search to seed at which Wald's statistic, which falls with it, is ``f``; 0 where it begins lower."""
    from scipy import optimize

    mean_square = layout.within / layout.free
    free = len(layout.counts) - 1

    def excess(ratio: float) -> float:
        return layout.between(ratio) / free / mean_square - f

    if excess(0) <= 0:
        return 0.0
    # No weight exceeds 1 / ratio, so that beyond this one the statistic is smaller.
    return float(optimize.brentq(excess, 0.0, layout.spread / (mean_square * f) * (1 + 1e-9), xtol=1e-300, rtol=1e-12))

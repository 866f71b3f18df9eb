"""A contrast that is looked at more than once has tests and intervals that keep their level at all looks together.

A test at level alpha has a boundary at each look; its p-value at a look is the smallest level at which that look
rejects (a repeated p-value: Jennison and Turnbull 2000, section 9.3). The chance that any look's is below a level is at
most that level, so that it may be corrected by Holm as any other, at any look; and since it is of the last look alone,
it agrees with the interval and with the sign of the difference. Looks are of units (studies or seeds) in a declared
order. Where a pair lacks a value, a look has fewer differences than units; what it may spend stays that of the
plan, its boundary is that of the differences which there are. No torch, no ray.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd

from tuner.analysis import e_process, paired, sign_vectors
from tuner.analysis.boundaries import TLaw, boundaries, t_of
from tuner.analysis.paired import NAN, Array
from tuner.analysis.rules import FEWEST_PAIRS
from tuner.analysis.spending import Looks
from tuner.analysis.units import Pairs, Unit

LEVELS = (1e-6, 1e-5, 1e-4, 1e-3, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.999)
"""At which boundaries are found; p-values between them are interpolated, smaller ones are said to be the first."""
FAMILY = 5
"""Boundaries are found at alpha / 1 to alpha / 5 as well."""


Taken = tuple[tuple[int, int], ...]
"""Looks that have been taken: which of the plan, from 0, and of how many differences; more at each, and enough."""


@dataclass(frozen=True)
class Look:
    """What was seen at a look.

    Attributes:
        units: of the plan; n, the pairs among them that have a value.
        t, boundary: the statistic, and its size at which the test stops.
    """

    units: int
    n: int
    t: float
    boundary: float


@dataclass(frozen=True)
class Course:
    """The differences of a contrast as they came.

    Attributes:
        d: (n,), infinite where a run diverged.
        place: (n,), which unit of the plan each is of, from 0, increasing.
        done: units that are over, whether or not they gave a difference.
        looks: the plan.
        alpha: the level of the comparison.
        unit: of the plan.
    """

    d: Array
    place: Array
    done: int
    looks: Looks
    alpha: float
    unit: Unit

    @property
    def open_ended(self) -> bool:
        return self.looks.spending == "e_process"

    @property
    def taken(self) -> Taken:
        """Looks with new differences; one of too few is none."""
        found: list[tuple[int, int]] = []
        for look, units in enumerate(self.looks.units):
            n = int((self.place < units).sum())
            if units <= self.done and n > max([FEWEST_PAIRS - 1, *(before for _, before in found)]):
                found.append((look, n))
        return tuple(found)

    @property
    def begun(self) -> bool:
        """Whether there has been a look; an open-ended plan may be looked at any time."""
        return self.open_ended or self.done >= self.looks.units[0]

    @property
    def seen(self) -> Array:
        """The differences that have been looked at; later ones are for the next look."""
        if self.open_ended:
            return self.d
        return self.d[: self.taken[-1][1] if self.taken else 0]

    def steps(self, alpha: float) -> list[Look]:
        """Look by look, with the boundaries of a test at this level; none of an open-ended plan."""
        bounds = _bounds(self.looks, self.taken, alpha, two_sided=True)
        return [
            Look(self.looks.units[look], n, paired.t_statistic(self.d[:n]), t_of(u, n))
            for (look, n), u in zip(self.taken, bounds, strict=True)
        ]

    def t_test(self) -> float:
        """Two-sided p-value of the group-sequential t-test, as of the last look."""
        if self.open_ended:
            return e_process.p_value(self.d)
        return self._level(abs(paired.t_statistic(self.seen)), two_sided=True)

    def tost(self, margin: float) -> float:
        """The smallest level at which, at the last look, both repeated one-sided intervals lie inside the margin."""
        if not margin > 0:
            return NAN
        if self.open_ended:
            return e_process.tost(self.d, margin)
        within = min(paired.t_statistic(self.seen + margin), -paired.t_statistic(self.seen - margin))
        return self._level(within, two_sided=False)

    def _level(self, t: float, *, two_sided: bool) -> float:
        """The smallest level at which a statistic of the last look stops it; NaN without one."""
        if math.isnan(t):
            return NAN
        last = len(self.taken) - 1
        levels = stopping_levels(np.array([t]), self.looks, self.taken, last, self.alpha, two_sided=two_sided)
        return float(levels[0])

    def sign_flip(self) -> float:
        """Two-sided p-value of the sign-flip test of the mean: see ``sign_vectors``; open-ended, of signs."""
        return self._of_signs([self.d[:n] for _, n in self.taken])

    def wilcoxon(self) -> float:
        """The same of signed ranks, which infinite differences have as well."""
        return self._of_signs([_ranks(self.d[:n]) for _, n in self.taken])

    def _of_signs(self, weights: list[Array]) -> float:
        if self.open_ended:
            return e_process.signs(self.d)
        if not paired.varies(self.seen) or np.isinf(weights[-1]).any():
            return NAN
        spent = [[self.looks.spent(level, look) for look, _ in self.taken] for level in _levels(self.alpha, 1.0)]
        return sign_vectors.p_value(weights, self.place, self.looks.units[-1], _levels(self.alpha, 1.0), spent)

    def interval(self, confidence: float) -> tuple[float, float]:
        """The repeated interval of the mean difference as of the last look; they cover at all looks together."""
        d = self.seen
        if not paired.varies(d) or np.isinf(d).any():
            return NAN, NAN
        if self.open_ended:
            bound = e_process.bound(1 - confidence, len(d))
        else:
            bound = t_of(_bounds(self.looks, self.taken, 1 - confidence, two_sided=True)[-1], len(d))
        half = bound * float(d.std(ddof=1)) / math.sqrt(len(d))
        return float(d.mean()) - half, float(d.mean()) + half


@dataclass(frozen=True)
class Looked:
    """How far a comparison has been looked at.

    Attributes:
        order: studies, or seeds, as ``unit`` says, in the order of the plan.
        done: optimizer -> the units that its last look was of.
    """

    looks: Looks
    unit: Unit
    order: tuple[int, ...]
    done: Mapping[str, int]

    def seen(self, both: pd.DataFrame, optimizer: str, baseline: str) -> pd.DataFrame:
        """The rows, with index study, seed, of units that have been looked at in this contrast."""
        place = both.index.get_level_values(self.unit).map(self._places)
        return both[place < self._done(optimizer, baseline)]

    def course(self, pairs: Pairs, optimizer: str, baseline: str, alpha: float) -> tuple[Pairs, Course]:
        """The pairs in the order of the plan, up to the last look, and their places in it; differences are still to be
        put in. None of them where they are not of the plan's unit."""
        place = np.array([self._places.get(name, -1) for name in pairs.names], dtype=int)
        order = np.argsort(place, kind="stable") if pairs.unit == self.unit else np.zeros(0, dtype=int)
        course = Course(
            np.zeros(len(order)), place[order], self._done(optimizer, baseline), self.looks, alpha, self.unit
        )
        n = len(course.seen)
        return pairs.take(order[:n]), replace(course, d=course.d[:n], place=course.place[:n])

    @property
    def _places(self) -> dict[int, int]:
        return {name: index for index, name in enumerate(self.order)}

    def _done(self, optimizer: str, baseline: str) -> int:
        return min(self.done.get(optimizer, 0), self.done.get(baseline, 0))


def _ranks(d: Array) -> Array:
    """With their signs; 0 for no difference."""
    ranks = np.zeros(len(d))
    ranks[d != 0] = paired.signed_ranks(d)
    return ranks


def stopping_levels(t: Array, looks: Looks, taken: Taken, index: int, alpha: float, *, two_sided: bool = True) -> Array:
    """The smallest levels at which t statistics (m,) stop a test at look ``taken[index]``: at most 1, at least the
    first of ``LEVELS`` that the look can stop at; exact at alpha / 1 to alpha / ``FAMILY``."""
    n = taken[index][1]
    score = _score(np.abs(t) if two_sided else t, n)
    least, most, log_level = _table(looks, taken, index, alpha, two_sided)
    found = np.exp(log_level(np.clip(score, least, most)))
    return np.where(np.isnan(t), NAN, np.where(score < least, 1.0, found))


def _bounds(looks: Looks, taken: Taken, alpha: float, two_sided: bool) -> tuple[float, ...]:
    """Of U, look by look; found once for those to come as well, were no value lacking there."""
    if not taken:
        return ()
    last, n = taken[-1]
    rest = tuple((look, n + looks.units[look] - looks.units[last]) for look in range(last + 1, len(looks.units)))
    return _all_bounds(looks, taken + rest, alpha, two_sided)[: len(taken)]


@lru_cache(maxsize=10_000)
def _all_bounds(looks: Looks, taken: Taken, alpha: float, two_sided: bool) -> tuple[float, ...]:
    spend = [looks.spent(alpha, look, two_sided=two_sided) for look, _ in taken]
    return tuple(boundaries(TLaw(tuple(n for _, n in taken)), spend, two_sided=two_sided))


def _levels(alpha: float, most: float) -> list[float]:
    """At which tests are made, increasing."""
    return sorted({level for level in (*LEVELS, *(alpha / k for k in range(1, FAMILY + 1))) if level <= most})


@lru_cache(maxsize=1_000)
def _table(
    looks: Looks, taken: Taken, index: int, alpha: float, two_sided: bool
) -> tuple[float, float, Callable[[Array], Array]]:
    """The scores between which a look stops at levels, and the logarithms of these, as a function."""
    from scipy.interpolate import PchipInterpolator

    n = taken[index][1]
    levels = _levels(alpha, 1.0 if two_sided else 0.5)[::-1]
    bounds = [_bounds(looks, taken, level, two_sided)[index] for level in levels]
    scores = _score(np.array([t_of(u, n) for u in bounds if u < math.inf]), n)
    if len(scores) < 2:
        return math.inf, math.inf, np.zeros_like
    return float(scores[0]), float(scores[-1]), PchipInterpolator(scores, np.log(levels[: len(scores)]))


def _score(t: Array, n: int) -> Array:
    """About what -log p is of t, with its sign: over it levels are interpolated."""
    return np.sign(t) * np.log1p(np.minimum(t**2 / (n - 1), 1e15)) * n / 2

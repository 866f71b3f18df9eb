"""How many studies, and seeds in each, would decide a contrast that is open. No torch, no ray.

All is said of the difference and the spread that were seen, as if they were the true ones: a guess to plan by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tuner.analysis.paired import power
from tuner.analysis.rules import FEWEST_PAIRS

POWER = 0.8
MOST = 1_000
"""Units; what needs more is not going to be decided."""
MOST_SEEDS = 20
QUANTILES = 400


@dataclass(frozen=True)
class Design:
    """What would decide, with a chance of ``POWER``.

    Attributes:
        units: studies, or seeds of a single search; none where even ``MOST`` are too few.
        seeds: of each study; as there are.
    """

    units: int | None
    seeds: float


def tost_power(n: int, alpha: float, difference: float, margin: float, sd: float) -> float:
    """The chance that two one-sided t-tests of n pairs find equivalence: over the distribution of the standard
    deviation, that the mean lies between the two bounds (Phillips 1990)."""
    from scipy import stats

    if n < FEWEST_PAIRS:
        return 0.0
    places = (np.arange(QUANTILES) + 0.5) / QUANTILES
    standard_error = sd / n**0.5
    seen = standard_error * np.sqrt(stats.chi2.ppf(places, n - 1) / (n - 1))
    reach = np.maximum(margin - stats.t.ppf(1 - alpha, n - 1) * seen, 0.0)
    inside = stats.norm.cdf((reach - difference) / standard_error) - stats.norm.cdf(
        (-reach - difference) / standard_error
    )
    return float(inside.mean())


def for_difference(difference: float, sd: float, alpha: float) -> int | None:
    """The fewest pairs over which a two-sided t-test at level ``alpha`` finds such a difference; ``sd`` is that of a
    pair's difference."""
    if not (sd > 0 and abs(difference) > 0):
        return None
    return _fewest(lambda n: power(n, alpha, abs(difference) / sd))


def for_equivalence(difference: float, margin: float, sd: float, alpha: float) -> int | None:
    """The fewest pairs over which two one-sided t-tests find such a difference to be within the margin."""
    if not (sd > 0 and abs(difference) < margin):
        return None
    return _fewest(lambda n: tost_power(n, alpha, difference, margin, sd))


def _fewest(chance: Callable[[int], float]) -> int | None:
    """Of pairs, by halving: the chance grows with their number."""
    if chance(MOST) < POWER:
        return None
    low, high = FEWEST_PAIRS - 1, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if chance(middle) >= POWER else (middle, high)
    return high


def cheapest(studies_for: Callable[[int], int | None], search_cost: float) -> Design:
    """The number of seeds with which deciding costs least.

    Args:
        studies_for: how many studies decide, of so many seeds each.
        search_cost: of the search of one study, in retraining runs.
    """
    designs = [Design(studies_for(seeds), seeds) for seeds in range(1, MOST_SEEDS + 1)]
    possible = [design for design in designs if design.units is not None]
    if not possible:
        return designs[-1]
    return min(possible, key=lambda design: (design.units or 0) * (search_cost + design.seeds))

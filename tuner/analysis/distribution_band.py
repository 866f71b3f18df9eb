"""A distribution function is bounded everywhere at once, from independent draws of it. No torch, no ray."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np

from tuner.analysis.paired import Array


@cache
def bounds_of_order_statistics(n: int, confidence: float) -> tuple[Array, Array]:
    """Low and high, (n,), between which all of n sorted uniform draws lie, at once, with that chance.

    The bounds of each are the equal tails of its beta distribution, all at the one level at which they hold together
    (Learned-Miller and DeStefano 2008): tight at the ends, where the best of many trials is, as those of Kolmogorov and
    Smirnov are not. The level is found without simulation, see ``chance_within``.

    A distribution function F, continuous or not, of which x_1 <= ... <= x_n are draws, lies with that chance, and
    wherever it has jumps with no less, between low[j - 1] and high[j] on [x_j, x_(j + 1)), where low[-1] stands for 0
    and high[n] for 1.
    """
    from scipy import optimize

    if n == 1:
        return _equal_tails(n, 1 - confidence)
    # At one end of the bracket each has the whole level to itself, at the other its share of it (Bonferroni).
    found = optimize.brentq(
        lambda level: chance_within(*_equal_tails(n, np.exp(level))) - confidence,
        np.log((1 - confidence) / n),
        np.log(1 - confidence),
        xtol=1e-10,
    )
    return _equal_tails(n, float(np.exp(found)))


def _equal_tails(n: int, level: float) -> tuple[Array, Array]:
    from scipy import stats

    beta = stats.beta(np.arange(1, n + 1), np.arange(n, 0, -1))
    return beta.ppf(level / 2), beta.isf(level / 2)


def chance_within(low: Array, high: Array) -> float:
    """The chance that n sorted uniform draws lie, each, between bounds that rise, (n,).

    By the count of draws up to a place, as a Poisson process of rate n that has come to n at 1 (Moscovich and Nadler
    2017): each bound rules out counts at its place; from one to the next the counts' chances are convolved.
    """
    from scipy import special

    n = len(low)
    log_factorials = special.gammaln(np.arange(1, n + 2))

    def poisson(mean: float, most: int) -> Array:
        if mean == 0:
            return np.eye(1, most + 1)[0]
        return np.exp(np.arange(most + 1) * np.log(mean) - mean - log_factorials[: most + 1])

    # At low[i] no more than i draws have come; at high[i], i + 1 at least.
    events = sorted([(place, 0) for place in low.tolist()] + [(place, 1) for place in high.tolist()])
    fewest, most, chances = 0, 0, np.ones(1)  # of the counts fewest, ..., most
    for (before, _), (place, is_high) in pairwise([(0.0, 0), *events]):
        chances = np.convolve(chances, poisson(n * (place - before), most - fewest))[: most - fewest + 1]
        if is_high:
            fewest, chances = fewest + 1, chances[1:]
        else:
            most, chances = most + 1, np.append(chances, 0.0)
        if not len(chances):
            return 0.0
    rest = poisson(n * (1 - events[-1][0]), n - fewest)
    return float(chances @ rest[::-1][: len(chances)] / poisson(n, n)[-1])

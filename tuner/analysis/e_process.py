"""An e-process says at any time, without a plan of looks, how much speaks against no difference.

It is that of Wang and Ramdas (2023, arXiv 2310.03722) for the t-test: a mixture over the effect, normal of standard
deviation ``TAU`` in units of sigma, and over sigma. Under no effect it ever reaches 1 / alpha with a chance of at most
alpha, however often it is looked at; differences are taken to be normal.
"""

from __future__ import annotations

import math

import numpy as np

from tuner.analysis.paired import NAN, Array
from tuner.analysis.rules import FEWEST_PAIRS

TAU = 1.0


def e_value(t: Array, n: Array, tau: float = TAU) -> Array:
    """Of t statistics of n differences, at least 2."""
    g, v = 1 + n * tau**2, n - 1
    log = n / 2 * (np.log1p(t**2 / v) - np.log1p(t**2 / (v * g))) - np.log(g) / 2
    return np.exp(np.minimum(log, 700.0))


def bound(alpha: float, n: int, tau: float = TAU) -> float:
    """The size of t at which the e-value of n differences is 1 / alpha; infinite where it cannot be."""
    g, v = 1 + n * tau**2, n - 1
    ratio = math.exp(2 / n * (math.log(g) / 2 - math.log(alpha)))
    return math.sqrt(v * g * (ratio - 1) / (g - ratio)) if ratio < g else math.inf


def t_statistics(d: Array) -> tuple[Array, Array]:
    """t after each difference from the third on, and how many there were; NaN without spread, and where
    one of them is infinite."""
    n = np.arange(1, len(d) + 1).astype(float)
    if not len(d) or np.isinf(d).any():
        return np.full(len(n), NAN)[FEWEST_PAIRS - 1 :], n[FEWEST_PAIRS - 1 :]
    mean = np.cumsum(d) / n
    squares = np.cumsum((d - d.mean()) ** 2) - n * (mean - d.mean()) ** 2
    n, mean, squares = n[FEWEST_PAIRS - 1 :], mean[FEWEST_PAIRS - 1 :], squares[FEWEST_PAIRS - 1 :]
    spread = np.where(squares > 1e-24 * n * np.max(np.abs(d), initial=0.0) ** 2, squares, NAN)
    return mean / np.sqrt(spread / (n - 1) / n), n


def p_value(d: Array) -> float:
    """The smallest level at which all the differences (n,), in the order in which they came, are enough; NaN where
    nothing can be said."""
    t, n = t_statistics(d)
    return _last(1 / e_value(t, n))


def tost(d: Array, margin: float) -> float:
    """The same of both one-sided tests, that the mean lies beyond -margin, and beyond it."""
    if not margin > 0:
        return NAN
    (above, n), (below, _) = t_statistics(d + margin), t_statistics(d - margin)
    beyond = np.fmax(_one_sided(above, n), _one_sided(-below, n))
    return _last(np.where(np.isnan(above), NAN, beyond))


def _one_sided(t: Array, n: Array) -> Array:
    return np.where(t > 0, 1 / e_value(t, n), 1.0)


def _last(p: Array) -> float:
    known = p[~np.isnan(p)]
    return float(min(known[-1], 1.0)) if len(known) else NAN


def signs(d: Array) -> float:
    """The smallest level at which the signs of the differences are enough, whatever their distribution, infinite
    ones among them; a uniform mixture over the chance of a positive one. Zeros do not count."""
    from scipy.special import betaln

    signs = np.sign(d[d != 0])
    n, wins = np.arange(1, len(signs) + 1), np.cumsum(signs > 0)
    e = np.exp(n * math.log(2) + betaln(wins + 1, n - wins + 1))
    return _last(1 / e[FEWEST_PAIRS - 1 :])

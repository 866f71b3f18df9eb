"""Sign vectors make a sequential test of differences that are symmetric about zero, of whatever distribution.

Given their sizes, all signs are equally likely under no effect. At each look those vectors stop that have the farthest
sums, as many as the level may have been spent on, of those that have not stopped before. The look rejects all sums as
far as theirs, of vectors that have stopped before as well. Each level is spent by itself. The p-value is the smallest
level from which on all higher ones reject, so that it is at most a level, at any look, no more often than the test at
that level stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from tuner.analysis.paired import NAN, Array

MOST_EXACT = 16
"""Units whose sign vectors are all looked at; of more, ``RANDOM`` of them."""
RANDOM = 2 ** (MOST_EXACT - 1)
ROUNDING = 1e-9
"""Of a sum in another order, as a share of the sum of sizes."""


def p_value(
    weights: Sequence[Array], place: Array, cap: int, levels: Sequence[float], spent: Sequence[Sequence[float]]
) -> float:
    """The smallest of ``levels`` at which, and at all above which, the last look rejects; 1 where there is none, NaN
    without a look.

    Args:
        weights: at each look what is summed, (n_k,), with the observed signs; of the first n_k units that have a value.
        place: which unit each is of, from 0; ``cap`` units are planned.
        levels: increasing; ``spent`` says of each what may be used up by each look.
    """
    if not weights:
        return NAN
    signs = _signs(cap)[:, np.asarray(place, dtype=int)[: len(weights[-1])]]
    sums = [_rounded(signs[:, : len(w)] @ w, w) for w in weights]
    orders = [np.argsort(-each, kind="stable") for each in sums]
    found = 1.0
    for level, by_look in reversed(list(zip(levels, spent, strict=True))):
        stopped, bound = np.zeros(len(signs), dtype=bool), np.inf
        for order, far, share in zip(orders, sums, by_look, strict=True):
            room = int(share * len(signs) * (1 + 1e-12)) - int(stopped.sum())
            bound = _bound(far[order[~stopped[order]]], room)
            stopped |= far > bound
        if not sums[-1][0] > bound:
            break
        found = float(level)
    return found


def _bound(left: Array, room: int) -> float:
    """Beyond which there are as many of ``left``, the farthest first, as there is room for; equal ones all or none."""
    if room >= len(left):
        return -np.inf
    return float(left[room]) if room > 0 else np.inf


def _rounded(sums: Array, weights: Array) -> Array:
    unit = ROUNDING * np.abs(weights).sum() or 1.0
    return np.round(np.abs(sums) / unit)


@lru_cache(maxsize=8)
def _signs(cap: int) -> Array:
    """Vectors (., cap), the first of them the observed one; a vector stands for its opposite as well."""
    if cap <= MOST_EXACT:
        numbers = np.arange(2 ** (cap - 1))[:, None] >> np.arange(cap)
        return np.where(numbers & 1, -1.0, 1.0)
    random = np.random.default_rng(0).integers(0, 2, (RANDOM, cap))
    random[0] = 0
    return np.where(random, -1.0, 1.0)

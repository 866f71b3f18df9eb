"""A family of contrasts shares one level: Holm's procedure over their differences and their equivalences.

Two null hypotheses are made of a contrast, where a margin is declared: that there is no difference, and that it is at
least as large as the margin. Not both can be true. So of m contrasts at most m nulls are true at once, and the
sequentially rejective procedure of Holm (1979) may count contrasts in place of hypotheses (Shaffer 1986): a p-value is
multiplied by the number of contrasts that still have an open hypothesis. Without margins this is Holm's own. No torch,
no ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.analysis.paired import Array


@dataclass(frozen=True)
class Corrected:
    """What a family comes to.

    Attributes:
        difference, equivalence: (m,), corrected p-values; NaN where there is none.
        level: (m,), at which each contrast's difference was decided: what an interval that agrees with that decision
            leaves out.
    """

    difference: Array
    equivalence: Array
    level: Array

    def parts(self, sizes: Sequence[int]) -> list[Corrected]:
        """Of each group of contrasts, one after the other, of these sizes."""
        ends = np.cumsum(sizes)[:-1]
        columns = (np.split(column, ends) for column in (self.difference, self.equivalence, self.level))
        return [Corrected(*part) for part in zip(*columns, strict=True)]


def correct(difference: Array, equivalence: Array, alpha: float) -> Corrected:
    """Correct the p-values, (m,) each, of m contrasts for their number.

    The probability that any true null has a corrected p-value of ``alpha`` or less is at most ``alpha``.

    Args:
        difference, equivalence: of either null hypothesis; NaN where nothing is tested, which then is none of the
            family.
    """
    raw = np.concatenate([difference, equivalence])
    contrast = np.tile(np.arange(len(difference)), 2)
    order = np.argsort(raw, kind="stable")[: int((~np.isnan(raw)).sum())]
    corrected = np.full(len(raw), np.nan)
    factors = np.array([len(set(contrast[order[place:]])) for place in range(len(order))], float)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * raw[order]))
    of_difference, of_equivalence = np.split(corrected, 2)
    return Corrected(of_difference, of_equivalence, alpha / _factors(len(difference), order, factors, corrected, alpha))


def _factors(m: int, order: NDArray[np.intp], factors: Array, corrected: Array, alpha: float) -> Array:
    """(m,): by how much each difference was multiplied; those that are not rejected, by as much as the first of them
    that is not; 1 where nothing is tested."""
    rejected = corrected[order] <= alpha
    last = factors[~rejected][:1] if not rejected.all() else np.ones(1)
    multiplied = np.full(2 * m, 1.0)
    multiplied[order] = np.where(rejected, factors, last)
    return multiplied[:m]

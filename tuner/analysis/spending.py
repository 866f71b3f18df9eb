"""Spending functions say how much of a test's level may have been used up by each look at the data. Imports no room.

A look is taken after a share t of the most units that a plan allows; a(t) is the chance under no effect that a
two-sided test has rejected by then, and a(1) is the level (Lan and DeMets 1983). A one-sided test at level alpha spends
half of what the two-sided one at 2 alpha does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Spending = Literal["kim_demets", "obrien_fleming", "pocock", "e_process"]


@dataclass(frozen=True)
class Looks:
    """When a comparison is looked at, and what each look may spend; declared before there is anything to look at.

    Attributes:
        units: studies, or seeds, at each look, increasing; the last is the cap. None where ``spending`` is
            ``e_process``, which may be looked at after any.
        rho: of ``kim_demets``: the larger, the more is kept for later looks.
    """

    units: tuple[int, ...]
    spending: Spending = "kim_demets"
    rho: float = 2.0

    def spent(self, alpha: float, look: int, *, two_sided: bool = True) -> float:
        """What of the level may be used up by a look, 0 the first."""
        share = self.units[look] / self.units[-1]
        level = alpha if two_sided else 2 * alpha
        return spent(self.spending, level, share, self.rho) / (1 if two_sided else 2)

    def taken(self, units: int) -> int:
        """The looks that so many units have come to."""
        return sum(look <= units for look in self.units)


def spent(spending: Spending, alpha: float, share: float, rho: float = 2.0) -> float:
    """a(t) of a two-sided test.

    ``kim_demets``: alpha t^rho (Kim and DeMets 1987). ``obrien_fleming``: 4 (1 - Phi(z / sqrt t)) with z the quantile
    of 1 - alpha / 4; ``pocock``: alpha ln(1 + (e - 1) t): the two of Lan and DeMets (1983), whose boundaries are close
    to those of O'Brien and Fleming (1979) and of Pocock (1977).
    """
    if spending == "kim_demets":
        return float(alpha * share**rho)
    if spending == "pocock":
        return alpha * math.log(1 + (math.e - 1) * share)
    from scipy.special import ndtr, ndtri

    return float(4 * ndtr(ndtri(alpha / 4) / math.sqrt(share)))

"""The boundary of a searched range: a best value near it says that the range may be too narrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.config.space import Dimension

OUTER_SHARE = 0.05
"""Of a range, on the searched scale: values in it, at either end, are at the boundary."""


def at_boundary(space: Mapping[str, Dimension], hp: Mapping[str, Any]) -> list[str]:
    """The hyperparameters whose value lies in the outer 5 % of its range; a choice never does."""
    positions = {name: dimension.position(hp[name]) for name, dimension in space.items() if name in hp}
    return [name for name, p in positions.items() if p is not None and not OUTER_SHARE <= p <= 1 - OUTER_SHARE]

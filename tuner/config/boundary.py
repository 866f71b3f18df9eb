"""The boundary of a searched range: a best value near it says that the range may be too narrow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tuner.config.space import Dimension

OUTER_SHARE = 0.05
"""Of a range, on the searched scale: values in it, at either end, are at the boundary."""


UNBOUNDED = (-math.inf, math.inf)
LIMITS = {"train.final_lr": (0.0, 1.0), "train.warmup_epochs": (0.0, math.inf)}
"""Beyond these there is nothing that a wider range could hold."""


def at_boundary(space: Mapping[str, Dimension], hp: Mapping[str, Any]) -> list[str]:
    """The hyperparameters with a value in the outer 5 % of its range; no choice is, nor what has no effect."""
    without_effect = {"train.final_lr"} if hp.get("train.schedule") == "constant" else set()
    searched = {name: dim for name, dim in space.items() if name in hp and name not in without_effect}
    return [name for name, dim in searched.items() if _is_outer(dim, hp[name], *LIMITS.get(name, UNBOUNDED))]


def _is_outer(dim: Dimension, value: Any, least: float, largest: float) -> bool:
    """Whether a value is near an end of its range that may be moved."""
    position = dim.position(value)
    if position is None:
        return False
    assert dim.low is not None and dim.high is not None
    return (position < OUTER_SHARE and dim.low > least) or (position > 1 - OUTER_SHARE and dim.high < largest)

"""Which optimizers without a rule of their own can train in one stack, each stepping for itself."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import unwrap
from typing import Any, NamedTuple

from torch import Tensor

from optimizers.base import CurvatureOptimizer
from optimizers.stacking.joining import PLAIN


class EachKey(NamedTuple):
    """What members of a stack have in common of which each steps for itself.

    Attributes:
        optimizer: its class.
        constants: of its parameter groups, what is neither a parameter nor a fraction.
    """

    optimizer: type
    constants: str


def each_key(optimizer: Any, params: Sequence[Tensor]) -> EachKey | None:
    """The key of an optimizer over these parameters; ``None`` where its members must be alone.

    That is one over other tensors, or one of curvature that takes its gradients in a way of its own.
    """
    groups = getattr(optimizer, "param_groups", None)
    if not groups or not callable(getattr(optimizer, "step", None)):
        return None
    own = [param for group in groups for param in group["params"]]
    if not {*map(id, own)} <= {*map(id, params)}:
        return None
    if isinstance(optimizer, CurvatureOptimizer):
        taken = (getattr(type(optimizer), name) for name in ("step", "differentiate"))
        known = (CurvatureOptimizer.step, CurvatureOptimizer.differentiate)
        all_params = list(map(id, own)) == list(map(id, params))
        if list(map(unwrap, taken)) != list(map(unwrap, known)) or optimizer._maximize or not all_params:
            return None
    return EachKey(type(optimizer), repr([_constants(group) for group in groups]))


def _constants(group: dict[str, Any]) -> list[tuple[str, Any]]:
    kept = {name: value for name, value in group.items() if name != "params" and not isinstance(value, float)}
    return [(name, value) for name, value in sorted(kept.items()) if isinstance(value, PLAIN)]

"""A number that each member of a stack has for itself computes as one number does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor


class DisagreeError(RuntimeError):
    """The members of a stack would not do the same: a condition holds for some of them only."""


class MemberNumbers(float):
    """A float to who asks for its type, and each member's own number in all arithmetic.

    Its value as a float is NaN, so that what computes with one number where there are several (``math.sqrt``, say)
    comes to nothing that could be taken for a result.

    Args:
        values: (members,).
    """

    values: np.ndarray

    def __new__(cls, values: Sequence[float] | np.ndarray) -> MemberNumbers:
        self = super().__new__(cls, math.nan)
        self.values = np.asarray(values, dtype=np.float64)
        return self

    def __reduce__(self) -> Any:
        return MemberNumbers, (self.values.tolist(),)

    def __repr__(self) -> str:
        return f"MemberNumbers({self.values.tolist()})"

    def __neg__(self) -> MemberNumbers:
        return MemberNumbers(-self.values)

    def __pos__(self) -> MemberNumbers:
        return self

    def __abs__(self) -> MemberNumbers:
        return MemberNumbers(abs(self.values))

    def __bool__(self) -> bool:
        return _agreed(self.values != 0)

    __hash__ = float.__hash__


def _agreed(conditions: np.ndarray) -> bool:
    """What holds for all members, or for none.

    Raises:
        DisagreeError: it holds for some.
    """
    if conditions.all():
        return True
    if conditions.any():
        raise DisagreeError("a condition holds for some members only")
    return False


def _arithmetic(name: str) -> Callable[[MemberNumbers, Any], Any]:
    """The operator of a float of this name, on each member's."""
    of_float = getattr(float, name)

    def operate(self: MemberNumbers, other: Any) -> Any:
        if isinstance(other, Tensor) or not isinstance(other, int | float):
            return NotImplemented
        others = other.values if isinstance(other, MemberNumbers) else np.full(len(self.values), float(other))
        # Python's own, member by member: NumPy's powers may differ in the last bit.
        return MemberNumbers([of_float(a, b) for a, b in zip(self.values.tolist(), others.tolist(), strict=True)])

    return operate


def _comparison(name: str) -> Callable[[MemberNumbers, Any], Any]:
    of_array = getattr(np.ndarray, name)

    def compare(self: MemberNumbers, other: Any) -> Any:
        if isinstance(other, Tensor) or not isinstance(other, int | float):
            return NotImplemented
        return _agreed(of_array(self.values, other.values if isinstance(other, MemberNumbers) else other))

    return compare


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    for _prefix in ("", "r"):
        setattr(MemberNumbers, f"__{_prefix}{_name}__", _arithmetic(f"__{_prefix}{_name}__"))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(MemberNumbers, f"__{_name}__", _comparison(f"__{_name}__"))

"""A number that each member of a stack has for itself computes as one number does."""

from __future__ import annotations

import math
import operator
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

    floats: tuple[float, ...]
    tensors: dict[Any, Tensor]
    """The numbers as tensors, by kind: for who made them."""

    def __new__(cls, values: Sequence[float] | np.ndarray) -> MemberNumbers:
        return _made(np.asarray(values, dtype=np.float64).tolist())

    @property
    def values(self) -> np.ndarray:
        """(members,)"""
        return np.array(self.floats)

    def __reduce__(self) -> Any:
        return MemberNumbers, (list(self.floats),)

    def __repr__(self) -> str:
        return f"MemberNumbers({list(self.floats)})"

    def __neg__(self) -> MemberNumbers:
        return _made([-a for a in self.floats])

    def __pos__(self) -> MemberNumbers:
        return self

    def __abs__(self) -> MemberNumbers:
        return _made([abs(a) for a in self.floats])

    def __bool__(self) -> bool:
        return _agreed([a != 0 for a in self.floats])

    __hash__ = float.__hash__


def _made(floats: Sequence[float]) -> MemberNumbers:
    """Of Python's floats."""
    self = float.__new__(MemberNumbers, math.nan)
    self.floats, self.tensors = tuple(floats), {}
    return self


def _agreed(conditions: Sequence[bool]) -> bool:
    """What holds for all members, or for none.

    Raises:
        DisagreeError: it holds for some.
    """
    if all(conditions):
        return True
    if any(conditions):
        raise DisagreeError("a condition holds for some members only")
    return False


def _operands(self: MemberNumbers, other: Any) -> Sequence[float] | None:
    """Those that members' own meet; none where the other is no number."""
    if type(other) is MemberNumbers:
        return other.floats
    if isinstance(other, Tensor) or not isinstance(other, int | float):
        return None
    return (float(other),) * len(self.floats)


def _arithmetic(name: str, *, reflected: bool) -> Callable[[MemberNumbers, Any], Any]:
    """The operator of this name on each member's: Python's own, since NumPy's powers may differ in the last bit."""
    of_floats = getattr(operator, name)

    def operate(self: MemberNumbers, other: Any) -> Any:
        others = _operands(self, other)
        if others is None:
            return NotImplemented
        first, second = (others, self.floats) if reflected else (self.floats, others)
        results = [*map(of_floats, first, second)]
        return MemberNumbers(results) if name == "pow" else _made(results)  # a power may be complex

    return operate


def _comparison(name: str) -> Callable[[MemberNumbers, Any], Any]:
    of_floats = getattr(operator, name)

    def compare(self: MemberNumbers, other: Any) -> Any:
        others = _operands(self, other)
        return NotImplemented if others is None else _agreed([*map(of_floats, self.floats, others)])

    return compare


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(MemberNumbers, f"__{_name}__", _arithmetic(_name, reflected=False))
    setattr(MemberNumbers, f"__r{_name}__", _arithmetic(_name, reflected=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(MemberNumbers, f"__{_name}__", _comparison(_name))

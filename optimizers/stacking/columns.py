"""Calls with a number that members differ in become calls with a tensor, or one for each of a list of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.stacking.direct import Stacked
from optimizers.stacking.member_numbers import MemberNumbers

ALIKE = frozenset({float, int, bool, type(None), torch.memory_format, torch.dtype, torch.device})
"""Types of what is the same for all members."""
FULL_PRECISION = (torch.float32, torch.float64)
TAKES_TENSORS = frozenset({"mul", "div", "add", "sub", "maximum", "minimum", "clamp_min", "clamp_max"})
"""Functions whose one number may be a list of tensors."""
Call = tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]
Column = Callable[[MemberNumbers, int, Tensor], Tensor]


def lists_alike(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether all lists are of members' own tensors, of the same shapes in all lists, and all numbers are alike."""
    numbers = [x for x in (*args, *kwargs.values()) if not (type(x) is list or type(x) is tuple)]
    return all(type(x) in ALIKE for x in numbers) and _own_alike(args)


def _own_alike(args: Sequence[Any]) -> bool:
    """Whether all lists are of members' own tensors, of the same shapes in all lists."""
    lists = [x for x in args if type(x) is list or type(x) is tuple]
    if not lists or not all(isinstance(x, Stacked) for part in lists for x in part):
        return False
    return all(x.size() == first.size() for part in lists[1:] for x, first in zip(part, lists[0], strict=True))


def with_columns(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], column: Column) -> Call | None:
    """A call of a function of lists with one number that members differ in, as one with tensors.

    Args:
        column: makes the number a tensor for those of a member's rank that are like another.

    Returns:
        What is to be called; ``None`` where it is not known how.
    """
    name = func.__name__.removeprefix("_foreach_")
    base = name.removesuffix("_")
    lists = [x for x in args if type(x) is list or type(x) is tuple]
    numbers = [*args[len(lists) :], *kwargs.values()]
    if not _own_alike(args) or len(numbers) != 1 or type(numbers[0]) is not MemberNumbers or not lists[0]:
        return None
    if any(x.dtype != lists[0][0].dtype or x.dtype not in FULL_PRECISION for part in lists for x in part):
        return None
    columns = [column(numbers[0], x.dim() - 1, x) for x in lists[0]]
    named = next(iter(kwargs), "")
    if (len(lists) == 1 and base in TAKES_TENSORS and not named) or (len(lists) == 2 and base == "lerp"):
        return func, [*lists, columns], {}
    if len(lists) == 2 and base in ("add", "sub") and named == "alpha":
        added = torch._foreach_addcmul_ if name != base else torch._foreach_addcmul
        return added, [*lists, columns], {"value": 1 - 2 * (base == "sub")}
    if len(lists) == 3 and base in ("addcmul", "addcdiv"):
        return func, [lists[0], torch._foreach_mul(lists[1], columns), lists[2]], {}
    return None


def with_column(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], column: Column) -> Call | None:
    """A call of a pointwise function of members' tensors of one type, with numbers that differ, as one with tensors;
    ``None`` where it is another.
    """
    largest, rank = None, 0
    for x in args:
        if isinstance(x, Stacked):
            if largest is not None and x.dtype != largest.dtype:
                return None
            if x.dim() > rank:
                largest, rank = x, x.dim()
        elif type(x) is not MemberNumbers and type(x) not in ALIKE:
            return None
    name = func.__name__
    base = name.removesuffix("_")
    if largest is None or largest.dtype not in FULL_PRECISION or base in ("full_like", "fill"):
        return None
    like = largest

    def operand(x: Any) -> Any:
        if isinstance(x, Stacked):
            return x if x.dim() == rank else x.view(x.size(0), *[1] * (rank - x.dim()), *x.size()[1:])
        return column(x, rank - 1, like) if type(x) is MemberNumbers else x

    operands = [*map(operand, args)]
    if not kwargs:
        return func, operands, {}
    alone = len(kwargs) == 1 and len(args) == 2 and isinstance(args[1], Stacked) and isinstance(args[0], Stacked)
    if not alone or base not in ("add", "sub") or type(kwargs.get("alpha")) is not MemberNumbers:
        return None
    added = Tensor.addcmul if name == base else Tensor.addcmul_
    return added, [*operands, operand(kwargs["alpha"])], {"value": 1 - 2 * (base == "sub")}

"""A list of tensors is treated as one by a rule that was written for a tensor, with PyTorch's foreach kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


class TensorList(Sequence[Tensor]):
    """Tensors of one dtype and device that compute as one; each result is again a list.

    Operators, tensor methods and torch functions act on every tensor. Other operands are lists of the same length, or
    one number or 0-dim tensor for all. What has a foreach kernel takes it; the rest runs on one tensor after the other.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, index: Any) -> Any:
        return self.tensors[index]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> TensorList:
        return _apply(func.__name__, func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "tensors":
            raise AttributeError(name)
        attribute = getattr(self.tensors[0], name)
        if not callable(attribute):  # dtype, device
            return attribute
        method = getattr(Tensor, name)
        return lambda *args, **kwargs: _apply(name, method, (self, *args), kwargs)

    def __neg__(self) -> TensorList:
        return _apply("neg", torch.neg, (self,), {})

    def __add__(self, other: Any) -> TensorList:
        return _apply("add", torch.add, (self, other), {})

    def __sub__(self, other: Any) -> TensorList:
        return _apply("sub", torch.sub, (self, other), {})

    def __mul__(self, other: Any) -> TensorList:
        return _apply("mul", torch.mul, (self, other), {})

    def __truediv__(self, other: Any) -> TensorList:
        return _apply("div", torch.div, (self, other), {})

    def __rsub__(self, other: Any) -> TensorList:
        return -self + other

    def __rtruediv__(self, other: Any) -> TensorList:
        return self.reciprocal() * other  # as PyTorch divides a number by a tensor

    __radd__ = __add__
    __rmul__ = __mul__


def _clamp(tensors: list[Tensor], min: float | None = None, max: float | None = None) -> list[Tensor]:
    if min is not None:
        tensors = torch._foreach_clamp_min(tensors, min)
    return tensors if max is None else torch._foreach_clamp_max(tensors, max)


FOREACH: dict[str, Callable[..., Any]] = {
    "abs": torch._foreach_abs,
    "add": torch._foreach_add,
    "addcdiv": torch._foreach_addcdiv,
    "addcmul": torch._foreach_addcmul,
    "clamp": _clamp,
    "div": torch._foreach_div,
    "expm1": torch._foreach_expm1,
    "lerp": torch._foreach_lerp,
    "mul": torch._foreach_mul,
    "neg": torch._foreach_neg,
    "reciprocal": torch._foreach_reciprocal,
    "norm": lambda tensors, p, dtype: torch._foreach_norm(tensors, p, dtype=dtype),
    "sign": torch._foreach_sign,
    "sqrt": torch._foreach_sqrt,
    "square": lambda tensors: torch._foreach_mul(tensors, tensors),
    "sub": torch._foreach_sub,
}
TAKES_A_TENSOR_FOR_ALL = ("div", "mul")


def _apply(name: str, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> TensorList:
    operands = [*args, *kwargs.values()]
    lists = [operand for operand in operands if isinstance(operand, TensorList)]
    if name in FOREACH and isinstance(args[0], TensorList) and all(_fits(name, lists[0], o) for o in operands):
        given = [o.tensors if isinstance(o, TensorList) else o for o in args]
        return TensorList(FOREACH[name](*given, **kwargs))

    def pick(operand: Any, i: int) -> Any:
        return operand[i] if isinstance(operand, TensorList) else operand

    return TensorList(
        [func(*(pick(o, i) for o in args), **{k: pick(o, i) for k, o in kwargs.items()}) for i in range(len(lists[0]))]
    )


def _fits(name: str, tensors: TensorList, operand: Any) -> bool:
    if isinstance(operand, Tensor):
        return name in TAKES_A_TENSOR_FOR_ALL and operand.device == tensors[0].device
    return True

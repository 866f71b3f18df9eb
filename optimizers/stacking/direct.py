"""Some functions of members' tensors have one for stacked tensors, which takes a fraction of a batching rule's time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Stacked(Tensor):
    """Tensors of all members, (members, ...), where an optimizer expects those of one."""


def _matrices(*tensors: Any) -> bool:
    return all(type(tensor) is Stacked and tensor.dim() == 3 for tensor in tensors)


def _matmul(a: Any, b: Any) -> Tensor | None:
    return torch.bmm(a, b) if _matrices(a, b) else None


def _transpose(a: Any, *dims: Any) -> Tensor | None:
    if not _matrices(a) or (dims and {*dims} not in ({0, 1}, {-2, -1})):
        return None
    return a.transpose(1, 2)


def _permute(a: Any, *dims: Any) -> Tensor | None:
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], list | tuple) else dims
    if type(a) is not Stacked or any(dim < 0 for dim in order):
        return None
    return a.permute(0, *(dim + 1 for dim in order))


def _tensordot(a: Any, b: Any, dims: Any = 2) -> Tensor | None:
    """Over one dimension of each."""
    pairs = isinstance(dims, list | tuple) and len(dims) == 2 and all(isinstance(of, list | tuple) for of in dims)
    if not _matrices(a, b) or not pairs or [len(of) for of in dims] != [1, 1] or {*dims[0], *dims[1]} - {0, 1}:
        return None
    left = a if dims[0][0] == 1 else a.transpose(1, 2)
    right = b if dims[1][0] == 0 else b.transpose(1, 2)
    return torch.bmm(left, right)


def _norm(a: Any, *rest: Any) -> Tensor | None:
    if type(a) is not Stacked or rest:
        return None
    return torch.linalg.vector_norm(a.reshape(len(a), -1), dim=1)


def _sum(a: Any, *rest: Any) -> Tensor | None:
    return None if type(a) is not Stacked or rest else a.reshape(len(a), -1).sum(1)


def _mean(a: Any, *rest: Any) -> Tensor | None:
    return None if type(a) is not Stacked or rest else a.reshape(len(a), -1).mean(1)


DIRECT: dict[str, Callable[..., Tensor | None]] = {
    "matmul": _matmul,
    "mm": _matmul,
    "__matmul__": _matmul,
    "t": _transpose,
    "transpose": _transpose,
    "permute": _permute,
    "tensordot": _tensordot,
    "norm": _norm,
    "sum": _sum,
    "mean": _mean,
}
"""By their names; each gives ``None`` for arguments that are left to batching rules."""

"""Some functions of members' tensors have one for stacked tensors, which takes a fraction of a batching rule's time."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

BY_MATRIX = frozenset(
    {"linalg_qr", "linalg_eigh", "linalg_eigvalsh", "linalg_cholesky", "linalg_inv", "linalg_svd", "linalg_svdvals"}
)
"""Functions that do the same to each matrix of a batch as to one."""


SILENT = torch._C.DisableTorchFunction
"""Within it functions take stacked tensors for what they are."""


class Stacked(Tensor):
    """Tensors of all members, (members, ...), where an optimizer expects those of one.

    What is computed with them outside of ``AsOne`` gives plain tensors. What is asked for most often is found without
    it.

    Attributes:
        trained: whether it stands for a parameter that is trained.
        own_grad: its gradient, (members, ...).
    """

    __torch_function__ = torch._C._disabled_torch_function_impl
    is_sparse = False
    _shape: torch.Size | None = None
    _dtype: torch.dtype | None = None
    trained = False
    own_grad: Tensor | None = None

    @property
    def shape(self) -> Any:
        """A member's; that of the stacked tensor is its ``size()``."""
        if self._shape is None:
            with SILENT():
                self._shape = self.size()[1:]
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        if self._dtype is None:
            with SILENT():
                self._dtype = self.as_subclass(Tensor).dtype
        return self._dtype

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d tensor")
        return int(self.shape[0])

    @property
    def grad(self) -> Tensor | None:
        return self.own_grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        self.own_grad = value


def _matrices(*tensors: Any) -> bool:
    return all(isinstance(tensor, Stacked) and tensor.dim() == 3 for tensor in tensors)


def _dim(a: Any, dim: Any) -> int | None:
    """A dimension of a member's tensor as one of the stacked tensor."""
    if not isinstance(a, Stacked) or type(dim) is not int or not -a.dim() < dim < a.dim() - 1:
        return None
    return dim + 1 if dim >= 0 else dim


def _matmul(a: Any, b: Any) -> Tensor | None:
    return torch.bmm(a, b) if _matrices(a, b) else None


def _transpose(a: Any, *dims: Any) -> Tensor | None:
    if not _matrices(a) or (dims and {*dims} not in ({0, 1}, {-2, -1})):
        return None
    return a.transpose(1, 2)


def _permute(a: Any, *dims: Any) -> Tensor | None:
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], list | tuple) else dims
    if not isinstance(a, Stacked) or any(dim < 0 for dim in order):
        return None
    return a.permute(0, *(dim + 1 for dim in order))


def _tensordot(a: Any, b: Any, dims: Any = 2) -> Tensor | None:
    """Over one dimension of each."""
    pairs = isinstance(dims, list | tuple) and len(dims) == 2 and all(isinstance(of, list | tuple) for of in dims)
    if not pairs or not _matrices(a, b) or [len(of) for of in dims] != [1, 1] or {*dims[0], *dims[1]} - {0, 1}:
        return None
    left = a if dims[0][0] == 1 else a.transpose(1, 2)
    right = b if dims[1][0] == 0 else b.transpose(1, 2)
    return torch.bmm(left, right)


def _norm(a: Any) -> Tensor | None:
    return torch.linalg.vector_norm(a.reshape(a.size(0), -1), dim=1) if isinstance(a, Stacked) else None


def _sum(a: Any, dim: Any = None, keepdim: bool = False) -> Tensor | None:
    return _reduced(torch.sum, a, dim, keepdim)


def _mean(a: Any, dim: Any = None, keepdim: bool = False) -> Tensor | None:
    return _reduced(torch.mean, a, dim, keepdim)


def _reduced(function: Callable[..., Tensor], a: Any, dim: Any, keepdim: bool) -> Tensor | None:
    if dim is None:
        return function(a.reshape(a.size(0), -1), 1) if isinstance(a, Stacked) and not keepdim else None
    own = _dim(a, dim)
    return None if own is None else function(a, own, keepdim)


def _argsort(a: Any, dim: Any = -1, descending: bool = False) -> Tensor | None:
    own = _dim(a, dim)
    return None if own is None else torch.argsort(a, own, descending)


def _index_select(a: Any, dim: Any, index: Any) -> Tensor | None:
    own = _dim(a, dim)
    if own is None or not isinstance(index, Stacked) or index.dim() != 2:
        return None
    own %= a.dim()
    places = index.view(a.size(0), *[-1 if i == own else 1 for i in range(1, a.dim())])
    return torch.gather(a, own, places.expand(*a.size()[:own], -1, *a.size()[own + 1 :]))


def _unsqueeze(a: Any, dim: Any) -> Tensor | None:
    if not isinstance(a, Stacked) or type(dim) is not int or not -a.dim() <= dim < a.dim():
        return None
    return a.unsqueeze(dim + 1 if dim >= 0 else dim)


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
    "argsort": _argsort,
    "index_select": _index_select,
    "unsqueeze": _unsqueeze,
}
"""By their names; each gives ``None`` for arguments that are left to batching rules."""


@cache
def takes(name: str, count: int, named: tuple[str, ...]) -> bool:
    """Whether the function of this name has so many parameters, and others of these names."""
    try:
        inspect.signature(DIRECT[name]).bind(*[None] * count, **dict.fromkeys(named))
    except TypeError:
        return False
    return True

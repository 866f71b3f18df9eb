"""Log-softmax over short rows, as stacks do it: PyTorch's kernel on a CPU goes through them entry by entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ATEN = torch.ops.aten
SHORT = 32
"""Entries; from here on PyTorch's own kernel is as fast."""
FEWEST = 64
"""Rows that are worth several operations in place of one."""


def log_softmax(rows: Tensor, dim: int, half_to_float: bool) -> Tensor:
    """As ``aten::_log_softmax`` over the last dimension."""
    shifted = rows - rows.amax(-1, keepdim=True)
    return shifted - shifted.exp().sum(-1, keepdim=True).log()


def log_softmax_backward(grad: Tensor, output: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """As ``aten::_log_softmax_backward_data`` over the last dimension."""
    return grad - output.exp() * grad.sum(-1, keepdim=True)


DONE_OTHERWISE: dict[Any, Callable[..., Tensor]] = {
    ATEN._log_softmax.default: log_softmax,
    ATEN._log_softmax_backward_data.default: log_softmax_backward,
}


class ShortRows(TorchDispatchMode):
    """Within it log-softmax and its gradient are done otherwise where that is faster, below ``vmap`` and autograd."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        otherwise = DONE_OTHERWISE.get(func)
        return (otherwise if otherwise and _is_faster(*args) else func)(*args, **(kwargs or {}))


def _is_faster(rows: Tensor, *rest: Any) -> bool:
    """Of either operation's arguments, whose last ones are the dimension and a type."""
    dim, kind = rest[-2:]
    length = rows.shape[-1] if rows.ndim else 0
    plain = rows.device.type == "cpu" and rows.dtype in (torch.float32, torch.float64) and kind in (False, rows.dtype)
    return plain and dim in (-1, rows.ndim - 1) and 0 < length < SHORT and rows.numel() >= FEWEST * length

"""Arithmetic is shared by several update rules: checks of arguments, counts, averages."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.nn import functional

from optimizers.apply import Hyperparameters
from optimizers.tensor_list import TensorList

CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


def check(**given: tuple[Any, bool]) -> None:
    """
    Raises:
        ValueError: naming the first argument, ``name=(value, valid)``, that is not valid.
    """
    for name, (value, valid) in given.items():
        if not valid:
            raise ValueError(f"{name} is out of range: {value}")


def valid_betas(betas: Any) -> bool:
    return isinstance(betas, tuple | list) and len(betas) == 2 and all(0 <= beta < 1 for beta in betas)


def new_count(param: Tensor) -> Tensor:
    """A count of zero, in at least single precision: in half precision it would stop at 256 or 2048."""
    return torch.zeros((), dtype=torch.promote_types(param.dtype, torch.float32), device=param.device)


def at_hand(count: Tensor) -> bool:
    """Whether the host can read a count without waiting: it is on the CPU, and one run's rather than a stack's."""
    return type(count) is Tensor and count.is_cpu and not is_batchedtensor(count)


def unbias(beta: float | Tensor, step: Tensor) -> float | Tensor:
    """``1 - beta^step``, to full precision also where it is small; a number where the count is at hand."""
    if isinstance(beta, Tensor):
        return functional.elu(step * beta.log(), -1.0)  # below 0 that is -expm1, in one kernel
    if beta == 0:
        return 1.0
    if at_hand(step):
        return -math.expm1(step.item() * math.log(beta))
    return functional.elu(step * math.log(beta), -1.0)


def unbiases(betas: tuple[float | Tensor, float | Tensor], step: Tensor) -> tuple[float | Tensor, float | Tensor]:
    """``unbias`` of both, in three kernels where there are any."""
    if not isinstance(step, Tensor) or at_hand(step) or any(isinstance(beta, Tensor) for beta in betas):
        return unbias(betas[0], step), unbias(betas[1], step)
    back = -step
    rates = [-math.log(beta) if beta > 0 else math.inf for beta in betas]
    first, second = (torch.ops.aten.elu.default(back, -1.0, 1.0, rate) for rate in rates)
    return first, second


def decayed(param: Tensor, hp: Hyperparameters) -> Tensor:
    """Decoupled weight decay: ``param (1 - lr weight_decay)``."""
    decay = hp["weight_decay"]
    if isinstance(decay, float) and decay == 0.0:
        return param
    return param - param * (hp["lr"] * decay)  # 1 - lr weight_decay would be rounded alike at every step


def average(old: Tensor, new: Tensor, beta: float | Tensor) -> Tensor:
    """``beta old + (1 - beta) new``"""
    return old + (1 - beta) * (new - old) if isinstance(beta, Tensor) else old.lerp(new, 1 - beta)


def least(x: Tensor, at_most: float, sizes: list[int] | None = None) -> Tensor:
    """The least entry, or a number where that is less, 0-dim; where tensors of these sizes lie side by side, at each
    entry that of its own tensor."""
    if isinstance(x, TensorList):
        return x.least(at_most)
    found = x.amin() if sizes is None else torch.cat([part.amin().expand_as(part) for part in x.split(sizes)])
    return found.clamp(max=at_most)


def floor(eps: float | Tensor, like: Tensor) -> float | Tensor:
    """``eps``, but not so small that half precision takes it for zero."""
    tiny = _tiny(like.dtype)
    return eps.clamp(min=tiny) if isinstance(eps, Tensor) else max(eps, tiny)


@cache
def _tiny(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).tiny


# One kernel where the scale is a number; PyTorch's own do not take a tensor there.


def plus(a: Tensor, scale: float | Tensor, b: Tensor) -> Tensor:
    """``a + scale b``"""
    return a + scale * b if isinstance(scale, Tensor) else a.add(b, alpha=scale)


def plus_product(a: Tensor, scale: float | Tensor, b: Tensor, c: Tensor) -> Tensor:
    """``a + scale b c``"""
    return a + scale * b * c if isinstance(scale, Tensor) else a.addcmul(b, c, value=scale)


def plus_quotient(a: Tensor, scale: float | Tensor, b: Tensor, c: Tensor) -> Tensor:
    """``a + scale b / c``"""
    return a + scale * b / c if isinstance(scale, Tensor) else a.addcdiv(b, c, value=scale)


def plus_unbiased_quotient(a: Tensor, scale: float | Tensor, b: Tensor, bias: float | Tensor, c: Tensor) -> Tensor:
    """``a + scale (b / bias) / c``"""
    if isinstance(bias, Tensor):
        return plus_quotient(a, scale, b / bias, c)
    return plus_quotient(a, scale / bias, b, c)

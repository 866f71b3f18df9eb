"""Arithmetic is shared by several update rules: checks of arguments, counts, averages."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
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


def unbias(beta: float | Tensor, step: Tensor) -> Tensor:
    """``1 - beta^step``, to full precision also where it is small."""
    log = beta.log() if isinstance(beta, Tensor) else math.log(beta) if beta > 0 else -math.inf
    return functional.elu(step * log, -1.0)  # below 0 that is -expm1, in one kernel


def unbiases(betas: tuple[float | Tensor, float | Tensor], step: Tensor) -> tuple[Tensor, Tensor]:
    """``unbias`` of both, in three kernels."""
    if not isinstance(step, Tensor) or any(isinstance(beta, Tensor) for beta in betas):
        return unbias(betas[0], step), unbias(betas[1], step)
    back = -step
    rates = [-math.log(beta) if beta > 0 else math.inf for beta in betas]
    first, second = (torch.ops.aten.elu.default(back, -1.0, 1.0, rate) for rate in rates)
    return first, second


def least(x: Tensor, at_most: float) -> Tensor:
    """``x.amin()``, or a number where that is less."""
    return x.least(at_most) if isinstance(x, TensorList) else x.amin().clamp(max=at_most)


def decayed(param: Tensor, hp: Hyperparameters) -> Tensor:
    """Decoupled weight decay: ``param (1 - lr weight_decay)``."""
    decay = hp["weight_decay"]
    if isinstance(decay, float) and decay == 0.0:
        return param
    return param - param * (hp["lr"] * decay)  # 1 - lr weight_decay would be rounded alike at every step


def average(old: Tensor, new: Tensor, beta: float | Tensor) -> Tensor:
    """``beta old + (1 - beta) new``"""
    return old + (1 - beta) * (new - old) if isinstance(beta, Tensor) else old.lerp(new, 1 - beta)


def floor(eps: float | Tensor, like: Tensor) -> float | Tensor:
    """``eps``, but not so small that half precision takes it for zero."""
    tiny = torch.finfo(like.dtype).tiny
    return eps.clamp(min=tiny) if isinstance(eps, Tensor) else max(eps, tiny)


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

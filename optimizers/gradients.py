"""Gradients of all parameters are copied and clipped together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optimizers.arithmetic import CLIP_EPS


def copied(grads: Sequence[Tensor | None], params: Sequence[Tensor]) -> list[Tensor | None]:
    """Copies without their graphs, which lie in memory as the parameters do."""
    given = [grad.detach() for grad in grads if grad is not None]
    copies = [torch.empty_like(p) for p, grad in zip(params, grads, strict=True) if grad is not None]
    if copies:
        torch._foreach_copy_(copies, given)
    rest = iter(copies)
    return [None if grad is None else next(rest) for grad in grads]


def clip_to_norm(grads: list[Tensor | None], max_norm: float | None) -> list[Tensor | None]:
    """The gradients, without their graphs, scaled down to a norm over all of them."""
    if max_norm is None:
        return [g if g is None or not g.requires_grad else g.detach() for g in grads]
    given = [g.detach() for g in grads if g is not None]
    if given:
        norm = torch.nn.utils.get_total_norm(given)
        scale = (max_norm / (norm + CLIP_EPS)).clamp(max=1.0)
        if all(g.device == scale.device for g in given):
            given = list(torch._foreach_mul(given, scale))
        else:
            given = [g * scale.to(g.device) for g in given]
    rest = iter(given)
    return [None if g is None else next(rest) for g in grads]

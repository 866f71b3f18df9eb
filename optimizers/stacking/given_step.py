"""A curvature optimizer takes a step with gradients that were taken elsewhere: by a stack, or by a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from optimizers.base import CurvatureOptimizer
from optimizers.gradients import clip_to_norm


@torch.no_grad()
def step_with(
    optimizer: CurvatureOptimizer,
    grads: Sequence[Tensor | None],
    curvatures: Sequence[Tensor | None] | None = None,
    cost: float = 0.0,
    max_grad_norm: float | None = None,
    apply: Callable[[Sequence[Tensor | None], Sequence[Tensor | None]], object] | None = None,
) -> None:
    """What ``optimizer.step`` does once it has, for each parameter, gradients and curvatures.

    Args:
        curvatures: at a refresh.
        cost: of those, in gradients.
        max_grad_norm: as in ``step``.
        apply: what applies the optimizer's rule; by default it does so itself.
    """
    params = [param for group in optimizer.param_groups for param in group["params"]]
    applied = clip_to_norm(list(grads), max_grad_norm)
    for param, grad in zip(params, applied, strict=True):
        param.grad = grad
    if optimizer.estimator.previous_gradients:
        optimizer._previous |= {i: grad.clone() for i, grad in enumerate(grads) if grad is not None}
    (apply or optimizer._apply)(applied, curvatures or [None] * len(params))
    optimizer._steps += 1
    optimizer.grad_equivalents += 1.0 + cost

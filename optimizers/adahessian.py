"""AdaHessian: Adam with the Hessian's diagonal in place of the gradient in the second moment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.apply import Hyperparameters, State
from optimizers.base import CurvatureOptimizer
from optimizers.rules import check, new_step, plus_product, unbiased_step, valid_betas


class AdaHessian(CurvatureOptimizer):
    r"""Adam's step, with the Hessian's diagonal in place of the gradient in the second moment.

    With the gradient :math:`g` and the Hessian's diagonal :math:`h`, held between refreshes:

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad v = \beta_2 v + (1 - \beta_2) h^2 \\
        \theta &\leftarrow (1 - \text{lr} \cdot \text{weight\_decay})\, \theta - \text{lr} \;
            \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    With h = g it is AdamW. The paper also averages h over a convolution's kernel; that is left out here, where every
    rule works entry by entry.

    Source: Yao, Gholami, Shen, Mustafa, Keutzer, Mahoney, "AdaHessian: an adaptive second order optimizer for machine
    learning", 2021 (arXiv 2006.00719), equations 10 and 11 with k = 1.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        betas: decay rates of m and v, in [0, 1).
        eps: added to the root, >= 0.
        weight_decay: decoupled weight decay, >= 0.
        options: estimator, update_period (default 1), maximize, foreach, compile: see ``CurvatureOptimizer``.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 0.15,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        check(
            lr=(lr, lr >= 0),
            betas=(betas, valid_betas(betas)),
            eps=(eps, eps >= 0),
            weight_decay=(weight_decay, weight_decay >= 0),
        )
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, **options)

    @staticmethod
    def update(
        param: Tensor, grad: Tensor, curvature: Tensor | None, state: State, hp: Hyperparameters
    ) -> tuple[Tensor, State]:
        """State: ``step`` (0-dim), ``hessian``, ``momentum``, ``hessian_sq`` (the parameter's shape)."""
        beta1, beta2 = hp["betas"]
        state = state or initial_state(param)
        step = state["step"] + 1
        hessian = state["hessian"] if curvature is None else curvature
        momentum = state["momentum"].lerp(grad, 1 - beta1)
        hessian_sq = plus_product(state["hessian_sq"] * beta2, 1 - beta2, hessian, hessian)
        new_param = unbiased_step(param, momentum, hessian_sq, step, hp)
        return new_param, {"step": step, "hessian": hessian, "momentum": momentum, "hessian_sq": hessian_sq}


def initial_state(param: Tensor) -> State:
    return {"step": new_step(param)} | {k: torch.zeros_like(param) for k in ("hessian", "momentum", "hessian_sq")}

"""AdaHessian: Adam with the Hessian's diagonal in place of the gradient in the second moment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.apply import Hyperparameters, State
from optimizers.arithmetic import (
    average,
    check,
    decayed,
    new_count,
    plus_product,
    plus_unbiased_quotient,
    unbias,
    valid_betas,
)
from optimizers.base import CurvatureOptimizer
from optimizers.side_by_side import side_by_side


class AdaHessian(CurvatureOptimizer):
    r"""Adam's step, with the Hessian's diagonal in place of the gradient in the second moment.

    With the gradient :math:`g`, the Hessian's diagonal :math:`h`, and r refreshes in t steps:

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g \\
        v &= \beta_2 v + (1 - \beta_2) h^2 \quad\text{(every update\_period steps)} \\
        \theta &\leftarrow (1 - \text{lr} \cdot \text{weight\_decay})\, \theta - \text{lr} \;
            \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^r)} + \epsilon}

    With h = g it is AdamW. A parameter without curvature so far stays where it is. The paper also averages h over a
    convolution's kernel; that is left out here, where every rule works entry by entry.

    Source: Yao, Gholami, Shen, Mustafa, Keutzer, Mahoney, "AdaHessian: an adaptive second order optimizer for machine
    learning", 2021 (arXiv 2006.00719), with Hessian power 1.

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
    @side_by_side
    def update(
        param: Tensor, grad: Tensor, curvature: Tensor | None, state: State, hp: Hyperparameters
    ) -> tuple[Tensor, State]:
        """State: ``step``, ``refreshes`` (0-dim), ``momentum``, ``hessian_sq``, ``root`` (the parameter's shape)."""
        beta1, beta2 = hp["betas"]
        state = {**(state or initial_state(param))}
        if curvature is not None:
            state["refreshes"] = state["refreshes"] + 1
            state["hessian_sq"] = plus_product(state["hessian_sq"] * beta2, 1 - beta2, curvature, curvature)
            state["root"] = state["hessian_sq"].sqrt() / unbias(beta2, state["refreshes"]) ** 0.5 + hp["eps"]
        state["step"] = state["step"] + 1
        state["momentum"] = average(state["momentum"], grad, beta1)
        bias, momentum = unbias(beta1, state["step"]), state["momentum"]
        return plus_unbiased_quotient(decayed(param, hp), -hp["lr"], momentum, bias, state["root"]), state


def initial_state(param: Tensor) -> State:
    """The root is infinite: no step before there is a curvature to divide by."""
    counts = {"step": new_count(param), "refreshes": new_count(param)}
    momentum, hessian_sq = torch.zeros_like(param), torch.zeros_like(param)
    return {**counts, "momentum": momentum, "hessian_sq": hessian_sq, "root": torch.full_like(param, torch.inf)}

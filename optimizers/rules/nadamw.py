"""NAdamW: AdamW with Nesterov's look ahead, the baseline of AlgoPerf."""

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
from optimizers.first_order import FirstOrderOptimizer


class NAdamW(FirstOrderOptimizer):
    r"""AdamW with Nesterov's look ahead: the momentum of the step is averaged with the gradient once more.

    With the gradient :math:`g` of step t:

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad v = \beta_2 v + (1 - \beta_2) g^2 \\
        \theta &\leftarrow (1 - \text{lr} \cdot \text{weight\_decay})\, \theta - \text{lr} \;
            \frac{(\beta_1 m + (1 - \beta_1) g) / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    It is not ``torch.optim.NAdam``, whose :math:`\beta_1` changes from step to step.

    Source: Dahl et al., "Benchmarking neural network training algorithms", 2023 (arXiv 2306.07179), the baseline of
    AlgoPerf; Choi et al., "On empirical comparisons of optimizers for deep learning", 2019 (arXiv 1910.05446), table 1.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        betas: decay rates of m and v, in [0, 1).
        eps: added to the root, >= 0.
        weight_decay: decoupled weight decay, >= 0.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        check(
            lr=(lr, lr >= 0),
            betas=(betas, valid_betas(betas)),
            eps=(eps, eps >= 0),
            weight_decay=(weight_decay, weight_decay >= 0),
        )
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    @staticmethod
    def update(
        param: Tensor, grad: Tensor, curvature: Tensor | None, state: State, hp: Hyperparameters
    ) -> tuple[Tensor, State]:
        """State: ``step`` (0-dim), ``exp_avg``, ``exp_avg_sq`` (the parameter's shape)."""
        beta1, beta2 = hp["betas"]
        state = state or initial_state(param)
        step = state["step"] + 1
        exp_avg = average(state["exp_avg"], grad, beta1)
        exp_avg_sq = plus_product(state["exp_avg_sq"] * beta2, 1 - beta2, grad, grad)
        root = (exp_avg_sq / unbias(beta2, step)).sqrt() + hp["eps"]
        ahead, bias = average(exp_avg, grad, beta1), unbias(beta1, step)
        return plus_unbiased_quotient(decayed(param, hp), -hp["lr"], ahead, bias, root), {
            "step": step, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq,
        }  # fmt: skip


def initial_state(param: Tensor) -> State:
    return {"step": new_count(param), "exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}

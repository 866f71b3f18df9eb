"""DiagHessian: a diagonal-Hessian step through a powered loss, normalised in the manner of RMSProp."""

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
    least,
    new_count,
    plus_product,
    plus_unbiased_quotient,
    unbiases,
    valid_betas,
)
from optimizers.base import CurvatureOptimizer
from optimizers.side_by_side import side_by_side


class DiagHessian(CurvatureOptimizer):
    r"""Diagonal-Hessian step on :math:`\phi(l) = (l - l^*)^s`, with momentum and RMS normalisation.

    The loss :math:`l` is seen through :math:`\phi` with :math:`l - l^*` held at the constant :math:`d`, so that
    :math:`\phi' = s d^{s-1}` and :math:`\phi'' = s (s-1) d^{s-2}`. With the gradient :math:`g` and the Hessian's
    diagonal :math:`h`, held between refreshes:

    .. math::
        c &= \phi'' g^2 + \phi' h \quad\text{(non-finite entries set to 0)} \\
        \lambda &= \max(0, -\min c) + \text{damping} \quad\text{(the minimum over the tensor)} \\
        u &= \phi' g / (c + \lambda) \\
        m &= \beta_1 m + (1 - \beta_1) u, \qquad v = \beta_2 v + (1 - \beta_2) c^2 \\
        \theta &\leftarrow (1 - \text{lr} \cdot \text{weight\_decay})\, \theta - \text{lr} \;
            \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    The step grows as 1 / c where the curvature vanishes: an entry without history, with c near 0, moves by up to
    lr / eps. ``estimator="none"`` (h = 0) is what the published convolutional version computes in effect.

    Args:
        params: parameters or parameter groups.
        lr: learning rate; published settings are 1e-6 (diff 0.25, square 9) and 7.5e-5 to 1e-4 (diff 0.3, square 5).
        diff: d, the constant that stands for the loss above its optimum; > 0.
        square: s, the power; >= 1 (1 is the loss itself).
        betas: decay rates of m and v, in [0, 1).
        eps: added to the root, >= 0.
        damping: added to the shift that makes c positive, >= 0.
        weight_decay: decoupled weight decay, >= 0.
        options: estimator, update_period (default 1), maximize, foreach, compile: see ``CurvatureOptimizer``.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-6,
        diff: float = 0.25,
        square: float = 9.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-7,
        damping: float = 1e-3,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        check(
            lr=(lr, lr >= 0),
            diff=(diff, diff > 0),
            square=(square, square >= 1 and square * diff ** (square - 1) > 0),
            betas=(betas, valid_betas(betas)),
            eps=(eps, eps >= 0),
            damping=(damping, damping >= 0),
            weight_decay=(weight_decay, weight_decay >= 0),
        )
        defaults = {
            "lr": lr, "diff": diff, "square": square, "betas": tuple(betas), "eps": eps, "damping": damping,
            "weight_decay": weight_decay,
        }  # fmt: skip
        super().__init__(params, defaults, **options)

    @staticmethod
    @side_by_side
    def update(
        param: Tensor,
        grad: Tensor,
        curvature: Tensor | None,
        state: State,
        hp: Hyperparameters,
        sizes: list[int] | None = None,
    ) -> tuple[Tensor, State]:
        """State: ``step`` (0-dim), ``hessian``, ``momentum``, ``curvature_sq`` (the parameter's shape)."""
        beta1, beta2 = hp["betas"]
        diff, square = hp["diff"], hp["square"]
        state = state or initial_state(param)
        step = state["step"] + 1
        hessian = state["hessian"] if curvature is None else curvature

        # All over phi', which cancels in u: c = h + (s - 1) / d g^2.
        slope = square * diff ** (square - 1)
        c = torch.nan_to_num(plus_product(hessian, (square - 1) / diff, grad, grad), 0.0, 0.0, 0.0)
        lowest = least(c, 0.0, sizes) - hp["damping"] / slope

        momentum = average(state["momentum"], grad / (c - lowest), beta1)
        curvature_sq = plus_product(state["curvature_sq"] * beta2, (1 - beta2) * slope**2, c, c)
        unbias1, unbias2 = unbiases((beta1, beta2), step)
        root = (curvature_sq / unbias2).sqrt() + hp["eps"]
        new_param = plus_unbiased_quotient(decayed(param, hp), -hp["lr"], momentum, unbias1, root)
        return new_param, {"step": step, "hessian": hessian, "momentum": momentum, "curvature_sq": curvature_sq}


def initial_state(param: Tensor) -> State:
    return {"step": new_count(param)} | {k: torch.zeros_like(param) for k in ("hessian", "momentum", "curvature_sq")}

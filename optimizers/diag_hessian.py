"""DiagHessian: a diagonal-Hessian step through a powered loss, normalised in the manner of RMSProp."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.base import CurvatureOptimizer, Hyperparameters, State
from optimizers.curvature import Estimator


class DiagHessian(CurvatureOptimizer):
    r"""Diagonal-Hessian step on :math:`\phi(l) = (l - l^*)^s`, with momentum and RMS normalisation.

    The loss :math:`l` is seen through :math:`\phi` with :math:`l - l^*` held at the constant :math:`d`, so that
    :math:`\phi' = s d^{s-1}` and :math:`\phi'' = s (s-1) d^{s-2}`. With the gradient :math:`g` and the Hessian's
    diagonal :math:`h`:

    .. math::
        c &= \phi'' g^2 + \phi' h \quad\text{(non-finite entries set to 0)} \\
        \lambda &= \max(0, -\min c) + \text{damping} \quad\text{(the minimum over the tensor)} \\
        u &= \phi' g / (c + \lambda) \\
        m &= \beta_1 m + (1 - \beta_1) u, \qquad v = \beta_2 v + (1 - \beta_2) c^2 \\
        \theta &\leftarrow \theta - \text{lr} \;
            \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    With ``update_period`` k > 1, h is held between refreshes. ``estimator="none"`` (h = 0) is what the published
    convolutional version computes in effect.

    Args:
        params: parameters or parameter groups.
        lr: learning rate; published settings are 1e-6 (diff 0.25, square 9) and 7.5e-5 to 1e-4 (diff 0.3, square 5).
        diff: d, the constant that stands for the loss above its optimum; > 0.
        square: s, the power; >= 1 (1 is the loss itself).
        betas: decay rates of m and v, in [0, 1).
        eps: added to the root, >= 0.
        damping: added to the shift that makes c positive, >= 0.
        estimator, update_period, maximize: see ``CurvatureOptimizer``.

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
        *,
        estimator: str | Estimator = "hutchinson",
        update_period: int = 1,
        maximize: bool = False,
    ) -> None:
        for name, value, valid in (
            ("lr", lr, lr >= 0),
            ("diff", diff, diff > 0),
            ("square", square, square >= 1),
            ("betas", betas, len(betas) == 2 and all(0 <= b < 1 for b in betas)),
            ("eps", eps, eps >= 0),
            ("damping", damping, damping >= 0),
        ):
            if not valid:
                raise ValueError(f"{name} is out of range: {value}")
        defaults = {"lr": lr, "diff": diff, "square": square, "betas": tuple(betas), "eps": eps, "damping": damping}
        super().__init__(params, defaults, estimator=estimator, update_period=update_period, maximize=maximize)

    @staticmethod
    def update(
        param: Tensor, grad: Tensor, curvature: Tensor | None, state: State, hp: Hyperparameters
    ) -> tuple[Tensor, State]:
        """State: ``step`` (0-dim), ``hessian``, ``momentum``, ``curvature_sq`` (the parameter's shape)."""
        beta1, beta2 = hp["betas"]
        diff, square = hp["diff"], hp["square"]
        state = state or initial_state(param)
        step = state["step"] + 1
        hessian = state["hessian"] if curvature is None else curvature

        slope = square * diff ** (square - 1)
        bend = square * (square - 1) * diff ** (square - 2)
        c = bend * grad.square() + slope * hessian
        c = torch.where(c.isfinite(), c, 0.0)
        shift = (-c.amin()).clamp(min=0.0) + hp["damping"]
        u = slope * grad / (c + shift)

        momentum = beta1 * state["momentum"] + (1 - beta1) * u
        curvature_sq = beta2 * state["curvature_sq"] + (1 - beta2) * c.square()
        root = (curvature_sq / (1 - beta2**step)).sqrt() + hp["eps"]
        new_param = param - hp["lr"] * (momentum / (1 - beta1**step)) / root
        return new_param, {"step": step, "hessian": hessian, "momentum": momentum, "curvature_sq": curvature_sq}


def initial_state(param: Tensor) -> State:
    """Zeros; ``step`` in at least single precision, since half-precision counts would stop at 256 or 2048."""
    step = torch.zeros((), dtype=torch.promote_types(param.dtype, torch.float32), device=param.device)
    return {"step": step, **{name: torch.zeros_like(param) for name in ("hessian", "momentum", "curvature_sq")}}

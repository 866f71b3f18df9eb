"""SubsampledNewton: now and then a full Newton step of one tensor, else a gradient step."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.apply import Hyperparameters, State
from optimizers.arithmetic import check, decayed
from optimizers.base import CurvatureOptimizer
from optimizers.curvature.estimators import HessianBlocks


class SubsampledNewton(CurvatureOptimizer):
    r"""With probability sampling_rate a tensor takes a Newton step with its own Hessian block, else a gradient step.

    With the gradient :math:`g` and the Hessian :math:`H` with respect to the entries of one tensor:

    .. math::
        u &= (H + \text{damping} \, I)^{-1} g \quad\text{with probability sampling\_rate, else}\quad u = g \\
        \theta &\leftarrow (1 - \text{lr} \cdot \text{weight\_decay})\, \theta - \text{lr} \; u

    Tensors are drawn independently at every step; a step that draws none is a plain gradient step. Where the matrix is
    singular the gradient step is taken. A block of n entries costs n Hessian-vector products, n^2 numbers and a
    factorisation: for tensors of up to some thousand entries.

    Args:
        params: parameters or parameter groups.
        lr: learning rate of both kinds of steps; 1 is Newton's own.
        damping: added to the block's diagonal, >= 0.
        sampling_rate: probability of a Newton step, per tensor and step, in [0, 1].
        weight_decay: decoupled weight decay, >= 0.
        maximize: see ``CurvatureOptimizer``.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 0.1,
        damping: float = 1e-3,
        sampling_rate: float = 0.01,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        check(
            lr=(lr, lr >= 0),
            damping=(damping, damping >= 0),
            sampling_rate=(sampling_rate, 0 <= sampling_rate <= 1),
            weight_decay=(weight_decay, weight_decay >= 0),
        )
        defaults = {"lr": lr, "damping": damping, "sampling_rate": sampling_rate, "weight_decay": weight_decay}
        self.blocks = HessianBlocks()
        super().__init__(params, defaults, estimator=self.blocks, maximize=maximize, foreach=False)

    def refresh_always(self) -> None:
        for group in self.param_groups:
            group["sampling_rate"] = float(group["sampling_rate"] > 0)

    def _refreshes(self, params: Sequence[Tensor]) -> bool:
        # Drawn on the host, anew from seed and step: nothing to read back from the device, nothing to save.
        draw = random.Random(f"{self._seed} {self._steps}")
        rates = [group["sampling_rate"] for group in self.param_groups for _ in group["params"]]
        self.blocks.chosen = {id(p) for p, rate in zip(params, rates, strict=True) if draw.random() < rate}
        return bool(self.blocks.chosen)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"blocks": self.blocks}

    @staticmethod
    def curvature_shape(param: Tensor) -> tuple[int, ...]:
        """A Hessian block: entries by entries, in the parameter's row-major order."""
        return (param.numel(), param.numel())

    @staticmethod
    def update(
        param: Tensor, grad: Tensor, curvature: Tensor | None, state: State, hp: Hyperparameters
    ) -> tuple[Tensor, State]:
        """The curvature is the Hessian block, or ``None`` for a gradient step. There is no state."""
        direction = grad
        if curvature is not None:
            damped = curvature + hp["damping"] * torch.eye(len(curvature), dtype=param.dtype, device=param.device)
            newton, info = torch.linalg.solve_ex(damped, grad.reshape(-1))
            solved = (info == 0) & newton.isfinite().all()
            direction = torch.where(solved, newton.reshape(grad.shape), grad)
        return decayed(param, hp) - hp["lr"] * direction, {}

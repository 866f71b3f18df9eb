"""Sophia: clipped momentum over an average of the Hessian diagonal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from optimizers.apply import Hyperparameters, State
from optimizers.arithmetic import floor
from optimizers.rules.clipped import ClippedOptimizer, clipped_step, curvature_average
from optimizers.side_by_side import side_by_side

GAUSSIAN = {"name": "hutchinson", "probe": "gaussian"}


class Sophia(ClippedOptimizer):
    r"""Second-order clipped stochastic optimization: clipped momentum over an average of the diagonal itself.

    With the gradient :math:`g` and the Hessian's diagonal :math:`h`; where the average is negative or small the step is
    that of the sign of the momentum:

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g \\
        H &= \beta_2 H + (1 - \beta_2) h \quad\text{(every update\_period steps)} \\
        \theta &\leftarrow (1 - \text{lr} \cdot \text{weight\_decay})\, \theta - \text{lr} \;
            \text{clip}(m / \max(H, \epsilon), -\rho, \rho)

    No bias correction. Arguments and errors are those of ``ClippedOptimizer``. Defaults: lr 6e-2, betas (0.96, 0.99),
    rho 1e-2, eps 1e-12, weight_decay 0, update_period 10; estimator hutchinson with Gaussian probes (Sophia-H; gnb
    makes it Sophia-G).

    Source: Liu, Li, Hall, Liang, Ma, "Sophia: a scalable stochastic second-order optimizer for language model
    pre-training", 2023 (arXiv 2305.14342), in the variant with the bound rho after the division.
    """

    def __init__(self, params: Iterable[Any], *args: Any, estimator: Any = GAUSSIAN, **options: Any) -> None:
        super().__init__(params, *args, estimator=estimator, **options)

    @staticmethod
    def denominator(hessian: Tensor, hp: Hyperparameters) -> Tensor:
        return hessian.clamp(min=floor(hp["eps"], hessian))

    @staticmethod
    @side_by_side
    def update(
        param: Tensor, grad: Tensor, curvature: Tensor | None, state: State, hp: Hyperparameters
    ) -> tuple[Tensor, State]:
        """State: see ``clipped_step``."""
        hessian = curvature_average(param, curvature, state, hp)
        return clipped_step(param, grad, hessian, Sophia.denominator(hessian, hp), state, hp)

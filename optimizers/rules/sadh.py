"""SADH: clipped momentum over an average of the absolute Hessian diagonal."""

from __future__ import annotations

from torch import Tensor

from optimizers.apply import Hyperparameters, State
from optimizers.arithmetic import floor
from optimizers.rules.clipped import ClippedOptimizer, clipped_step, curvature_average
from optimizers.side_by_side import side_by_side


class SADH(ClippedOptimizer):
    r"""Stochastic absolute diagonal Hessian: clipped momentum over an average of the diagonal's magnitude.

    With the gradient :math:`g` and the Hessian's diagonal :math:`h`:

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g \\
        H &= \beta_2 H + (1 - \beta_2) |h| \quad\text{(every update\_period steps)} \\
        \theta &\leftarrow (1 - \text{lr} \cdot \text{weight\_decay})\, \theta - \text{lr} \;
            \text{clip}(m / (H + \epsilon), -\rho, \rho)

    No bias correction. Arguments and errors are those of ``ClippedOptimizer``. Defaults: lr 6e-2, betas (0.96, 0.99),
    rho 1e-2, eps 1e-12, weight_decay 0, update_period 10; estimator hutchinson.
    """

    @staticmethod
    def denominator(hessian: Tensor, hp: Hyperparameters) -> Tensor:
        return hessian + floor(hp["eps"], hessian)

    @staticmethod
    @side_by_side
    def update(
        param: Tensor, grad: Tensor, curvature: Tensor | None, state: State, hp: Hyperparameters
    ) -> tuple[Tensor, State]:
        """State: see ``clipped_step``."""
        term = None if curvature is None else curvature.abs()
        hessian = curvature_average(param, term, state, hp)
        return clipped_step(param, grad, hessian, SADH.denominator(hessian, hp), state, hp)

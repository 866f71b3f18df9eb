"""SSVP: clipped momentum over the root mean square of a Hessian-vector product."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from optimizers.rules.ssdh import SSDH


class SSVP(SSDH):
    r"""Stochastic squared Hessian-vector product: clipped momentum over its root mean square.

    With the gradient :math:`g` and the curvature :math:`H_l v`, the product of the loss's Hessian with
    :math:`v = -\rho \, \text{sign}(m)`:

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g \\
        H &= \beta_2 H + (1 - \beta_2) (H_l v)^2 \quad\text{(every update\_period steps)} \\
        \theta &\leftarrow (1 - \text{lr} \cdot \text{weight\_decay})\, \theta - \text{lr} \;
            \text{clip}(m / (\sqrt{H} + \epsilon), -\rho, \rho)

    The rule is SSDH's, with another curvature. No bias correction. Arguments and errors are those of
    ``ClippedOptimizer``. Defaults: lr 6e-2, betas (0.96, 0.99), rho 1e-2, eps 1e-12, weight_decay 0, update_period 10;
    estimator hvp, which gives :math:`H_l v`; whatever another estimator gives is squared in its place.
    """

    def __init__(self, params: Iterable[Any], *args: Any, estimator: Any = "hvp", **options: Any) -> None:
        super().__init__(params, *args, estimator=estimator, **options)

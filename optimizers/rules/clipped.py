"""SADH, SSDH, SSVP and Sophia share this: momentum over a curvature average, clipped entry by entry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.apply import Hyperparameters, State
from optimizers.arithmetic import average, check, decayed, plus, valid_betas
from optimizers.base import CurvatureOptimizer


class ClippedOptimizer(CurvatureOptimizer):
    """The arguments of a clipped rule, and the fraction of its entries that was clipped.

    Args:
        params: parameters or parameter groups.
        lr: learning rate; an entry moves by at most lr rho.
        betas: decay rates of the momentum and of the curvature's average, in [0, 1).
        rho: the bound of the clip, > 0.
        eps: keeps the denominator positive, >= 0.
        weight_decay: decoupled weight decay, >= 0.
        update_period: steps from one curvature estimate to the next.
        options: estimator, maximize, foreach, compile: see ``CurvatureOptimizer``.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 6e-2,
        betas: tuple[float, float] = (0.96, 0.99),
        rho: float = 1e-2,
        eps: float = 1e-12,
        weight_decay: float = 0.0,
        *,
        update_period: int = 10,
        **options: Any,
    ) -> None:
        check(
            lr=(lr, lr >= 0),
            betas=(betas, valid_betas(betas)),
            rho=(rho, rho > 0),
            eps=(eps, eps >= 0),
            weight_decay=(weight_decay, weight_decay >= 0),
        )
        defaults = {"lr": lr, "betas": tuple(betas), "rho": rho, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, update_period=update_period, **options)

    @staticmethod
    def denominator(hessian: Tensor, hp: Hyperparameters) -> Tensor:
        """What the rule divides the momentum by."""
        raise NotImplementedError

    @property
    def clipped_fraction(self) -> Tensor:
        """Of all entries, the fraction that the last step clipped: a 0-dim tensor on the parameters' device.

        NaN before the first step. Worked out from the state when it is asked for, and not at every step; to read its
        number is to wait for the device.
        """
        clipped, entries = [], 0
        for group in self.param_groups:
            for state in (self.state[p] for p in group["params"] if "momentum" in self.state.get(p, ())):
                ratio = state["momentum"] / self.denominator(state["hessian"], group)
                clipped.append((ratio.abs() > group["rho"]).sum())
                entries += ratio.numel()
        return sum(clipped) / entries if entries else torch.tensor(torch.nan)

    def diagnostics(self) -> dict[str, Tensor]:
        return {"clipped_fraction": self.clipped_fraction}


def curvature_average(param: Tensor, term: Tensor | None, state: State, hp: Hyperparameters) -> Tensor:
    """``H = b2 H + (1 - b2) term`` on a refresh; H as it was on any other step."""
    hessian = state["hessian"] if state else torch.zeros_like(param)
    return hessian if term is None else average(hessian, term, hp["betas"][1])


def clipped_step(
    param: Tensor, grad: Tensor, hessian: Tensor, denominator: Tensor, state: State, hp: Hyperparameters
) -> tuple[Tensor, State]:
    """``m = b1 m + (1 - b1) g``; the parameter moves by ``-lr clip(m / denominator, -rho, rho)`` after its decay.

    State: ``momentum``, ``hessian``, of the parameter's shape.
    """
    momentum = average(state["momentum"] if state else torch.zeros_like(param), grad, hp["betas"][0])
    step = (momentum / denominator).clamp(min=-hp["rho"], max=hp["rho"])
    return plus(decayed(param, hp), -hp["lr"], step), {"momentum": momentum, "hessian": hessian}

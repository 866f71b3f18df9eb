"""torch.optim's SGD, Adam and AdamW are pure rules here, so that they too can run over a stack of members.

They make the steps of PyTorch's own classes, which everything else uses, from the hyperparameters of their groups.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optimizers.apply import Hyperparameters, Rule, State
from optimizers.arithmetic import average, decayed, new_count, plus, plus_product, plus_quotient, unbias


def sgd(
    param: Tensor, grad: Tensor, curvature: Tensor | None, state: State, hp: Hyperparameters
) -> tuple[Tensor, State]:
    """As ``torch.optim.SGD``: momentum with dampening, Nesterov's form of it, weight decay added to the gradient.

    State: ``momentum`` (the parameter's shape), where there is any.
    """
    grad = _with_decay(grad, param, hp)
    if not _any(hp["momentum"]):
        return plus(param, -hp["lr"], grad), {}
    kept = 1 - hp["dampening"]
    if isinstance(hp["momentum"], Tensor):  # a member of a stack may have none
        kept = torch.where(hp["momentum"] == 0, torch.ones_like(hp["momentum"]), kept)
    # PyTorch takes the first gradient whole.
    momentum = plus(state["momentum"] * hp["momentum"], kept, grad) if state else grad.clone()
    step = plus(grad, hp["momentum"], momentum) if hp["nesterov"] else momentum
    return plus(param, -hp["lr"], step), {"momentum": momentum}


def adam(
    param: Tensor, grad: Tensor, curvature: Tensor | None, state: State, hp: Hyperparameters
) -> tuple[Tensor, State]:
    """As ``torch.optim.Adam`` and ``AdamW``, AMSGrad included.

    Source: Kingma and Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1; Loshchilov and Hutter,
    "Decoupled weight decay regularization", 2019; Reddi, Kale, Kumar, "On the convergence of Adam and beyond", 2018.

    State: ``step`` (0-dim), ``exp_avg``, ``exp_avg_sq``, with amsgrad ``max_exp_avg_sq`` (the parameter's shape).
    """
    decoupled = hp["decoupled_weight_decay"]
    start, grad = (decayed(param, hp), grad) if decoupled else (param, _with_decay(grad, param, hp))
    beta1, beta2 = hp["betas"]
    zeros = torch.zeros_like(param)
    state = state or {"step": new_count(param), "exp_avg": zeros, "exp_avg_sq": zeros}
    step = state["step"] + 1
    exp_avg = average(state["exp_avg"], grad, beta1)
    exp_avg_sq = second = plus_product(state["exp_avg_sq"] * beta2, 1 - beta2, grad, grad)
    new = {"step": step, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    if hp["amsgrad"]:
        second = new["max_exp_avg_sq"] = torch.maximum(state.get("max_exp_avg_sq", exp_avg_sq), exp_avg_sq)
    root = (second / unbias(beta2, step)).sqrt() + hp["eps"]
    return plus_quotient(start, -1.0, exp_avg * (hp["lr"] / unbias(beta1, step)), root), new


def _with_decay(grad: Tensor, param: Tensor, hp: Hyperparameters) -> Tensor:
    """The gradient of the loss plus ``weight_decay / 2 ||param||^2``."""
    return plus(grad, hp["weight_decay"], param) if _any(hp["weight_decay"]) else grad


def _any(number: float | Tensor) -> bool:
    return isinstance(number, Tensor) or number != 0


PURE: dict[type[torch.optim.Optimizer], Rule] = {torch.optim.SGD: sgd, torch.optim.Adam: adam, torch.optim.AdamW: adam}
"""The rules by the classes whose steps they make."""

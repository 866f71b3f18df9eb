"""HessianLRAdaptation: gradient differences scale the gradients of any base optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers import apply
from optimizers.apply import Hyperparameters, Member, State
from optimizers.arithmetic import check
from optimizers.base import CurvatureOptimizer
from optimizers.parts import OfParts
from optimizers.rules.one_minus_betas import find_base


class HessianLRAdaptation(OfParts):
    r"""Divides each gradient by the root mean square of its changes, then lets a base optimizer take the step.

    From the second step on, with the gradients :math:`g_t` of consecutive steps:

    .. math::
        e &= \beta e + (1 - \beta) (g_t - g_{t-1})^2 \\
        g_t &\leftarrow g_t / (\sqrt{e} + \epsilon)

    and the base optimizer sees the new gradient; at the first step it sees the gradient itself. ``p.grad`` is left as
    it was. Parameter groups are the base optimizer's own, so that learning-rate schedulers may be given either.

    Args:
        base_optimizer: any ``torch.optim.Optimizer`` whose ``step`` needs no closure.
        beta: decay rate of e, in [0, 1).
        eps: added to the root, >= 0.

    Raises:
        ValueError: an argument outside its range.
        TypeError: the base optimizer takes its own gradients, so that there is nothing to divide.
    """

    def __init__(self, base_optimizer: torch.optim.Optimizer, beta: float = 0.9, eps: float = 1e-8) -> None:
        check(beta=(beta, 0 <= beta < 1), eps=(eps, eps >= 0))
        if not isinstance(base_optimizer, torch.optim.Optimizer):
            raise TypeError(f"base_optimizer must be a torch.optim.Optimizer, got {base_optimizer!r}")
        if isinstance(base_optimizer, CurvatureOptimizer | torch.optim.LBFGS):
            raise TypeError(f"base_optimizer must not take its own gradients, as {type(base_optimizer).__name__} does")
        self.base_optimizer = base_optimizer
        self.beta = beta
        self.eps = eps
        super().__init__(base_optimizer.param_groups, {})
        self.param_groups = base_optimizer.param_groups

    @staticmethod
    def update(grad: Tensor, state: State, beta: float, eps: float) -> tuple[Tensor, State]:
        """The rule, a pure function of one tensor: the gradient for the base optimizer and the new state.

        State: ``previous_grad``, and from the second step on ``difference_sq``, of the parameter's shape.
        """
        if not state:
            return grad, {"previous_grad": grad.clone()}
        difference_sq = (grad - state["previous_grad"]).square()
        before = state["difference_sq"] if "difference_sq" in state else torch.zeros_like(grad)
        average = before.lerp(difference_sq, 1 - beta)
        return grad / (average.sqrt() + eps), {"previous_grad": grad.clone(), "difference_sq": average}

    def _rule(self, param: Any, grad: Any, curvature: None, state: Any, hp: Hyperparameters) -> tuple[Any, Any]:
        """The rule as ``apply`` knows rules."""
        return self.update(grad, state, self.beta, self.eps)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step of the base optimizer. Returns what the closure, PyTorch's usual one, returned.

        Raises:
            RuntimeError: a gradient is complex or sparse.
        """
        loss = apply.evaluate(closure)
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        grads = [p.grad for p in params]
        if any(grad.is_sparse or grad.is_complex() for grad in grads):
            raise RuntimeError("HessianLRAdaptation supports neither sparse nor complex gradients")
        try:
            used = [param for param in params if param.numel()]
            members: list[Member] = [(p.grad, p.grad, None, self.state[p]) for p in used]
            applied = apply.where_it_pays(self._rule, members, {}) if members else []
            for param, (grad, state) in zip(used, applied, strict=True):
                param.grad, self.state[param] = grad, state
            self.base_optimizer.step()
        finally:
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
        return loss

    def parts_of_step(self) -> list[torch.optim.Optimizer]:
        return [self.base_optimizer]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add it to the base optimizer, whose groups these are."""
        if self.param_groups is getattr(self.base_optimizer, "param_groups", None):
            self.base_optimizer.add_param_group(param_group)
        else:  # PyTorch's constructor goes through the base optimizer's groups
            super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """As in PyTorch, with the base optimizer's beside it."""
        return super().state_dict() | {"base_optimizer": self.base_optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        if "base_optimizer" not in state_dict:
            raise ValueError("not the state_dict of a HessianLRAdaptation: it has no 'base_optimizer'")
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "base_optimizer"})
        self.base_optimizer.load_state_dict(state_dict["base_optimizer"])
        self.param_groups = self.base_optimizer.param_groups

    def __getstate__(self) -> dict[str, Any]:
        public = ("base_optimizer", "beta", "eps")
        return super().__getstate__() | {name: getattr(self, name) for name in public}


def adapt_learning_rate(
    params: Iterable[Any], base_optimizer: str = "torch.optim.Adam", beta: float = 0.9, eps: float = 1e-8, **base: Any
) -> HessianLRAdaptation:
    """A ``HessianLRAdaptation`` over a new base optimizer, as a YAML file names it.

    Args:
        params: parameters or parameter groups.
        base_optimizer: dotted path of its class.
        beta, eps: the adaptation's.
        base: the base optimizer's own arguments.

    Raises:
        ValueError: there is no such class.
    """
    base_class = find_base(base_optimizer)
    return HessianLRAdaptation(base_class(params, **base), beta, eps)

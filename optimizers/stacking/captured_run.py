"""A single run's gradients, refreshes and rule are captured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn

from optimizers.base import CurvatureOptimizer
from optimizers.curvature.estimators import Exact, Hutchinson
from optimizers.curvature.gauss_newton import GGNMC, GNB, GGNExact
from optimizers.stacking.capture import Captures, Held
from optimizers.stacking.captured_rule import CapturedRule
from optimizers.stacking.given_step import step_with
from optimizers.stacking.joined import has_own_zero_grad
from optimizers.stacking.replay import signature

Loss = Callable[[Sequence[Tensor], bool], "tuple[Tensor, Any]"]
"""The loss and outputs of a batch, of the network in full precision or as it is trained."""
GRADIENT = "the gradient"
OF_TENSORS = (Hutchinson, GNB, GGNMC, GGNExact, Exact)
"""Estimators that need nothing from one step to the next but what ``Refresh.memory`` holds after the first."""


class CapturedRun:
    """The passes of one run's network, by their CUDA graphs once there are some.

    Args:
        model: the network, whose parameters and buffers stay where they are.
        loss: of it.
        optimizer: of its parameters.
        scheduled: whether learning rates change.

    Attributes:
        captures: its graphs.
    """

    def __init__(self, captures: Captures, model: nn.Module, loss: Loss, optimizer: Any, *, scheduled: bool) -> None:
        self.captures = captures
        self._model = model
        self._loss = loss
        self._optimizer = optimizer
        self._params = list(model.parameters())
        self._buffers = list(model.buffers())
        self._cost = 0.0
        self._step, self._refresh = f"the step of {type(optimizer).__name__}", ""
        if why := self._obstacle():
            captures.give_up(self._step, why)
        elif isinstance(optimizer, CurvatureOptimizer):
            estimator = optimizer.estimator
            self._refresh = f"the refresh by {type(estimator).__name__}"
            if estimator.differentiates and type(estimator) not in OF_TENSORS:
                captures.give_up(self._refresh, "it may need more than the batch and the weights")
        self._rule = CapturedRule(captures, optimizer, scheduled=scheduled)

    def gradient(self, batch: Sequence[Tensor]) -> Tensor:
        """Set the gradients, where there were none; the loss, detached."""
        loss, *grads = self.captures.call(GRADIENT, signature(batch), self._gradient, batch, self._held())
        for param, grad in zip(self._params, grads, strict=True):
            param.grad = grad
        assert loss is not None
        return loss

    @property
    def allows_rule(self) -> bool:
        """Whether ``step`` may come of a graph."""
        return self.captures.allows(self._step) and self._rule.allowed

    def step(self) -> None:
        """A step of an optimizer without curvature, by the parameters' gradients."""
        grads = [param.grad for param in self._rule.params]
        self._rule.apply(grads, [None] * len(grads))

    @property
    def allows_gradient(self) -> bool:
        """Whether ``gradient`` may come of a graph."""
        return self._allows(GRADIENT)

    def _allows(self, name: str) -> bool:
        return self.captures.allows(self._step) and self.captures.allows(name)

    def curvature_step(self, batch: Sequence[Tensor], max_grad_norm: float | None) -> Tensor:
        """A step of a ``CurvatureOptimizer``; the loss before it, detached."""
        optimizer, params = self._optimizer, self._params
        refresh = optimizer._steps % optimizer.update_period == 0
        differentiated = refresh and optimizer.estimator.differentiates
        # The first step is the optimizer's own: PyTorch's schedules look for it.
        if not optimizer._steps or not self._allows(self._refresh if differentiated else GRADIENT):
            return self._step_as_it_is(batch, max_grad_norm)
        curvatures: Sequence[Tensor | None] = [None] * len(params)
        cost = 0.0
        if differentiated:
            held = self._held([optimizer._probes(params)])
            results = self.captures.call(self._refresh, signature(batch), self._refreshed, batch, held)
            loss, grads, curvatures = results[0], results[1 : len(params) + 1], results[len(params) + 1 :]
            cost = self._cost
        else:
            loss, *grads = self.captures.call(GRADIENT, signature(batch), self._gradient, batch, self._held())
            if refresh:
                curvatures = optimizer._estimate(loss, None, None, params, grads, grads)
        step_with(optimizer, grads, curvatures, cost, max_grad_norm, self._rule.apply)
        assert loss is not None
        return loss

    def _step_as_it_is(self, batch: Sequence[Tensor], max_grad_norm: float | None) -> Tensor:
        """But for the rule."""
        optimizer = self._optimizer

        def closure() -> tuple[Tensor, Any]:
            return self._loss(batch, optimizer.refreshing)

        if not optimizer._steps or not self.allows_rule:
            return optimizer.step(closure, max_grad_norm=max_grad_norm)
        loss, applied, curvatures = optimizer.differentiate(closure, max_grad_norm=max_grad_norm)
        self._rule.apply(applied, curvatures)
        return loss

    def _obstacle(self) -> str:
        """Why gradients cannot be taken otherwise than the optimizer or its network expects."""
        if any(param._backward_hooks or param._post_accumulate_grad_hooks for param in self._params):
            return "a parameter has hooks"
        optimizer = self._optimizer
        who = type(optimizer).__name__
        if not isinstance(optimizer, CurvatureOptimizer):
            return f"{who} has a zero_grad of its own" if has_own_zero_grad(optimizer) else ""
        own = [
            name
            for name in ("step", "differentiate", "_refreshes")
            if unwrap(getattr(type(optimizer), name)) is not unwrap(getattr(CurvatureOptimizer, name))
        ]
        whole = [id(p) for group in optimizer.param_groups for p in group["params"]] == [id(p) for p in self._params]
        if own or optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
            return f"{who} steps in a way of its own"
        return "" if whole and not optimizer._maximize else f"{who} does not minimise over all parameters"

    def _held(self, generators: Sequence[torch.Generator] = ()) -> Held:
        return Held([*self._params, *self._buffers], self._buffers, generators)

    def _gradient(self, *batch: Tensor) -> list[Tensor | None]:
        """Loss and gradients, laid out as the parameters are."""
        with torch.enable_grad():
            loss, _ = self._loss(batch, False)
            needed = [param for param in self._params if param.requires_grad]
            found = iter(torch.autograd.grad(loss, needed, allow_unused=True))
        grads = [next(found) if param.requires_grad else None for param in self._params]
        self._check_buffers(GRADIENT)
        return [loss.detach(), *map(_laid_out, grads, self._params)]

    def _refreshed(self, *batch: Tensor) -> list[Tensor | None]:
        """Loss, gradients and curvatures."""
        optimizer, params, so_far = self._optimizer, self._params, self._optimizer.grad_equivalents
        with torch.no_grad():
            loss, outputs, record = optimizer._forward(lambda: self._loss(batch, True), params, True)
            grads = optimizer._gradients(loss, params, True)
            curvatures = optimizer._estimate(loss, outputs, record, params, grads, grads)
        self._cost, optimizer.grad_equivalents = optimizer.grad_equivalents - so_far, so_far
        self._check_buffers(self._refresh)
        for param in params:
            param.grad = None
        return [loss.detach(), *(None if grad is None else grad.detach() for grad in grads), *curvatures]

    def _check_buffers(self, name: str) -> None:
        if [*map(id, self._model.buffers())] != [*map(id, self._buffers)]:
            self.captures.give_up(name, "the network replaces a buffer instead of changing it in place")


def _laid_out(grad: Tensor | None, param: Tensor) -> Tensor | None:
    """As ``backward`` does it, which lists of tensors rely on."""
    if grad is None or grad.layout != torch.strided or grad.stride() == param.stride():
        return grad
    return torch.empty_like(param).copy_(grad)

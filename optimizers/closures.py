"""Closures are what an optimizer's ``step`` is given where it takes one, be it optional."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def takes_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether ``step`` has such a parameter."""
    try:
        return "closure" in inspect.signature(optimizer.step).parameters
    except (TypeError, ValueError):  # of a callable that is not Python's
        return False


def loss_and_outputs(returned: Any) -> tuple[Tensor, Any]:
    """What a ``CurvatureOptimizer``'s closure returned; outputs may be ``None``.

    Raises:
        RuntimeError: there is no loss to differentiate.
    """
    loss, outputs = returned if isinstance(returned, tuple) else (returned, None)
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise RuntimeError(
            "the closure must return the loss, a tensor with its graph (and must not call backward), "
            f"but returned {'a tensor without one' if isinstance(loss, Tensor) else type(loss).__name__}"
        )
    return loss, outputs


class Closures:
    """Closures for one optimizer, a step's each: they give the loss, and leave its gradients in the parameters.

    When ``step`` is called the gradients are there, since some optimizers use them first, perturb the weights and then
    ask for others (SAM), and some that could have a closure never call it. Most call it at once, so that a first call
    costs nothing where neither weights nor gradients have been changed since. PyTorch counts changes in place, but not
    those through ``.data``; so at the first step their norms are compared as well, and an optimizer that has changed
    something there before it called is never answered from memory.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = params
        self.calls_at_once: bool | None = None
        self.called = False
        self._steps = 0

    def make(self, loss: Tensor, anew: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The closure of one step.

        Args:
            loss: as it was computed before the step, detached.
            anew: computes it, and the gradients, at the present weights.
        """
        if self._steps and self.calls_at_once is None:  # it was not called at the first step
            self.calls_at_once = False
        self._steps += 1
        before, norms = self._versions(), self._norms() if self.calls_at_once is None else None
        first = True

        def closure() -> Tensor:
            nonlocal first
            self.called = True
            if first and norms is not None:
                self.calls_at_once = self._norms() == norms
            known, first = first and bool(self.calls_at_once) and self._versions() == before, False
            with torch.enable_grad():  # many call it where there is none
                return loss if known else anew()

        return closure

    def _tensors(self) -> list[Tensor]:
        """Weights and gradients."""
        return [*self.params, *(param.grad for param in self.params if param.grad is not None)]

    def _versions(self) -> list[tuple[int, int]]:
        return [(id(tensor), tensor._version) for tensor in self._tensors()]

    def _norms(self) -> list[float]:
        with torch.no_grad():
            return [tensor.detach().norm().item() for tensor in self._tensors()]

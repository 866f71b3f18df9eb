"""A twin shows whether rounding errors decide what an optimizer does: in a stack they are others than alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from optimizers.closures import Closures, takes_closure

STEPS = 30
"""For so many steps a twin is beside a member: what an optimizer does now and then, it has done by then."""
ROUNDINGS = 4
"""By so many roundings the twin's gradients differ."""
AMPLIFICATION = 3e4
"""So many times as large may the difference of the weights become, relative to how far they have come."""
WHY = "rounding errors, which are others in a stack than alone, decide its steps"


class RoundingDecidesError(RuntimeError):
    """The steps of an optimizer are decided by rounding errors."""


class Twin:
    """An optimizer that takes a member's steps on weights of its own, with gradients that differ by rounding.

    Args:
        optimizer: made as the member's, over ``params``.
        params: copies of the member's.
    """

    def __init__(self, optimizer: Any, params: Sequence[nn.Parameter]) -> None:
        self.optimizer = optimizer
        self.params = params
        self._start = [param.detach().clone() for param in params]
        self._closures = Closures(params) if takes_closure(optimizer) else None
        self._generator = torch.Generator(params[0].device).manual_seed(0)
        self.steps = 0

    def step(self, grads: Sequence[Tensor | None], loss: Tensor) -> None:
        """One step, as the member's with these gradients."""
        self.steps += 1
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = None if grad is None else self._rounded(grad)
        if self._closures is None:
            self.optimizer.step()
        else:
            self.optimizer.step(self._closures.make(loss, lambda: loss))

    def compare(self, params: Sequence[Tensor]) -> bool:
        """Whether the twin's weights are others.

        Args:
            params: the member's, after its step.

        Raises:
            RoundingDecidesError: they are, in double precision, in which a stack is to be what each run is alone.
        """
        for own, other, start in zip(params, self.params, self._start, strict=True):
            if not own.is_floating_point() or not own.numel() or not own.isfinite().all():
                continue
            eps = torch.finfo(own.dtype).eps
            moved, size = (own - start).abs().amax(), own.abs().amax()
            if not (own - other).abs().amax() <= AMPLIFICATION * eps * moved + 8 * self.steps * eps * size:
                if own.dtype == torch.float64:
                    raise RoundingDecidesError(WHY)
                return True
        return False

    def _rounded(self, grad: Tensor) -> Tensor:
        signs = torch.randint(0, 2, grad.shape, generator=self._generator, device=grad.device)
        return grad * (1 + ROUNDINGS * torch.finfo(grad.dtype).eps * (2 * signs - 1)).to(grad.dtype)

"""The base class of first-order optimizers here: a rule without curvature as one pure function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optimizers import apply
from optimizers.apply import Hyperparameters, State


class FirstOrderOptimizer(torch.optim.Optimizer):
    """A ``torch.optim.Optimizer`` whose rule is one pure function, ``update``, so that its runs can train as a stack.

    It is used as PyTorch's own are: ``loss.backward(); optimizer.step()``.
    """

    @staticmethod
    def update(
        param: Tensor, grad: Tensor, curvature: Tensor | None, state: State, hp: Hyperparameters
    ) -> tuple[Tensor, State]:
        """The rule: see ``CurvatureOptimizer.update``. There is never a curvature."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step. Returns what the closure, PyTorch's usual one, returned.

        Raises:
            RuntimeError: a gradient is complex or sparse.
        """
        loss = apply.evaluate(closure)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if any(p.grad.is_sparse or p.is_complex() for p in params if p.numel()):
                raise RuntimeError(f"{type(self).__name__} supports neither sparse nor complex gradients")
            given = params, [p.grad for p in params], [None] * len(params), self.state
            hp: dict[str, Any] = {name: value for name, value in group.items() if name != "params"}
            apply.take(apply.where_it_pays, self.update, *given, hp)
        return loss

"""Descent along the signs of the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class SignDescent(torch.optim.Optimizer):
    """Steps of one length in each coordinate, against the gradient's sign."""

    def __init__(self, params: Iterable[Any], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.sub_(param.grad.sign(), alpha=group["lr"])
        return loss

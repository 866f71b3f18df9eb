"""How an optimizer is called in a loop of one's own is found by trying it on a small network, beside training's way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from inspect import isclass
from typing import Any

import torch
from torch import Tensor, nn

from optimizers import CurvatureOptimizer
from optimizers.closures import Closures, takes_closure

STEPS = 10
SEED = 0
Make = Callable[[Iterable[nn.Parameter]], Any]
Step = Callable[[Any, Callable[[], Tensor]], object]
"""Of an optimizer, with a closure that leaves gradients and returns the loss."""

PARAMS, LISTED = "model.parameters()", "list(model.parameters())"
PLAIN_STEP = "optimizer.zero_grad(); loss.backward(); optimizer.step()"
WAYS: dict[str, Step] = {
    PLAIN_STEP: lambda optimizer, closure: (closure(), optimizer.step()),
    "optimizer.step(closure)": lambda optimizer, closure: optimizer.step(closure),
    "closure(); optimizer.step(closure)": lambda optimizer, closure: (closure(), optimizer.step(closure)),
}
"""From the simplest on."""
ALWAYS_RIGHT = "closure(); optimizer.step(torch.enable_grad()(closure))"
"""As training does it, but for what it saves where the closure is called at once."""


@dataclass(frozen=True)
class Calls:
    """What a training loop calls.

    Attributes:
        step: statements, of ``optimizer`` and the ``loss`` of a batch or a ``closure``.
        params: what it is made of: a list, as in training, where it might go through an iterator twice.
        closure: what the closure does; nothing where there is none.
        modes: whether the optimizer is told when it is trained with, and when evaluated.
    """

    step: str
    params: str = LISTED
    closure: str = ""
    modes: bool = False


def calls(named: Any, make: Make, max_grad_norm: float | None) -> Calls:
    """Statements that come to the weights to which training comes.

    Args:
        named: the optimizer's class, or a function.
        make: makes it of parameters.
        max_grad_norm: that it was trained with; where ``step`` takes the gradient itself, it has to be told.
    """
    # PyTorch's own way is to make a list of them; a function may be anything.
    params = PARAMS if isclass(named) and issubclass(named, torch.optim.Optimizer) else LISTED
    with torch.random.fork_rng(devices=[]):
        optimizer = make(list(_network().parameters()))
        modes = all(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval"))
        if isinstance(optimizer, CurvatureOptimizer):
            closure = "returns the loss, or (loss, outputs), with its graph, and never calls backward()"
            bound = "" if max_grad_norm is None else f", max_grad_norm={max_grad_norm}"
            return Calls(f"loss = optimizer.step(closure{bound})", params, closure, modes)
        step = _step(make) if takes_closure(optimizer) else PLAIN_STEP
    closure = "calls zero_grad() and backward(), and returns the loss" * ("closure" in step)
    return Calls(step, params, closure, modes)


def _step(make: Make) -> str:
    """The simplest way that comes to training's weights: an optional closure may be used, or only be returned."""
    expected = _weights(make)
    for way, step in WAYS.items():
        try:
            if _equal(_weights(make, step), expected):
                return way
        except Exception:  # what an optimizer raises that wants a closure, or gradients, is its own affair
            continue
    return ALWAYS_RIGHT


def _weights(make: Make, step: Step | None = None) -> list[Tensor]:
    """After a few steps; training's where it is not said which."""
    model = _network()
    params = list(model.parameters())
    optimizer, closures = make(params), Closures(params)
    getattr(optimizer, "train", lambda: None)()
    for inputs in torch.randn(STEPS, 8, 3):

        def closure(inputs: Tensor = inputs) -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = nn.functional.smooth_l1_loss(model(inputs), inputs[:, :2])
            loss.backward()
            return loss.detach()

        if step is None:
            optimizer.step(closures.make(closure(), closure))
        else:
            step(optimizer, closure)
    return [param.detach() for param in params]


def _network() -> nn.Module:
    torch.manual_seed(SEED)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in zip(one, other, strict=True))

"""Optimizers that leave something behind in their process."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import tasks.tabular_mlp
import tuner.training.loop

Act = Callable[[], object]


def _double_every_output() -> None:
    nn.modules.module.register_module_forward_hook(lambda module, inputs, output: output * 2)


def _scale_every_gradient() -> None:
    def scale(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for param in optimizer.param_groups[0]["params"]:
            param.grad *= 0.5

    register_optimizer_step_pre_hook(scale)


def _count_in_float64() -> None:
    """A mode that is entered and never left."""

    class Doubles(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            return found.double() if func is nn.functional.linear else found

    Doubles().__enter__()


RESTORED: dict[str, Act] = {
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "entered device": lambda: torch.device("meta").__enter__(),
    "function mode": _count_in_float64,
    "grad mode": lambda: torch.set_grad_enabled(False),
    "threads": lambda: torch.set_num_threads(3),
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "denormal numbers": lambda: torch.set_flush_denormal(True),
    "matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "cudnn": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "hooks of modules": _double_every_output,
    "hooks of optimizers": _scale_every_gradient,
    "torch's stream": lambda: torch.manual_seed(7),
    "numpy's stream": lambda: np.random.seed(7),
    "python's stream": lambda: random.seed(7),
    "warnings": lambda: warnings.simplefilter("error"),
    "directory": lambda: os.chdir("/"),
    "environment": lambda: os.environ.update(HOME="/nowhere", SPOILT="1"),
    "stdout": lambda: setattr(sys, "stdout", None),
    "signal handler": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "alarm": lambda: signal.alarm(1000),
    "profile": lambda: sys.setprofile(lambda *_: None),
    "garbage collection": gc.disable,
    "recursion limit": lambda: sys.setrecursionlimit(5000),
    "numpy's errors": lambda: np.seterr(all="raise"),
}
"""What can be put back."""


def _halved(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)  # with PyTorch's mark of what it has wrapped itself
    def half(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs) / 2

    return half


def _idle(self: Any, closure: Any = None) -> None:
    """In place of a step."""


PATCHED: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "torch.optim.adam.Adam.step": (torch.optim.Adam, "step", _idle),
    "torch.optim.optimizer.Optimizer.zero_grad": (torch.optim.Optimizer, "zero_grad", _idle),
    "torch.optim.adam.adam": (sys.modules["torch.optim.adam"], "adam", lambda *args, **kwargs: None),
    "torch.nn.functional.cross_entropy": (
        nn.functional, "cross_entropy", _halved(nn.functional.cross_entropy),
    ),
    "torch.nn.modules.linear.Linear.forward": (nn.Linear, "forward", lambda self, x: x @ self.weight.T),
    "torch.Tensor.backward": (torch.Tensor, "backward", lambda self, *args, **kwargs: None),
    "tasks.tabular_mlp.TabularMLP.criterion": (
        tasks.tabular_mlp.TabularMLP, "criterion", _halved(tasks.tabular_mlp.TabularMLP.criterion),
    ),
    "tuner.training.loop.worst_of": (tuner.training.loop, "worst_of", lambda *args: {"val_loss": 0.0}),
}  # fmt: skip
"""What cannot, by its name."""


def patch(name: str) -> None:
    owner, attribute, value = PATCHED[name]
    setattr(owner, attribute, value)


def act(what: str) -> None:
    RESTORED[what]() if what in RESTORED else patch(what)


class Spoiler(torch.optim.SGD):
    """Gradient descent that does it in its second step, and then raises if it is told to."""

    def __init__(self, params: Any, lr: float, what: str, raises: bool = False) -> None:
        super().__init__(params, lr=lr)
        self.what, self.raises, self.steps = what, raises, 0

    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        self.steps += 1
        if self.steps == 2:
            act(self.what)
            if self.raises:
                raise RuntimeError("and leaves")
        return found


def spoiling_adam(params: Any, lr: float, what: str) -> torch.optim.Adam:
    """An Adam that can be stacked."""
    act(what)
    return torch.optim.Adam(params, lr=lr)

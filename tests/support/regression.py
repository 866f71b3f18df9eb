"""A small regression that notes what its network is given, optimizers for it, and a run of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optimizers import DiagHessian
from tasks.base import Data, Task
from tuner.training.engine import Engine
from tuner.training.records import Budget, Evaluation, Result
from tuner.training.single import train

STEPS_PER_EPOCH = 5


class Noting(Task):
    """40 training rows, 8 a batch; notes what the network is given, its weights' layout and the loss's type."""

    def __init__(self, image: bool = False, network: Callable[[], nn.Module] | None = None) -> None:
        super().__init__(metric="val_loss", mode="min", batch_size=8)
        self.worst = {"loss": 1e4}
        self.image = image
        self.make = network
        self.seen: list[tuple[Any, ...]] = []
        self.setup(None, torch.device("cpu"))

    def load(self, data_dir: Any) -> Data:
        rng = np.random.default_rng(0)
        splits = {}
        for split, rows in {"train": 40, "val": 10, "test": 10}.items():
            x = rng.standard_normal((rows, 3, 4, 4) if self.image else (rows, 4)).astype(np.float32)
            flat = x.reshape(rows, -1)
            splits[split] = x, flat[:, :2] * flat[:, 2:4]
        return Data("noting", splits)

    def network(self) -> nn.Module:
        if self.make:
            return self.make()
        if self.image:
            return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 2))
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))

    def build(self, seed: int) -> nn.Module:
        self.model = super().build(seed)
        if not self.make:
            self.model.register_forward_hook(self.note)
        return self.model

    def note(self, model: nn.Module, inputs: tuple[Tensor], outputs: Tensor) -> None:
        layout = torch.channels_last if inputs[0].dim() == 4 else torch.contiguous_format
        self.seen.append((model.training, outputs.dtype, inputs[0].is_contiguous(memory_format=layout)))

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets)


Made = torch.optim.Optimizer


def sgd(params: Any, hp: dict[str, Any]) -> Made:
    return torch.optim.SGD(params, **{"lr": 0.1, "momentum": 0.9} | hp)


def adam(params: Any, hp: dict[str, Any]) -> Made:
    return torch.optim.Adam(params, **{"lr": 1e-2} | hp)


def diag_hessian(params: Any, hp: dict[str, Any]) -> Made:
    return DiagHessian(params, **{"lr": 1e-4, "diff": 0.5, "square": 2.0, "update_period": 2} | hp)


def run(
    make: Any, engine: Engine, task: Noting | None = None, hp: Any = None, epochs: int = 3, evaluations: int = 3
) -> tuple[Result, list[dict[str, float]]]:
    curve: list[Evaluation] = []
    result = train(task or Noting(), make, hp or {}, 3, Budget(epochs, evaluations), curve.append, engine)
    return result, [look.metrics for look in curve]

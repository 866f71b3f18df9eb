"""Rahimi-Recht: a two-layer linear network on an ill-conditioned linear map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.base import Data, Task
from tasks.linear_instances import HIDDEN, INPUTS, OUTPUTS, Instance, load_instance

TEST_SHARE, VALIDATION_SHARE = 0.25, 0.05
BOUND = 100.0  # times the loss of guessing zero, or the initial one: instances differ in scale by orders of magnitude


class RahimiRecht(Task):
    """A 12-13-14 linear network without biases (338 parameters) on Y = X A^T; the loss is the RMSE over entries.

    Rows are split once, in their order: 70 % train, 5 % validate, the last 25 % test (700, 50 and 250 of 1,000).
    Weights are drawn from N(0, 1), or are the instance's own W1 and W2, then the same for every seed. Metrics: loss.

    Args:
        dataset: ``cond<number>``, generated with that condition number, or the path of an .npz with A, X, Y and
            optionally W1, W2.
        data_seed: the seed of a generated instance.

    Raises:
        ValueError: ``data_seed`` is negative.
    """

    def __init__(self, *, dataset: str, data_seed: int = 0, **kwargs: Any) -> None:
        super().__init__(dataset=dataset, **kwargs)
        if data_seed < 0:
            raise ValueError(f"data_seed must be at least 0, got {data_seed}")
        self.data_seed = data_seed

    def load(self, data_dir: Path | None) -> Data:
        instance = load_instance(str(self.dataset), self.data_seed)
        self.initial = None if instance.W1 is None else (instance.W1, instance.W2)
        X, Y = instance.X.astype(np.float32), instance.Y.astype(np.float32)
        rows = len(X)
        test = rows - int(TEST_SHARE * rows)
        val = test - max(1, int(VALIDATION_SHARE * rows))
        self.worst = {"loss": BOUND * max(_rms(instance.Y), _initial_loss(instance))}
        return Data(
            f"Rahimi-Recht {self.dataset}",
            {"train": (X[:val], Y[:val]), "val": (X[val:test], Y[val:test]), "test": (X[test:], Y[test:])},
        )

    def network(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(INPUTS, HIDDEN, bias=False), nn.Linear(HIDDEN, OUTPUTS, bias=False))
        with torch.no_grad():
            for layer, weight in zip(model, self.initial or (None, None), strict=True):
                if weight is None:
                    nn.init.normal_(layer.weight)
                else:
                    layer.weight.copy_(torch.from_numpy(weight))
        return model

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        # Unlike the root of a mean of squares, a norm is differentiable (by convention) where the error is zero.
        return torch.linalg.vector_norm(outputs - targets) * targets.numel() ** -0.5


def _rms(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(array**2)))


def _initial_loss(instance: Instance) -> float:
    """The RMSE at the instance's own weights, or what is to be expected of the network's outputs at drawn ones."""
    if instance.W1 is None or instance.W2 is None:
        return float(np.sqrt(INPUTS * HIDDEN)) * _rms(instance.X)
    return _rms(instance.X @ instance.W1.T @ instance.W2.T - instance.Y)

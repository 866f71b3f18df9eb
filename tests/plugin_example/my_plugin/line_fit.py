"""A line through noisy points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor, nn

from tasks.base import Data, Task

ROWS = {"train": 64, "val": 32, "test": 32}


class LineFit(Task):
    """Linear regression in three dimensions; squared error."""

    def load(self, data_dir: Path | None) -> Data:
        self.worst = {"loss": 1e4}
        rng = np.random.default_rng(0)
        weights = rng.normal(size=(3, 1))
        splits = {}
        for split, rows in ROWS.items():
            inputs = rng.normal(size=(rows, 3))
            targets = inputs @ weights + 0.1 * rng.normal(size=(rows, 1))
            splits[split] = (inputs.astype(np.float32), targets.astype(np.float32))
        return Data("line", splits)

    def network(self) -> nn.Module:
        return nn.Linear(3, 1)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets)

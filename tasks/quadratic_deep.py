"""Quadratic deep: the noisy quadratic of DeepOBS, with few large and many small eigenvalues."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.base import Batch, Data, Task, epoch_generator

DIMENSIONS, ROWS, DEVIATION = 100, 1000, 0.6
PUBLISHED_TEST_ROWS = ROWS // 128 * 128
PROBLEM_SEED, SEEDS = 42, {"train": 42, "val": 44, "test": 43}
BOUND = 10.0  # times the initial loss


class QuadraticDeep(Task):
    """The mean over noisy rows x of 1/2 (theta - x)^T Q (theta - x), in 100 dimensions.

    The instance published in Schneider, Balles and Hennig, "DeepOBS: a deep learning optimizer benchmark suite", ICLR
    2019: 90 eigenvalues of Q from U(0, 1) and 10 from U(30, 60), rotated at random; theta starts at 1 in every
    coordinate, whatever the seed. Rows are from N(0, 0.6^2): 1,000 to train on, and of the published test rows the
    first 896, those that whole batches of 128 reach; 1,000 more, drawn alike but not published, validate. The
    incomplete last batch of an epoch is dropped. The loss starts at 353.4468 on the test rows; its least value there
    is 86.87.

    Targets are the rows themselves; outputs are theta, once per row, whatever the inputs. Metrics: loss.

    Raises:
        ValueError: a batch is larger than the training split.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.batch_size > ROWS:
            raise ValueError(f"batch_size must be at most {ROWS}, the number of training rows, got {self.batch_size}")

    def load(self, data_dir: Path | None) -> Data:
        matrix = hessian()
        self.hessian = torch.from_numpy(matrix.astype(np.float32))
        # At theta = 1 the mean over all possible rows is 1/2 (sum of the entries + 0.36 times the trace), 353.5.
        self.worst = {"loss": float(BOUND / 2 * (matrix.sum() + DEVIATION**2 * np.trace(matrix)))}
        rows = {split: draw_rows(seed) for split, seed in SEEDS.items()}
        rows["test"] = rows["test"][:PUBLISHED_TEST_ROWS]
        return Data("quadratic deep", {split: (x, x) for split, x in rows.items()})

    def setup(self, data_dir: Path | None, device: torch.device) -> None:
        super().setup(data_dir, device)
        self.hessian = self.hessian.to(device)

    def network(self) -> nn.Module:
        return Point()

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        difference = outputs - targets
        return (difference @ self.hessian * difference).sum(dim=1).mean() / 2

    @property
    def steps_per_epoch(self) -> int:
        return len(self.splits["train"][0]) // self.batch_size

    def batches(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The epoch's whole batches, in an order that depends on seed and epoch alone; what rows are left sit out."""
        inputs, _ = self.splits["train"]
        order = torch.randperm(len(inputs), generator=epoch_generator(seed, epoch)).to(self.device)
        for rows in inputs[order[: self.steps_per_epoch * self.batch_size]].split(self.batch_size):
            yield rows, rows


class Point(nn.Module):
    """The parameter ``theta``, (100,), all ones; maps inputs, (rows, 100), to theta once per row, (rows, 100)."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(DIMENSIONS))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.theta.expand(len(inputs), -1)


def hessian() -> np.ndarray:
    """The published Q, (100, 100) float64, symmetric and positive definite."""
    stream = np.random.RandomState(PROBLEM_SEED)
    eigenvalues = np.concatenate([stream.uniform(0, 1, 90), stream.uniform(30, 60, 10)])
    rotation = random_rotation(stream, DIMENSIONS)
    return rotation.T @ (eigenvalues[:, None] * rotation)


def random_rotation(stream: np.random.RandomState, dimensions: int) -> np.ndarray:
    """A rotation drawn uniformly (Haar measure) from SO(n), n at least 2: (n, n) float64.

    Diaconis and Shahshahani, "The subgroup algorithm for generating uniform random variables", 1987: beginning with a
    rotation of the plane, each further dimension is joined by the reflection that takes its axis to a random direction.
    """
    angle = 2 * np.pi * stream.uniform()
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for size in range(3, dimensions + 1):
        direction = stream.normal(size=size)
        mirror = -direction / np.linalg.norm(direction)
        mirror[0] += 1
        mirror /= np.linalg.norm(mirror)
        grown = np.eye(size)
        grown[1:, 1:] = rotation
        rotation = grown - 2 * np.outer(mirror, mirror @ grown)
    return -rotation  # each reflection turned the sign of the determinant


def draw_rows(seed: int) -> np.ndarray:
    """1,000 rows from N(0, 0.6^2), (1000, 100) float32."""
    return np.random.RandomState(seed).normal(0, DEVIATION, (ROWS, DIMENSIONS)).astype(np.float32)

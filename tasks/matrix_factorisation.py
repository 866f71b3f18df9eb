"""A matrix of handwritten digits as a product of two thin ones, of which most entries are given.

Source: Koren, Bell and Volinsky, "Matrix factorization techniques for recommender systems", Computer 42, 2009; the
digits that come with scikit-learn.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor, nn

from tasks.base import Data, Task

RANK = 8
DEVIATION = 0.3  # of the factors' first entries: a product has one of 0.25, beside 1 of what it is to be
SPLIT_SEED = 0
BOUND = 10.0  # times the loss of always predicting the training entries' mean


class MatrixFactorisation(Task):
    """U V^T of rank 8 (14,888 parameters, of two embeddings) with the squared error of entries of a 1797 x 64 matrix.

    The matrix has an image of 8 x 8 grey levels from 0 to 16 in each row, standardised by mean and deviation of the
    training entries. Two tenths of the entries, drawn once for all seeds, validate and test (11,500 each); the other
    92,008 train. U and V start from N(0, 0.3^2). Metrics: loss, rmse (the root of the mean squared error in grey
    levels).
    """

    evaluation_rows = 2**17

    def load(self, data_dir: Path | None) -> Data:
        from sklearn.datasets import load_digits

        matrix = load_digits().data
        self.shape = matrix.shape
        order, tenth = np.random.RandomState(SPLIT_SEED).permutation(matrix.size), matrix.size // 10
        entries = {"val": order[:tenth], "test": order[tenth : 2 * tenth], "train": np.sort(order[2 * tenth :])}
        trained = matrix.flat[entries["train"]]
        self.unit = float(trained.std())
        self.worst = {"loss": BOUND, "rmse": BOUND**0.5 * self.unit}
        scaled = ((matrix - trained.mean()) / self.unit).astype(np.float32)
        splits = {
            split: (np.stack(np.unravel_index(of, matrix.shape), axis=1), scaled.flat[of])
            for split, of in entries.items()
        }
        return Data("digits", splits, source="scikit-learn")

    def network(self) -> nn.Module:
        return Factors(*self.shape)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        loss = self.criterion(outputs, targets).double()
        return {"loss": loss, "rmse": self.unit * loss.sqrt()}


class Factors(nn.Module):
    """Entries of U V^T, of their places, row and column: (entries, 2) int64 to (entries,)."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = nn.Embedding(rows, RANK), nn.Embedding(columns, RANK)
        for factor in (self.rows, self.columns):
            nn.init.normal_(factor.weight, std=DEVIATION)

    def forward(self, places: Tensor) -> Tensor:
        row, column = places.unbind(1)
        return (self.rows(row) * self.columns(column)).sum(dim=1)

"""Small tables: a perceptron on the data sets that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from tasks.base import Data
from tasks.classification import Classification
from tasks.splits import hold_out

DATASETS = ("iris", "wine", "breast_cancer", "digits")
HIDDEN = (15, 10)
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.25  # of all rows, of the rest: 60 % train, 20 % validate, 20 % test


class TabularMLP(Classification):
    """An inputs-15-10-classes tanh perceptron with cross-entropy on a table of numbers.

    Of each class the last fifth of the rows, in the table's own order, tests and the fifth before it validates. Columns
    are standardised by the training rows' mean and deviation; a column constant over them becomes 0. Metrics: loss
    (cross-entropy), acc, f1.

    Args:
        dataset: iris (150 rows of 4 columns, 3 classes), wine (178, 13, 3), breast_cancer (569, 30, 2) or digits
            (1797, 64, 10).
    """

    def load(self, data_dir: Path | None) -> Data:
        inputs, labels = read_table(str(self.dataset))
        self.set_classes(int(labels.max()) + 1)
        self.inputs = inputs.shape[1]
        rest, test = hold_out(labels, TEST_SHARE)
        train, val = (rest[rows] for rows in hold_out(labels[rest], VALIDATION_SHARE))
        inputs = standardised(inputs, train)
        rows = {"train": train, "val": val, "test": test}
        return Data(
            str(self.dataset), {split: (inputs[of], labels[of]) for split, of in rows.items()}, source="scikit-learn"
        )

    def network(self) -> nn.Module:
        first, second = HIDDEN
        return nn.Sequential(
            nn.Linear(self.inputs, first),
            nn.Tanh(),
            nn.Linear(first, second),
            nn.Tanh(),
            nn.Linear(second, self.classes),
        )


def read_table(dataset: str) -> tuple[np.ndarray, np.ndarray]:
    """A data set's numbers, (rows, columns) float64, and classes from 0, (rows,) int64.

    Raises:
        ValueError: no such data set.
    """
    if dataset not in DATASETS:
        raise ValueError(f"unknown dataset {dataset!r}; expected one of {', '.join(DATASETS)}")
    from sklearn import datasets

    table = getattr(datasets, f"load_{dataset}")()
    return table.data.astype(np.float64), table.target.astype(np.int64)


def standardised(inputs: np.ndarray, train: np.ndarray) -> np.ndarray:
    """``inputs``, (rows, columns), as float32 with mean 0 and deviation 1 over the rows ``train``, or 0 if constant."""
    mean, deviation = inputs[train].mean(axis=0), inputs[train].std(axis=0)
    constant = np.ptp(inputs[train], axis=0) == 0
    return np.where(constant, 0, (inputs - mean) / np.where(constant, 1, deviation)).astype(np.float32)

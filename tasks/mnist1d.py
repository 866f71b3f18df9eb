"""MNIST-1D: ten classes of 40-point signals, the real data from the package's own generator.

Source: Greydanus and Kobak, "Scaling down deep learning with MNIST-1D", 2020 (arXiv 2011.14439).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from tasks.base import Data
from tasks.cache import cached_arrays
from tasks.classification import Classification

VALIDATION_ROWS = 800


class MNIST1D(Classification):
    """A 40-100-10 ReLU perceptron (5,110 parameters) with cross-entropy on MNIST-1D.

    4,000 rows, already shuffled by the generator, are split once: the first 3,200 train, the last 800 validate.
    The 1,000 test rows are the published ones. Metrics: loss (cross-entropy), acc, f1.
    """

    def load(self, data_dir: Path | None) -> Data:
        self.set_classes(10)
        arrays = cached_arrays("mnist1d", generate)
        x, y = arrays["x"].astype(np.float32), arrays["y"].astype(np.int64)
        x_test, y_test = arrays["x_test"].astype(np.float32), arrays["y_test"].astype(np.int64)
        cut = len(x) - VALIDATION_ROWS
        return Data("MNIST-1D", {"train": (x[:cut], y[:cut]), "val": (x[cut:], y[cut:]), "test": (x_test, y_test)})

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(40, 100), nn.ReLU(), nn.Linear(100, 10))


def generate() -> dict[str, np.ndarray]:
    """The published MNIST-1D: x (4000, 40) and x_test (1000, 40) float64, y and y_test int64."""
    # The generator seeds NumPy's and Python's global generators.
    import random

    from mnist1d.data import get_dataset_args, make_dataset

    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        dataset = make_dataset(get_dataset_args())
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
    return {key: np.asarray(dataset[key]) for key in ("x", "y", "x_test", "y_test")}

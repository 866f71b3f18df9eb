"""MNIST-1D: ten classes of 40-point signals, the real data from the package's own generator.

Source: Greydanus and Kobak, "Scaling down deep learning with MNIST-1D", 2020 (arXiv 2011.14439).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from tasks.base import Data
from tasks.cache import cached_arrays
from tasks.classification import Classification

VALIDATION_ROWS = 800
PUBLISHED_SEED, VALIDATION_SEED = 42, 43
ALL_ROWS = "mnist1d_4000"
"""The data set of which all 4,000 published training rows train."""
MODELS = ("perceptron", "mlp", "logistic")


class Signals(Classification):
    """MNIST-1D with cross-entropy, of any network: signals (rows, 40), standardised by the generator."""

    def load(self, data_dir: Path | None) -> Data:
        self.set_classes(10)
        published = cached_arrays("mnist1d", generate)
        x, y = rows_of(published, "x", "y")
        splits = {"train": (x, y), "test": rows_of(published, "x_test", "y_test")}
        if self.dataset == ALL_ROWS:
            fresh = cached_arrays(f"mnist1d_seed_{VALIDATION_SEED}", partial(generate, VALIDATION_SEED))
            splits["val"] = rows_of(fresh, "x_test", "y_test")
        else:
            cut = len(x) - VALIDATION_ROWS
            splits |= {"train": (x[:cut], y[:cut]), "val": (x[cut:], y[cut:])}
        return Data("MNIST-1D", splits)


class MNIST1D(Signals):
    """A 40-100-10 ReLU perceptron (5,110 parameters) with cross-entropy on MNIST-1D.

    4,000 rows, already shuffled by the generator, are split once: the first 3,200 train, the last 800 validate.
    The 1,000 test rows are the published ones. Of data set mnist1d_4000 all 4,000 rows train, as published, and the
    1,000 test rows that the generator makes of its next seed validate. Metrics: loss (cross-entropy), acc, f1.

    With the argument ``model`` another of the published networks takes its place: mlp, 40-100-100-10 with a sum around
    the second hidden layer (15,210 parameters), or logistic, the linear map 40-10 (410).

    Args:
        model: perceptron, mlp or logistic.

    Raises:
        ValueError: no such model.
    """

    def __init__(
        self,
        *,
        metric: str,
        mode: str,
        batch_size: int,
        dataset: str | None = None,
        target: float | None = None,
        model: str = "perceptron",
    ) -> None:
        super().__init__(metric=metric, mode=mode, batch_size=batch_size, dataset=dataset, target=target)
        if model not in MODELS:
            raise ValueError(f"unknown model {model!r}; expected one of {', '.join(MODELS)}")
        self.model = model

    def network(self) -> nn.Module:
        if self.model == "perceptron":
            return nn.Sequential(nn.Linear(40, 100), nn.ReLU(), nn.Linear(100, 10))
        return nn.Linear(40, 10) if self.model == "logistic" else PublishedMLP()


class PublishedMLP(nn.Module):
    """h = relu(A x), then C (h + relu(B h)): notebooks/models.py of the repository greydanus/mnist1d."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(40, 100), nn.Linear(100, 100), nn.Linear(100, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs).relu()
        return self.head(hidden + self.second(hidden).relu())


def rows_of(arrays: dict[str, np.ndarray], x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Signals as float32 and classes as int64."""
    return arrays[x].astype(np.float32), arrays[y].astype(np.int64)


def generate(seed: int = PUBLISHED_SEED) -> dict[str, np.ndarray]:
    """The published MNIST-1D, or other rows that are drawn alike.

    Returns:
        x (4000, 40) and x_test (1000, 40) float64, y and y_test int64.
    """
    # The generator seeds NumPy's and Python's global generators.
    import random

    from mnist1d.data import get_dataset_args, make_dataset

    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        args = get_dataset_args()
        args.seed = seed
        dataset = make_dataset(args)
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
    return {key: np.asarray(dataset[key]) for key in ("x", "y", "x_test", "y_test")}

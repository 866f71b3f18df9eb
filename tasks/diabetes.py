"""Diabetes: how far a disease has progressed after a year, from ten measurements of 442 patients.

Source: Efron, Hastie, Johnstone and Tibshirani, "Least angle regression", Annals of Statistics 32, 2004; the table that
comes with scikit-learn.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from tasks.base import Data, Task
from tasks.splits import in_turn
from tasks.tabular_mlp import standardised

COLUMNS, HIDDEN = 10, 32
BOUND = 10.0  # times the loss of always predicting the training rows' mean


class Diabetes(Task):
    """A 10-32-32-1 tanh perceptron (1,441 parameters) with the squared error of the standardised progression.

    Of every five rows, in the table's own order, three train, one validates and one tests (266, 88 and 88). Columns
    and target are standardised by the training rows' mean and deviation. Metrics: loss, rmse (the root of the mean
    squared error in the target's own units, which go from 25 to 346).
    """

    def load(self, data_dir: Path | None) -> Data:
        from sklearn.datasets import load_diabetes

        table = load_diabetes(scaled=False)
        rows = in_turn(len(table.target))
        inputs = standardised(table.data, rows["train"])
        targets = standardised(table.target[:, None], rows["train"])
        self.unit = float(table.target[rows["train"]].std())
        self.worst = {"loss": BOUND, "rmse": BOUND**0.5 * self.unit}
        return Data("diabetes", {split: (inputs[of], targets[of]) for split, of in rows.items()}, source="scikit-learn")

    def network(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(COLUMNS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1)
        )

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        loss = self.criterion(outputs, targets).double()
        return {"loss": loss, "rmse": self.unit * loss.sqrt()}

"""RAND health insurance experiment: how often people saw a doctor in a year, as counts.

Source: Newhouse and the Insurance Experiment Group, "Free for all? Lessons from the RAND health insurance experiment",
1993; the table randhie of statsmodels, as in Cameron and Trivedi, "Microeconometrics", 2005.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tasks.base import Data, Task
from tasks.splits import in_turn
from tasks.statsmodels_data import read
from tasks.tabular_mlp import standardised

VISITS, COLUMNS, HIDDEN = "mdvis", 9, 32
BOUND = 10.0  # times the loss of always predicting the training rows' mean


class RandHIE(Task):
    """A 9-32-32-1 tanh perceptron (1,409 parameters) whose output is the logarithm of a Poisson rate of visits.

    Of every five of the 20,190 rows, a person's year each and in the table's own order, three train, one validates and
    one tests (12,114, 4,038 and 4,038); a person's years are neighbours, so that the held-out rows are of people whose
    other years train. Columns are standardised by the training rows' mean and deviation. The loss is the negative
    log-likelihood of the counts per row, with all its terms. Metrics: loss, deviance (per row: twice the loss, less
    that of rates equal to the counts).
    """

    def load(self, data_dir: Path | None) -> Data:
        table = read("randhie")
        visits = table[VISITS].to_numpy(np.float32)[:, None]
        rows = in_turn(len(table))
        inputs = standardised(table.drop(columns=VISITS).to_numpy(np.float64), rows["train"])
        trained = torch.from_numpy(visits[rows["train"]])
        guess = self.metrics(trained.mean().log().expand_as(trained), trained)
        self.worst = {metric: BOUND * value.item() for metric, value in guess.items()}
        return Data("randhie", {split: (inputs[of], visits[of]) for split, of in rows.items()}, source="statsmodels")

    def network(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(COLUMNS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1)
        )

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.exp() - targets * outputs + torch.lgamma(targets + 1)).mean()

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        saturated = (targets - torch.xlogy(targets, targets) + torch.lgamma(targets + 1)).mean()
        loss = self.criterion(outputs, targets)
        return {"loss": loss, "deviance": 2 * (loss - saturated)}

"""American National Election Study of 1996: party identification, from strong Democrat to strong Republican.

Source: the table anes96 of statsmodels, whose documentation has a multinomial logit of the same five columns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from tasks.base import Data
from tasks.classification import Classification
from tasks.splits import hold_out
from tasks.statsmodels_data import read
from tasks.tabular_mlp import TEST_SHARE, VALIDATION_SHARE, standardised

COLUMNS = ["logpopul", "selfLR", "age", "educ", "income"]
PARTY, CLASSES, HIDDEN = "PID", 7, 16


class Anes96(Classification):
    """A 5-16-7 tanh perceptron (215 parameters) with cross-entropy on seven degrees of party identification.

    Inputs: the logarithm of the town's population, the place on a scale from left to right, age, education and income.
    Of each class of the 944 rows the last fifth, in the table's own order, tests and the fifth before it validates
    (565, 190 and 189). Columns are standardised by the training rows' mean and deviation. Metrics: loss
    (cross-entropy), acc, f1.
    """

    def load(self, data_dir: Path | None) -> Data:
        table = read("anes96")
        self.set_classes(CLASSES)
        labels = table[PARTY].to_numpy(np.int64)
        rest, test = hold_out(labels, TEST_SHARE)
        train, val = (rest[rows] for rows in hold_out(labels[rest], VALIDATION_SHARE))
        inputs = standardised(table[COLUMNS].to_numpy(np.float64), train)
        rows = {"train": train, "val": val, "test": test}
        return Data("anes96", {split: (inputs[of], labels[of]) for split, of in rows.items()}, source="statsmodels")

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(len(COLUMNS), HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))

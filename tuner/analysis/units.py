"""Runs of two optimizers become units that can be compared: studies or, of a single search, seeds. No torch, no ray."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tuner.analysis.paired import Array
from tuner.analysis.rules import FEWEST_PAIRS

Unit = Literal["study", "seed"]
About = Literal["optimizers", "configurations"]
"""What a contrast speaks of: optimizers as they come out of a search, or what one search each came to."""
PLURALS: dict[Unit, str] = {"study": "studies", "seed": "seeds"}


@dataclass(frozen=True)
class Pairs:
    """Values of an optimizer and of the baseline, unit by unit.

    Attributes:
        x, y: (n,), the optimizer's and the baseline's; of a study the mean over its paired seeds, infinite where a run
            of it diverged.
        names: (n,), the study, or the seed, of each.
        seeds: paired retraining runs.
        unpaired: seeds that only one of the two has a value of.
    """

    unit: Unit
    x: Array
    y: Array
    names: NDArray[np.int_]
    seeds: int
    unpaired: int

    @property
    def about(self) -> About:
        return "optimizers" if self.unit == "study" and len(self.x) >= FEWEST_PAIRS else "configurations"

    def take(self, which: NDArray[np.intp]) -> Pairs:
        """Only these units, in this order."""
        return replace(self, x=self.x[which], y=self.y[which], names=self.names[which])


def pairs(both: pd.DataFrame) -> Pairs:
    """The study is the unit where two optimizers have several in common: a search is luck, and runs of one study share
    it, so that they are no independent evidence on the optimizer.

    Args:
        both: index study, seed; two columns, the optimizer's values and the baseline's, NaN where there is none.
    """
    runs = both.dropna()
    unpaired = int(both.notna().any(axis=1).sum()) - len(runs)
    studies = runs.index.get_level_values("study").to_numpy()
    unit, values = _in_units(studies, runs.to_numpy(float))
    names = np.unique(studies) if unit == "study" else runs.index.get_level_values("seed").to_numpy()
    x, y = values.T
    return Pairs(unit, x, y, names.astype(int), len(runs), unpaired)


def own(studies: pd.Series, values: Array) -> tuple[Unit, Array]:
    """One optimizer's values, (runs,), as means of its studies where it has several; without those that are NaN."""
    known = ~np.isnan(values)
    return _in_units(studies.to_numpy()[known] if len(studies) else np.zeros(0), values[known])


def _in_units(studies: Any, values: Array) -> tuple[Unit, Array]:
    """Rows of ``values`` as they are or, of several studies, the mean of each."""
    numbers, of_study = np.unique(studies, return_inverse=True)
    if len(numbers) < 2:
        return "seed", values
    return "study", np.array([values[of_study == number].mean(axis=0) for number in range(len(numbers))])


def by_run(values: pd.DataFrame) -> pd.DataFrame:
    """The values of runs: index study, seed; columns optimizer; NaN where there is none.

    Args:
        values: columns optimizer, study, seed, value; of several rows of one run the last with a value counts.
    """
    runs = values.dropna(subset="value").drop_duplicates(["optimizer", "study", "seed"], keep="last")
    return runs.pivot(index=["study", "seed"], columns="optimizer", values="value").sort_index()

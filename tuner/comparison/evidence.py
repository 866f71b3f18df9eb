"""Evidence: how far luck of searches and seeds goes in a task's results, and how much of it would decide what is open.

No torch, no ray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tuner.analysis import design, units
from tuner.analysis.design import Design
from tuner.analysis.variance import VarianceSplit, split_variance
from tuner.comparison.comparison import Comparison
from tuner.comparison.contrast import Contrast


@dataclass(frozen=True)
class Decisive:
    """What would decide an open contrast, were its difference and spread what they look like.

    Attributes:
        difference: to show that there is one; of the seeds that there are.
        equivalence: to show that it is within the margin; none without one, or where it is not.
        cheapest: studies and seeds that show the difference at least cost; none of a single search.
    """

    difference: Design
    equivalence: Design | None
    cheapest: Design | None


def luck(comparison: Comparison, optimizer: str) -> VarianceSplit:
    """Of the deciding metric, over the retraining runs of an optimizer."""
    values = comparison.values(comparison.metric)
    return split_variance(values[values["optimizer"] == optimizer], 1 - comparison.config.report.alpha)


def luck_of_difference(comparison: Comparison, optimizer: str) -> VarianceSplit:
    """The same of its differences to the baseline, seed by seed."""
    runs = units.by_run(comparison.values(comparison.metric)).reindex(columns=[optimizer, comparison.baseline]).dropna()
    with np.errstate(invalid="ignore"):
        both = runs.to_numpy(float)
        differences = np.where(np.isinf(both).any(axis=1), np.inf, both[:, 0] - both[:, 1])
    table = pd.DataFrame({"study": runs.index.get_level_values("study"), "value": differences})
    return split_variance(table, 1 - comparison.config.report.alpha)


def decisive(comparison: Comparison, contrast: Contrast) -> Decisive | None:
    """Of a contrast that is open, by its t-test; none of others, where another test decides or looks do, which need
    more, and where there is no spread to plan by."""
    if contrast.test != "t" or contrast.course is not None:
        return None
    if contrast.verdict != "inconclusive" or contrast.reason or contrast.by_ranks or not contrast.sd_difference > 0:
        return None
    alpha = contrast.level
    mean, sd = contrast.mean_difference, contrast.sd_difference
    seeds = contrast.seeds / contrast.n if contrast.unit == "study" else 1.0
    within = not math.isnan(contrast.margin) and abs(mean) < contrast.margin
    equivalence = Design(design.for_equivalence(mean, contrast.margin, sd, alpha), seeds) if within else None
    return Decisive(
        Design(design.for_difference(mean, sd, alpha), seeds), equivalence, _cheapest(comparison, contrast, alpha)
    )


def _cheapest(comparison: Comparison, contrast: Contrast, alpha: float) -> Design | None:
    split = luck_of_difference(comparison, contrast.optimizer)
    if math.isnan(split.search_variance):
        return None
    config = comparison.config
    search_cost = config.search.trials * config.train.epochs / config.retrain_epochs

    def studies_for(seeds: int) -> int | None:
        return design.for_difference(contrast.mean_difference, split.study_variance(seeds) ** 0.5, alpha)

    return design.cheapest(studies_for, search_cost)

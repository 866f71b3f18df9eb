"""A contrast is one optimizer against the baseline, as everything that speaks of it reads it.

No torch, no ray.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields

from tuner.analysis.rules import Test
from tuner.analysis.sequential import Course
from tuner.analysis.stats import Verdict
from tuner.analysis.units import PLURALS, About, Unit


@dataclass(frozen=True)
class Contrast:
    """A row of contrasts.csv: see ``stats.contrasts``, which says what each number is.

    Means and what is made of them are NaN where a run of either diverged; ``typical_*`` are then the medians.
    """

    optimizer: str
    baseline: str
    metric: str
    unit: Unit
    about: About
    n: int
    seeds: int
    n_unpaired: int
    n_diverged: int
    diverged: int
    baseline_diverged: int
    mean: float
    baseline_mean: float
    mean_difference: float
    sd_difference: float
    median: float
    baseline_median: float
    median_difference: float
    d_z: float
    margin: float
    margin_declared: str
    test: Test
    family: int
    p: float
    p_equivalent: float
    level: float
    low: float
    high: float
    shift: float
    verdict: Verdict
    reason: str
    course: Course | None

    @classmethod
    def of_row(cls, row: Mapping[Hashable, object]) -> Contrast:
        """Of a row of ``stats.contrasts`` and its metric."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})  # type: ignore[arg-type]

    @property
    def by_ranks(self) -> bool:
        """Whether runs diverged, so that medians and ranks are compared in place of means."""
        return self.n_diverged > 0

    @property
    def typical(self) -> float:
        """What stands for the optimizer's runs."""
        return self.median if self.by_ranks else self.mean

    @property
    def typical_baseline(self) -> float:
        return self.baseline_median if self.by_ranks else self.baseline_mean

    @property
    def typical_difference(self) -> float:
        return self.median_difference if self.by_ranks else self.mean_difference

    @property
    def interval(self) -> tuple[float, float]:
        """Of the difference, at 1 - ``level``; NaN where there is none of so few."""
        return self.low, self.high

    @property
    def units(self) -> str:
        """How many there are: "5 studies"."""
        return f"{self.n} {PLURALS[self.unit] if self.n != 1 else self.unit}"

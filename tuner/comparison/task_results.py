"""What the comparison of a task's optimizers comes to: summary, contrasts, verdicts, times to the target.

No torch, no ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from tuner.analysis import curves, stats, units
from tuner.analysis.sequential import Looked
from tuner.analysis.stats import Verdict
from tuner.analysis.variance import VarianceSplit
from tuner.comparison import evidence, looks
from tuner.comparison.comparison import Comparison
from tuner.comparison.contrast import Contrast
from tuner.comparison.evidence import Decisive
from tuner.comparison.looks import Looking
from tuner.comparison.metrics import numbers
from tuner.store.columns import BORROWED
from tuner.store.tables import hp_columns

CLOCKS: dict[str, curves.Clock] = {"steps": "step", "grad_equivalents": "grad_equivalents", "seconds": "seconds"}
"""The clocks of seeds.csv -> of curves.parquet."""
TO_TARGET = ("steps", "grad_equivalents")
COSTS = ("grad_equivalents", "seconds")


@dataclass(frozen=True)
class TaskResults:
    """What the comparison of a task's optimizers comes to."""

    comparison: Comparison

    @cached_property
    def summary(self) -> pd.DataFrame:
        """A row per optimizer, the best ``typical`` value first."""
        comparison = self.comparison
        table = pd.DataFrame([self._row(name) for name in comparison.optimizers])
        less = comparison.mode(comparison.metric) == "min"
        return table.sort_values(self.typical, ascending=less, kind="stable", ignore_index=True)

    @cached_property
    def typical(self) -> str:
        """What stands for an optimizer's runs, "mean" or, where runs of any diverged, "median"."""
        return "median" if np.isinf(numbers(self.comparison.seeds, self.comparison.metric)).any() else "mean"

    def _row(self, name: str) -> dict[str, Any]:
        comparison = self.comparison
        runs = comparison.seeds[comparison.seeds["optimizer"] == name]
        confidence = 1 - comparison.config.report.alpha
        row: dict[str, Any] = {"task": comparison.task, "optimizer": name, "baseline": comparison.baseline}
        row |= {"seeds": len(runs), "seeds_diverged": int((runs["status"] == "diverged").sum())}
        row |= {"seeds_failed": int((runs["status"] == "failed").sum()), "metric": comparison.metric}
        unit, values = units.own(runs["study"], numbers(runs, comparison.metric))
        row |= {"unit": unit, "studies": comparison.studies(name)} | stats.describe(values, confidence)
        for metric in comparison.metrics[1:]:
            described = stats.describe(units.own(runs["study"], numbers(runs, metric))[1], confidence)
            row |= {f"{metric}_{key}": described[key] for key in ("mean", "sd", "low", "high", "median")}
        for clock in (*CLOCKS, "step_ms", "peak_mem_mb"):
            row[clock] = float(np.nanmean(x)) if not np.isnan(x := numbers(runs, clock)).all() else np.nan
        trials = comparison.trials[comparison.trials["optimizer"] == name]
        states = trials["state"].value_counts()
        row |= {"target": self.target} | {f"{clock}_to_target": self.reached[clock][name] for clock in TO_TARGET}
        row |= {"cohort": comparison.cohorts[name], "shared": comparison.shared}
        row |= {"trials": len(trials), "trials_diverged": int(states.get("diverged", 0))}
        row |= {"trials_failed": int(states.get("failed", 0)), "tuned": len(comparison.spaces[name])}
        row |= {"at_boundary": " ".join(comparison.at_boundary(name))}
        row |= {BORROWED: next((run for run, names in comparison.borrowed.items() if name in names), "")}
        return row | hp_columns(comparison.hp(name))

    @cached_property
    def contrasts(self) -> pd.DataFrame:
        """A row per metric, clock and optimizer other than the baseline: ``stats.contrasts`` at equal steps, and, of
        the metric of the curves, when the baseline's run had ended by gradient-equivalents and by seconds."""
        comparison = self.comparison
        tables = [self._contrasts(comparison.values(metric), metric, "steps") for metric in comparison.metrics]
        for clock in COSTS:
            if clock == "seconds" and not comparison.timed:
                continue
            values = curves.at_cost_of(self.filled, comparison.baseline, CLOCKS[clock])
            values = values.merge(comparison.seeds[["optimizer", "study", "seed"]], on=["optimizer", "seed"])
            tables.append(self._contrasts(values, comparison.config.task.metric, clock))
        return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)

    def _contrasts(self, values: pd.DataFrame, metric: str, clock: str) -> pd.DataFrame:
        comparison = self.comparison
        table = stats.contrasts(
            values, comparison.baseline, comparison.mode(metric), comparison.rules(metric), self.looked
        )
        primary = metric == comparison.metric and clock == "steps"
        head: Any = {"task": comparison.task, "metric": metric, "mode": comparison.mode(metric), "clock": clock,
                     "primary": primary, "declared": not comparison.undeclared}  # fmt: skip
        return table.assign(**head)[[*head, *table.columns]]

    @cached_property
    def looked(self) -> Looked | None:
        """How far the comparison has been looked at, where it goes on until it is decided."""
        return looks.looked(self.comparison.sources)

    @cached_property
    def looking(self) -> Looking | None:
        """What the looks at it have come to."""
        return Looking.of(self.comparison)

    @cached_property
    def primary(self) -> pd.DataFrame:
        """The contrasts that decide."""
        return self.contrasts[self.contrasts["primary"].astype(bool)]

    @cached_property
    def primary_contrasts(self) -> list[Contrast]:
        """The same, as records."""
        return [Contrast.of_row(row) for row in self.primary.to_dict("records")]

    @property
    def about(self) -> units.About:
        """What the answer is about: optimizers, if any contrast has studies enough."""
        about = {contrast.about for contrast in self.primary_contrasts}
        return "optimizers" if "optimizers" in about else "configurations"

    def decisive(self, optimizer: str) -> Decisive | None:
        """What would decide its contrast; none where that is decided, or nothing can be planned."""
        contrast = self.contrast(optimizer)
        return None if contrast is None else evidence.decisive(self.comparison, contrast)

    def luck(self, optimizer: str) -> VarianceSplit:
        """How far its runs vary by the search, and by the seed."""
        return evidence.luck(self.comparison, optimizer)

    def luck_of_difference(self, optimizer: str) -> VarianceSplit:
        """The same of its differences to the baseline."""
        return evidence.luck_of_difference(self.comparison, optimizer)

    def verdict(self, optimizer: str) -> Verdict | None:
        """The one word; none of the baseline."""
        contrast = self.contrast(optimizer)
        return contrast.verdict if contrast else None

    def contrast(self, optimizer: str) -> Contrast | None:
        """The one that decides on an optimizer; none of the baseline, and where it was not retrained."""
        return next((contrast for contrast in self.primary_contrasts if contrast.optimizer == optimizer), None)

    def standing(self, optimizer: str) -> str:
        """Its verdict, marked where it is about a configuration while others are about optimizers, and where the
        comparison was not declared, or "baseline"; a dash where it has none."""
        contrast = self.contrast(optimizer)
        if contrast is None:
            return "baseline" if optimizer == self.comparison.baseline else "-"
        configuration = " (configuration)" * (contrast.n > 0 and contrast.about != self.about)
        return f"{contrast.verdict}{configuration}{' (not declared)' * bool(self.comparison.undeclared)}"

    @cached_property
    def filled(self) -> pd.DataFrame:
        """The curves of the task's own metric: see ``curves.filled``."""
        return curves.filled(self.comparison.curves, self.comparison.seeds, self.comparison.config.task.metric)

    @property
    def target(self) -> float | None:
        """The value that counts as solved: the task's, else what three quarters of the baseline's runs end with, but
        for diverged ones; none where most diverged."""
        comparison = self.comparison
        if comparison.config.task.target is not None:
            return comparison.config.task.target
        runs = comparison.seeds[comparison.seeds["optimizer"] == comparison.baseline]
        ends = numbers(runs[runs["status"] == "complete"], comparison.config.task.metric)
        ends = ends[~np.isnan(ends)]
        if not len(ends) or 2 * len(ends) < len(runs):
            return None
        return float(np.quantile(ends, 0.75 if comparison.config.task.mode == "min" else 0.25))

    @property
    def declared_target(self) -> bool:
        """Whether the target was said before, by the task or by its suite, so that other runs' times compare."""
        return self.comparison.config.task.target is not None

    @cached_property
    def reached(self) -> dict[str, pd.Series]:
        """``times`` by the clocks that do not depend on the machine."""
        return {clock: self.times(CLOCKS[clock]) for clock in TO_TARGET}

    def times(self, clock: curves.Clock) -> pd.Series:
        """The median time over seeds, by a clock of the curves, at which each optimizer reaches the target."""
        comparison = self.comparison
        if self.target is None or self.filled.empty:
            return pd.Series(np.nan, index=comparison.optimizers)
        reached = curves.time_to_target(self.filled, self.target, comparison.config.task.mode, clock)
        return reached.groupby("optimizer")["time"].median().reindex(comparison.optimizers)

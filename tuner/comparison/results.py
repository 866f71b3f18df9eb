"""Results are what comparisons come to: summary.csv, contrasts.csv, and all that reports are made of. No torch, no
ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tuner.analysis import across_tasks, curves, stats, units
from tuner.analysis.family import correct
from tuner.analysis.sequential import Looked
from tuner.analysis.stats import Verdict
from tuner.analysis.variance import VarianceSplit
from tuner.comparison import evidence, looks
from tuner.comparison.comparison import Comparison
from tuner.comparison.contrast import Contrast
from tuner.comparison.evidence import Decisive
from tuner.comparison.load import read
from tuner.comparison.looks import Looking
from tuner.comparison.metrics import numbers
from tuner.comparison.sensitivity import Sensitivity
from tuner.store.columns import BORROWED
from tuner.store.files import write_whole
from tuner.store.run import Run
from tuner.store.tables import hp_columns

CLOCKS: dict[str, curves.Clock] = {"steps": "step", "grad_equivalents": "grad_equivalents", "seconds": "seconds"}
"""The clocks of seeds.csv -> of curves.parquet."""
HIDDEN = ("shift", "differences", "course")
"""Columns of contrasts that are for this program alone."""
COSTS = ("grad_equivalents", "seconds")
TAU_MAX = 4.0
"""Of the profile, and of AlgoPerf's score."""
IQM_COLUMNS = ["optimizer", "iqm", "low", "high", "difference", "difference_low", "difference_high"]
FEW_TASKS = 8
"""Statements over fewer are about these tasks only (Demsar 2006 wants more than ten)."""


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

    def times(self, clock: curves.Clock) -> pd.Series:
        """The median time over seeds, by a clock of the curves, at which each optimizer reaches the target."""
        comparison = self.comparison
        if self.target is None or self.filled.empty:
            return pd.Series(np.nan, index=comparison.optimizers)
        reached = curves.time_to_target(self.filled, self.target, comparison.config.task.mode, clock)
        return reached.groupby("optimizer")["time"].median().reindex(comparison.optimizers)


@dataclass(frozen=True)
class Results:
    """Of all tasks."""

    tasks: list[TaskResults]

    @cached_property
    def summary(self) -> pd.DataFrame:
        return pd.concat([task.summary for task in self.tasks], ignore_index=True)

    @cached_property
    def contrasts(self) -> pd.DataFrame:
        return pd.concat([task.contrasts for task in self.tasks], ignore_index=True)

    @property
    def optimizers(self) -> list[str]:
        return list(dict.fromkeys(name for task in self.tasks for name in task.comparison.optimizers))

    @cached_property
    def together(self) -> list[list[Contrast]]:
        """The contrasts that decide, task by task, for claims over all tasks: one family, at the smallest of the tasks'
        levels."""
        tasks = [task for task in self.tasks if len(task.primary)]
        if not tasks:
            return [[] for _ in self.tasks]
        rules = {id(task): task.comparison.rules(task.comparison.metric) for task in tasks}
        alpha = min(each.alpha for each in rules.values())
        raw = [stats.raw(task.primary, rules[id(task)]) for task in tasks]
        p, equivalence = (np.concatenate(each) for each in zip(*raw, strict=True))
        parts = correct(p, equivalence, alpha).parts([len(own) for own, _ in raw])
        family = sum(int((~np.isnan(p)).sum()) for p, _ in raw)
        found: dict[int, list[Contrast]] = {}
        for task, part in zip(tasks, parts, strict=True):
            mode, declared = task.comparison.mode(task.comparison.metric), replace(rules[id(task)], alpha=alpha)
            table = stats.decided(task.primary, mode, declared, part).assign(family=family)
            found[id(task)] = [Contrast.of_row(row) for row in table.to_dict("records")]
        return [found.get(id(task), []) for task in self.tasks]

    @property
    def family(self) -> int:
        """How many contrasts a claim over all tasks is over."""
        return max((contrast.family for contrasts in self.together for contrast in contrasts), default=0)

    def write_tables(self, folder: Path) -> None:
        """summary.csv and contrasts.csv."""
        for name, table in (("summary", self.summary), ("contrasts", self.contrasts)):
            write_whole(folder / f"{name}.csv", table.drop(columns=list(HIDDEN), errors="ignore").to_csv(index=False))

    @cached_property
    def across(self) -> Across | None:
        """``None`` of a single task, or where optimizers are not compared on two."""
        return Across(self.tasks) if len(self.tasks) > 1 else None

    @cached_property
    def sensitivity(self) -> Sensitivity:
        return Sensitivity([task.comparison for task in self.tasks], [task.target for task in self.tasks])


@dataclass(frozen=True)
class Across:
    """What several tasks say together."""

    tasks: list[TaskResults]

    def times(self, clock: str) -> pd.DataFrame:
        """Median time to the target, infinite where it was not reached: index task, of those that have a target and all
        optimizers; columns optimizer."""
        times = {task.comparison.task: task.times(CLOCKS[clock]) for task in self.tasks
                 if task.target is not None and task.comparison.task in self.ranks.index}  # fmt: skip
        return pd.DataFrame(times, index=pd.Index(self.optimizers)).T

    @property
    def optimizers(self) -> list[str]:
        return Results(self.tasks).optimizers

    @property
    def baseline(self) -> str:
        """The first task's."""
        return self.tasks[0].comparison.baseline

    @property
    def alpha(self) -> float:
        return self.tasks[0].comparison.config.report.alpha

    @property
    def clock(self) -> str:
        """That of the profile: seconds where they are comparable."""
        return "seconds" if all(task.comparison.timed for task in self.tasks) else "grad_equivalents"

    @cached_property
    def scores(self) -> pd.DataFrame:
        """AlgoPerf scores: index optimizer, a column per clock that is comparable."""
        clocks = [clock for clock in CLOCKS if clock != "seconds" or self.clock == "seconds"]
        return pd.DataFrame({clock: across_tasks.algoperf_score(self.times(clock), TAU_MAX) for clock in clocks})

    @cached_property
    def means(self) -> pd.DataFrame:
        """Mean of the deciding metric, on tasks where runs diverged its median, lower is better: index task, columns
        optimizer."""
        typical = {}
        for task in self.tasks:
            comparison = task.comparison
            sign = 1.0 if comparison.mode(comparison.metric) == "min" else -1.0
            typical[comparison.task] = sign * task.summary.set_index("optimizer")[task.typical]
        return pd.DataFrame(typical).T.reindex(columns=self.optimizers)

    @cached_property
    def ranks(self) -> pd.DataFrame:
        return across_tasks.ranks(self.means)

    @cached_property
    def friedman(self) -> tuple[float, float] | None:
        return across_tasks.friedman(self.means)

    @cached_property
    def pairs(self) -> pd.DataFrame:
        return across_tasks.wilcoxon_holm(self.means)

    @cached_property
    def values(self) -> pd.DataFrame:
        """Runs of all tasks, lower is better: task, optimizer, seed, status, value."""
        tables = []
        for task in self.tasks:
            comparison = task.comparison
            table = comparison.values(comparison.metric).dropna(subset="value")
            sign = 1.0 if comparison.mode(comparison.metric) == "min" else -1.0
            tables.append(table.assign(task=comparison.task, value=sign * table["value"]))
        return pd.concat(tables, ignore_index=True)

    @cached_property
    def interquartile_means(self) -> pd.DataFrame:
        """Of scores: see ``across_tasks.interquartile_means``."""
        scores = across_tasks.normalised(self.values)
        if self.baseline not in set(scores["optimizer"]):
            return pd.DataFrame(columns=IQM_COLUMNS)
        return across_tasks.interquartile_means(scores, self.baseline, confidence=1 - self.alpha)

    @cached_property
    def cliques(self) -> list[list[str]]:
        return across_tasks.cliques(self.ranks.mean(), self.pairs, self.alpha)

    @cached_property
    def profile(self) -> pd.DataFrame:
        """Of the times by ``clock``: index tau from 1 to ``TAU_MAX``."""
        return across_tasks.performance_profile(self.times(self.clock), np.linspace(1.0, TAU_MAX, 301).tolist())


def compare(runs: Sequence[Run], baseline: str | None = None, metric: str | None = None) -> Results:
    """What the runs come to.

    Raises:
        UserError: see ``load.read``.
    """
    return Results([TaskResults(each) for each in read(runs, baseline, metric)])

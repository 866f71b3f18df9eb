"""What several tasks say together: times to targets, ranks, scores. No torch, no ray."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from tuner.analysis import across_tasks
from tuner.comparison.task_results import CLOCKS, TaskResults

TAU_MAX = 4.0
"""Of the profile, and of AlgoPerf's score."""
IQM_COLUMNS = ["optimizer", "iqm", "low", "high", "difference", "difference_low", "difference_high"]
FEW_TASKS = 8
"""Statements over fewer are about these tasks only (Demsar 2006 wants more than ten)."""


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
        return list(dict.fromkeys(name for task in self.tasks for name in task.comparison.optimizers))

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

"""Results are what comparisons come to: summary.csv, contrasts.csv, and all that reports are made of. No torch, no
ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from tuner.analysis import stats
from tuner.analysis.family import correct
from tuner.comparison.across import Across
from tuner.comparison.contrast import Contrast
from tuner.comparison.load import read
from tuner.comparison.sensitivity import Sensitivity
from tuner.comparison.task_results import TaskResults
from tuner.store.files import write_whole
from tuner.store.run import Run

HIDDEN = ("shift", "differences", "course")
"""Columns of contrasts that are for this program alone."""


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


def compare(runs: Sequence[Run], baseline: str | None = None, metric: str | None = None) -> Results:
    """What the runs come to.

    Raises:
        UserError: see ``load.read``.
    """
    return Results([TaskResults(each) for each in read(runs, baseline, metric)])

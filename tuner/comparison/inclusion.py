"""Inclusion is audited: an optimizer that contains another cannot be worse, so a verdict that it is blames its search.

No torch, no ray.
"""

from __future__ import annotations

import pandas as pd

from tuner.analysis import stats
from tuner.comparison.comparison import Comparison
from tuner.comparison.contrast import Contrast
from tuner.comparison.task_results import TaskResults


def failed_search(comparison: Comparison, contrast: Contrast) -> str | None:
    """Whose search has failed by this contrast: the one that is worse though it contains the other."""
    word = contrast.verdict.partition(",")[0]
    if word == "worse" and contrast.baseline in comparison.contained[contrast.optimizer]:
        return contrast.optimizer
    if word == "better" and contrast.optimizer in comparison.contained[contrast.baseline]:
        return contrast.baseline
    return None


def failures(task: TaskResults) -> list[tuple[str, str]]:
    """Those who are worse than what they contain, and what: by the contrasts that decide, and, of two of which neither
    is the baseline, by contrasts that are made for this and are a family of their own."""
    found = []
    for contrast in task.primary_contrasts:
        if failed := failed_search(task.comparison, contrast):
            found.append((failed, contrast.baseline if failed == contrast.optimizer else contrast.optimizer))
    for row in audited(task).to_dict("records"):
        if row["verdict"].startswith("worse"):
            found.append((row["optimizer"], row["baseline"]))
    return found


def audited(task: TaskResults) -> pd.DataFrame:
    """A row of ``stats.contrasts`` for each optimizer and what it contains, where neither is the baseline."""
    comparison = task.comparison
    values, mode = comparison.values(comparison.metric), comparison.mode(comparison.metric)
    rules = comparison.rules(comparison.metric)
    tables = []
    for name in comparison.optimizers:
        for inner in comparison.contained[name]:
            if comparison.baseline not in (name, inner):
                both = values[values["optimizer"].isin([name, inner])]
                tables.append(stats.contrasts(both, inner, mode, rules, task.looked))
    return stats.decided(pd.concat(tables, ignore_index=True), mode, rules) if tables else pd.DataFrame()

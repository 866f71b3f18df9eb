"""The matrix of verdicts has a word for each optimizer on each task, all of them as one family. No torch, no ray."""

from __future__ import annotations

from tuner.comparison.contrast import Contrast
from tuner.comparison.results import Results
from tuner.comparison.task_results import TaskResults
from tuner.reporting.subject import aside
from tuner.reporting.verdicts import undeclared


def words(results: Results) -> list[list[str]]:
    """A row per optimizer, a column per task; what qualifies a verdict stands behind it, and of one that is open among
    all contrasts what the task's own decide."""
    rows = []
    for name in results.optimizers:
        row = []
        for task, contrasts in zip(results.tasks, results.together, strict=True):
            found = next((contrast for contrast in contrasts if contrast.optimizer == name), None)
            marked = found and f"{found.verdict}{aside(task, found)}{undeclared(task)}{_alone(task, found)}"
            row.append(marked or task.standing(name))
        rows.append(row)
    return rows


def _alone(task: TaskResults, found: Contrast) -> str:
    own = task.verdict(found.optimizer)
    return f" (alone: {own})" if found.verdict == "inconclusive" and own not in (None, "inconclusive") else ""

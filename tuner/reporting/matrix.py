"""The matrix of verdicts has a word for each optimizer on each task, all of them as one family. No torch, no ray."""

from __future__ import annotations

from tuner.comparison.results import Results
from tuner.reporting.subject import aside
from tuner.reporting.verdicts import undeclared


def words(results: Results) -> list[list[str]]:
    """A row per optimizer, a column per task; what qualifies a verdict stands behind it."""
    rows = []
    for name in results.optimizers:
        row = []
        for task, contrasts in zip(results.tasks, results.together, strict=True):
            found = next((contrast for contrast in contrasts if contrast.optimizer == name), None)
            marked = found and f"{found.verdict}{aside(task, found)}{undeclared(task)}"
            row.append(marked or task.standing(name))
        rows.append(row)
    return rows

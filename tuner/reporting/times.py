"""Times to the target, of each optimizer on each task, as a table. No torch, no ray."""

from __future__ import annotations

import math
from typing import Any

from tuner.comparison.results import Results
from tuner.text import number

DERIVED = "*"
"""Behind a target that no task and no suite has declared."""


def table(results: Results) -> dict[str, Any]:
    """A row per task: its target, and of each optimizer steps and gradient-equivalents, medians over runs."""
    rows = []
    for task in results.tasks:
        target = "-" if task.target is None else f"{number(task.target)}{DERIVED * (not task.declared_target)}"
        cells = [_cell(*(task.reached[clock].get(name) for clock in task.reached)) for name in results.optimizers]
        rows.append([task.comparison.task, f"{task.comparison.config.task.metric} {target}", *cells])
    return {"head": ["task", "target", *results.optimizers], "rows": rows}


def _cell(steps: float | None, grad_equivalents: float | None) -> str:
    if steps is None or grad_equivalents is None or math.isnan(steps):
        return "-"
    return "not reached" if math.isinf(steps) else f"{steps:,.0f} ({grad_equivalents:,.0f})"

"""The leaderboard of a task is made here: its cells as a person reads them, and what they are sorted by.

No torch, no ray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.analysis.units import PLURALS, Unit
from tuner.comparison.contrast import Contrast
from tuner.comparison.task_results import TaskResults
from tuner.reporting.numbers import difference_with_interval, result, with_interval
from tuner.text import hp_text, number

ORDER = ("better", "better, by less than matters", "equivalent", "baseline", "inconclusive",
         "worse, by less than matters", "worse", "-")  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What is shown, and what it is sorted by: a number, or text; NaN and None, which are last, for what is missing."""

    text: str
    value: float | int | str | None


def leaderboard(task: TaskResults) -> tuple[list[str], list[list[Cell]]]:
    """Head and rows, the best mean first, or median where runs diverged; a row's first cell is the optimizer's name."""
    comparison = task.comparison
    metric, *others = metric_heads(task)
    head = ["optimizer", metric, f"difference to {comparison.baseline}", verdict_head(task), *others,
            step_head(shared=comparison.shared), "MB memory", "gradient-equivalents", "diverged (seeds, trials)",
            "at boundary", "tuned hyperparameters"]  # fmt: skip
    return head, [_row(task, row) for row in task.summary.to_dict("records")]


def verdict_head(task: TaskResults) -> str:
    """What verdicts are on is said where they stand."""
    return f"verdict on {task.about}"


def metric_heads(task: TaskResults) -> list[str]:
    """The metrics, and what of them is shown if it is not their means."""
    return [metric + " (median)" * (task.typical == "median") for metric in task.comparison.metrics]


def step_head(*, shared: bool) -> str:
    """Of the times of steps, of runs that had their device to themselves or shared it."""
    return "ms/step (shared)" if shared else "ms/step"


def counted(task: TaskResults) -> str:
    """Over how many units the values of a row are: "5 studies", "8 to 10 seeds", or "5 studies or 4 seeds"."""
    by_unit: dict[Unit, set[int]] = {"study": set(), "seed": set()}
    for unit, n in zip(task.summary["unit"], task.summary["n"], strict=True):
        by_unit[unit].add(int(n))
    if by_unit["study"]:
        by_unit["seed"] -= {0}  # of who has no value
    return " or ".join(_span(unit, counts) for unit, counts in by_unit.items() if counts)


def _span(unit: Unit, counts: set[int]) -> str:
    fewest, most = min(counts), max(counts)
    return f"{fewest if fewest == most else f'{fewest} to {most}'} {PLURALS[unit] if most != 1 else unit}"


def _row(task: TaskResults, row: Mapping[Any, Any]) -> list[Cell]:
    name = row["optimizer"]
    verdict, contrast = task.verdict(name) or task.standing(name), task.contrast(name)
    hp = task.comparison.hp(name)
    diverged = f"{row['seeds_diverged']}/{row['seeds']}, {row['trials_diverged']}/{row['trials']}"
    return [
        Cell(name, name),
        Cell(typical_and_interval(task, row), row[task.typical]),
        Cell("-", 0.0 if verdict == "baseline" else None) if contrast is None else difference(contrast),
        Cell(task.standing(name), ORDER.index(verdict)),
        *(_typical(row[f"{metric}_{task.typical}"]) for metric in task.comparison.metrics[1:]),
        step_time(task, row),
        _plain(row["peak_mem_mb"], 4),
        _plain(row["grad_equivalents"], 6),
        Cell(diverged, row["seeds_diverged"] + row["trials_diverged"] / (row["trials"] + 1)),
        Cell(row["at_boundary"] or "-", row["at_boundary"]),
        Cell(hp_text(hp) if hp else "-", row["tuned"]),
    ]


def _plain(value: float, digits: int) -> Cell:
    return Cell(number(value, digits), value)


def _typical(value: float) -> Cell:
    return Cell(result(value), value)


def step_time(task: TaskResults, row: Mapping[Any, Any]) -> Cell:
    """Of a row of the summary; where runs trained as stacks with the size of these, and nothing to be sorted by."""
    cell = _plain(row["step_ms"], 3)
    if not task.comparison.stacked or math.isnan(row["step_ms"]):
        return cell
    return Cell(f"{cell.text} ({'alone' if row['cohort'] == 1 else str(row['cohort']) + ' at once'})", None)


def typical_and_interval(task: TaskResults, row: Mapping[Any, Any]) -> str:
    """Of a row of the summary: the mean and its interval, or the median and that of it."""
    if task.typical == "mean":
        return with_interval(row["mean"], row["low"], row["high"])
    return with_interval(row["median"], row["median_low"], row["median_high"])


def difference(contrast: Contrast) -> Cell:
    """To the baseline: of means or, where runs diverged, the median of the differences, which is said."""
    text = difference_with_interval(contrast.typical_difference, *contrast.interval)
    return Cell("median " * contrast.by_ranks + text, contrast.typical_difference)

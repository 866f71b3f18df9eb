"""The leaderboard of a task: its cells as a person reads them, and what they are sorted by. No torch, no ray."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.answer import TaskAnswer
from tuner.cli import hp_text
from tuner.comparison import Comparison
from tuner.sentences import interval, number, signed

ORDER = ("better", "equivalent", "baseline", "inconclusive", "worse", "-")


@dataclass(frozen=True)
class Cell:
    """What is shown, and what it is sorted by: a number, or text; NaN and None, which are last, for what is missing."""

    text: str
    value: float | int | str | None


def leaderboard(task: TaskAnswer) -> tuple[list[str], list[list[Cell]]]:
    """Head and rows, the best mean first; the first cell of a row is the optimizer's name."""
    made = task.comparison
    head = ["optimizer", made.metric, f"difference to {made.baseline}", "verdict", *made.metrics[1:], step_head(made),
            "MB memory", "gradient-equivalents", "diverged (seeds, trials)", "at boundary",
            "tuned hyperparameters"]  # fmt: skip
    return head, [_row(task, row) for row in task.summary.to_dict("records")]


def step_head(made: Comparison) -> str:
    """Of the times of steps."""
    return "ms/step (shared)" if made.shared else "ms/step"


def _row(task: TaskAnswer, row: Mapping[Any, Any]) -> list[Cell]:
    name = row["optimizer"]
    verdict, contrast = task.standing(name), task.contrast(name)
    hp = task.comparison.hp(name)
    diverged = f"{row['seeds_diverged']}/{row['seeds']}, {row['trials_diverged']}/{row['trials']}"
    return [
        Cell(name, name),
        Cell(mean_and_interval(row), row["mean"]),
        Cell("-", 0.0 if verdict == "baseline" else None) if contrast is None else difference(contrast),
        Cell(verdict, ORDER.index(verdict)),
        *(_plain(row[f"{metric}_mean"], 4) for metric in task.comparison.metrics[1:]),
        _plain(row["step_ms"], 3),
        _plain(row["peak_mem_mb"], 4),
        _plain(row["grad_equivalents"], 6),
        Cell(diverged, row["seeds_diverged"] + row["trials_diverged"] / (row["trials"] + 1)),
        Cell(row["at_boundary"] or "-", row["at_boundary"]),
        Cell(hp_text(hp) if hp else "-", row["tuned"]),
    ]


def _plain(value: float, digits: int) -> Cell:
    return Cell(number(value, digits), value)


def mean_and_interval(row: Mapping[Any, Any]) -> str:
    """Of a row with mean, low and high."""
    if math.isnan(row["low"]):
        return number(row["mean"])
    return f"{number(row['mean'])} [{number(row['low'])}, {number(row['high'])}]"


def difference(contrast: Mapping[Any, Any]) -> Cell:
    """To the baseline."""
    mean, low, high = contrast["mean_difference"], contrast["t_low"], contrast["t_high"]
    return Cell(signed(mean) if math.isnan(low) else f"{signed(mean)} [{interval(low, high)}]", mean)

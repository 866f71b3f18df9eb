"""The results are written as one JSON document, for scripts. No torch, no ray."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from tuner.comparison.comparison import Comparison
from tuner.comparison.results import Across, Results, TaskResults
from tuner.reporting.caveats import caveat_sentences
from tuner.reporting.verdicts import overall, verdict
from tuner.store.json_files import SCHEMA_VERSION
from tuner.store.tables import HP


def document(results: Results) -> dict[str, Any]:
    """Everything that the report says, for scripts; numbers that there are not are null."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "runs": [str(source.run.path) for task in results.tasks for source in task.comparison.sources],
        "tasks": [_task(task) for task in results.tasks],
        "across_tasks": results.across and _across(results, results.across),
        "caveats": caveat_sentences(results),
    }
    return _plain(content)


def _task(task: TaskResults) -> dict[str, Any]:
    comparison = task.comparison
    declared = comparison.config.report
    return {
        "task": comparison.task,
        "metric": comparison.metric,
        "mode": comparison.mode(comparison.metric),
        "baseline": comparison.baseline,
        "declared": not comparison.undeclared,
        "rules": {"test": declared.test, "alpha": declared.alpha, "margin": comparison.rules(comparison.metric).margin},
        "target": task.target,
        "data": [source.env.get("data") for source in comparison.sources],
        "optimizers": [
            {"rank": index + 1, **_without_hp(row), "hp": _hp(comparison, row["optimizer"]),
             "at_boundary": comparison.at_boundary(row["optimizer"]),
             "verdict": task.verdict(row["optimizer"]), "declared": not comparison.undeclared,
             "sentence": verdict(task, row["optimizer"])}
            for index, row in enumerate(task.summary.to_dict("records"))
        ],
        "contrasts": task.contrasts.drop(columns=["task", "shift"], errors="ignore").to_dict("records"),
    }  # fmt: skip


def _hp(comparison: Comparison, optimizer: str) -> dict[str, Any] | None:
    """Nothing, where there was nothing to search; ``None`` where nothing is known."""
    return comparison.hp(optimizer) or (None if comparison.spaces[optimizer] else {})


def _without_hp(row: dict[Any, Any]) -> dict[Any, Any]:
    return {key: value for key, value in row.items() if not str(key).startswith(HP) and key not in ("task", "baseline")}


def _across(results: Results, across: Across) -> dict[str, Any]:
    means = across.ranks.mean()
    return {
        "clock": across.clock,
        "times_to_target": across.times(across.clock).to_dict("index"),
        "algoperf": across.scores.to_dict("index"),
        "mean_ranks": means.to_dict(),
        "tasks_ranked": list(across.ranks.index),
        "friedman": None if across.friedman is None else dict(zip(("statistic", "p"), across.friedman, strict=True)),
        "pairs": across.pairs.to_dict("records"),
        "interquartile_means": across.interquartile_means.to_dict("records"),
        "sentences": [overall(results, name) for name in results.optimizers],
    }


def _plain(value: Any) -> Any:
    """As JSON has it: no NaN, no infinity, no numpy."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "item"):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value

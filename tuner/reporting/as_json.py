"""The results are written as one JSON document, for scripts. No torch, no ray."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pandas as pd

from tuner.comparison.across import Across
from tuner.comparison.comparison import Comparison
from tuner.comparison.inclusion import failures
from tuner.comparison.results import HIDDEN, Results
from tuner.comparison.task_results import TaskResults
from tuner.reporting import looks, sensitivity
from tuner.reporting.caveats import caveat_sentences, grouped
from tuner.reporting.subject import answer_is_about
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
        "sensitivity": sensitivity.document(results),
        "about": answer_is_about(results),
        "caveats": caveat_sentences(results),
        "caveats_by_kind": [
            {
                "kind": group.kind,
                "text": group.text,
                "tasks": group.tasks,
                "items": [{"text": item, "tasks": tasks} for item, tasks in group.items.items()],
            }
            for group in grouped(results)
        ],
    }
    return _plain(content)


def _task(task: TaskResults) -> dict[str, Any]:
    comparison = task.comparison
    declared = comparison.config.report
    failed = failures(task)
    return {
        "task": comparison.task,
        "metric": comparison.metric,
        "mode": comparison.mode(comparison.metric),
        "baseline": comparison.baseline,
        "declared": not comparison.undeclared,
        "about": task.about,
        "studies": max(map(comparison.studies, comparison.optimizers), default=0),
        "rules": {"test": declared.test, "alpha": declared.alpha, "margin": comparison.rules(comparison.metric).margin},
        "looks": looks.document(task),
        "target": task.target,
        "data": [source.env.get("data") for source in comparison.sources],
        "optimizers": [
            {"rank": index + 1, **_without_hp(row), "hp": _hp(comparison, row["optimizer"]),
             "at_boundary": comparison.at_boundary(row["optimizer"]),
             "verdict": task.verdict(row["optimizer"]), "declared": not comparison.undeclared,
             "sentence": verdict(task, row["optimizer"]), **_of_optimizer(task, row["optimizer"], failed)}
            for index, row in enumerate(task.summary.to_dict("records"))
        ],
        "contrasts": task.contrasts.drop(columns=["task", *HIDDEN], errors="ignore").to_dict("records"),
    }  # fmt: skip


def _of_optimizer(task: TaskResults, name: str, failed: list[tuple[str, str]]) -> dict[str, Any]:
    """What it contains, and was worse than though it contains it; how far luck goes; what would decide its contrast."""
    decisive = task.decisive(name)
    contrast = task.contrast(name)
    return {
        "about": contrast and contrast.about,
        "contains": task.comparison.contained[name],
        "search_failed_to_find": [inner for outer, inner in failed if outer == name],
        "variance": asdict(task.luck(name)),
        "variance_of_difference": contrast and asdict(task.luck_of_difference(name)),
        "would_decide": decisive and asdict(decisive),
    }


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
        "contrasts": results.family,
        **{
            key: {
                task.comparison.task: {contrast.optimizer: getattr(contrast, field) for contrast in contrasts}
                for task, contrasts in zip(results.tasks, results.together, strict=True)
            }
            for key, field in (("verdicts", "verdict"), ("about", "about"))
        },
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

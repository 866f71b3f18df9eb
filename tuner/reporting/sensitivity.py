"""How optimizers depend on their tuning is drawn, put into a table and words, and written down. No torch, no ray."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

import pandas as pd

from tuner.analysis.sensitivity import FEWEST_SHARED, NEAR
from tuner.analysis.surrogate import FEWEST_TRIALS, MOST_HYPERPARAMETERS
from tuner.comparison.comparison import Comparison
from tuner.comparison.results import Results
from tuner.comparison.sensitivity import CLOCK, Sensitivity, Shared
from tuner.figures.over_lr import TaskCurves

Cell = tuple[str, float | str]
"""What is shown, and what it is sorted by."""


def panels(found: Sensitivity) -> list[TaskCurves]:
    """Of the tasks on which a learning rate was searched, and an untrained network is known."""
    made = []
    for comparison in found.comparisons:
        curves = [_curve(found, comparison, name) for name in comparison.optimizers]
        curves = [curve for curve in curves if curve is not None]
        before = found.untrained[comparison.task]
        task = comparison.config.task
        if curves and math.isfinite(before):
            sign = 1.0 if task.mode == "min" else -1.0
            table = pd.concat(curves, ignore_index=True)
            table["best"] *= sign
            made.append(TaskCurves(comparison.task, task.metric, task.mode, table, sign * before))
    return made


def _curve(found: Sensitivity, comparison: Comparison, name: str) -> pd.DataFrame | None:
    curve, before = found.over_lr(comparison, name), found.untrained[comparison.task]
    if curve is None or curve["best"].isna().all():
        return None
    best = curve["best"].min()
    return curve.assign(optimizer=name, near=(curve["best"] <= best + NEAR * (before - best)) & (best < before))


CAPTION = (
    "The best value of all trials in each twelfth of the searched range of learning rates; dots where at most "
    f"{100 * NEAR:g} % of the way from an untrained network, the worse edge, to the optimizer's best is lost"
)


def section(results: Results, shades: Mapping[str, Any]) -> dict[str, Any] | None:
    """The table and the sentences below it; none where there is nothing to say."""
    found = results.sensitivity
    if not found.shown:
        return None
    columns: dict[str, list[Cell]] = {"optimizer": [(name, name) for name in found.optimizers], **_columns(found)}
    kept = {head: cells for head, cells in columns.items() if any(text != "-" for text, _ in cells)}
    rows = []
    baselines = {comparison.baseline for comparison in found.comparisons}
    for index, name in enumerate(found.optimizers):
        cells = [{"text": cells[index][0], "value": _sortable(cells[index][1]), "verdict": None, "wide": False}
                 for cells in kept.values()]  # fmt: skip
        rows.append({"baseline": name in baselines, "swatch": shades[name], "cells": cells})
    over = f"; means over {len(found.comparisons)} tasks" * (len(found.comparisons) > 1)
    caption = f"Scores are 0 at the 95th percentile of a task's trials, of all optimizers, and 1 at the 5th{over}."
    head = [{"name": name, "sorted": ""} for name in kept]
    board = {"task": "sensitivity", "caption": caption, "head": head, "rows": rows}
    return {"board": board, "notes": notes(found), "fewest": FEWEST_SHARED}


def _sortable(value: float | str) -> float | str:
    return "" if isinstance(value, float) and math.isnan(value) else value


def _columns(found: Sensitivity) -> dict[str, list[Cell]]:
    """By their heads, a cell per optimizer: what is shown, and what it is sorted by."""
    names = found.optimizers
    shared = [found.shared[name] for name in names]
    return {
        "learning rates near the best": [_near(found, name) for name in names],
        "score, tuned per task": [_score(_whole_mean(found.tuned(name))) for name in names],
        "gained by tuning per task": [_score(each.sensitivity, each.how) for each in shared],
        "must be tuned per task": [_dimensionality(found, name) for name in names],
        "score of defaults": [_score(_whole_mean(found.defaults(name))) for name in names],
        "score of the best shared": [_score(each.score, each.how) for each in shared],
    }


def _near(found: Sensitivity, name: str) -> Cell:
    known = [pair for pair in found.near_best(name).values() if not math.isnan(pair[0])]
    if not known:
        return "-", math.nan
    share, decades = (median(part) for part in zip(*known, strict=True))
    return f"{100 * share:.0f} % ({decades:.1f} decades)", share


def _score(value: float, how: str = "") -> Cell:
    if math.isnan(value):
        return "-", value
    return f"{value:.2f}{' (modelled)' * (how == 'modelled')}", value


def _dimensionality(found: Sensitivity, name: str) -> Cell:
    needed = found.shared[name].dimensionality
    if needed is None:
        return "-", math.nan
    count, which = needed
    searched = len(next(each.spaces[name] for each in found.comparisons if name in each.optimizers))
    return f"{count} of {searched}" + (f" ({', '.join(which)})" if which else ""), float(count)


def _whole_mean(scores: pd.Series) -> float:
    """Over all tasks; NaN where one has none."""
    return float(scores.mean()) if len(scores) and scores.notna().all() else math.nan


# Why something is not said.


def notes(found: Sensitivity) -> list[str]:
    """What the numbers of shared configurations rest on, or why there are none."""
    if len(found.comparisons) == 1:
        return []
    said: dict[str, list[str]] = {}
    for name in found.optimizers:
        said.setdefault(_note(found.shared[name]), []).append(name)
    return [f"{', '.join(names)}: {text}." for text, names in said.items()]


def _note(shared: Shared) -> str:
    tried = f"{shared.common or 'no'} configuration{'s' * (shared.common != 1)} in common"
    if shared.how == "measured":
        return f"{tried} of all tasks, as they were measured"
    if shared.how == "modelled":
        silent = f"; more than {MOST_HYPERPARAMETERS} hyperparameters, or none that leads to a score above 0"
        return f"{tried}; {_explained(shared)}{silent * (shared.dimensionality is None)}"
    if shared.obstacle == "fit":
        return f"{tried}, and no model that is good enough: {_explained(shared)}"
    return {
        "one task": "nothing of shared configurations, as it is on one task only",
        "spaces": "nothing of shared configurations, as search spaces differ from task to task",
        "nothing searched": "nothing was searched",
        "sampler": f"{tried}, and nothing is modelled, as trials of a sampler that learns do not cover the space",
        "outside": f"{tried}, and no model, as a trial lies outside of the search space",
        "few trials": f"{tried}, and no model, as a task has fewer than {FEWEST_TRIALS} different configurations",
    }[shared.obstacle]


def _explained(shared: Shared) -> str:
    shares = [max(model.explained, 0.0) for model in shared.models.values()]
    errors = max(model.error for model in shared.models.values())
    span = " to ".join(dict.fromkeys(f"{100 * share:.0f}" for share in (min(shares), max(shares))))
    return (
        f"the models explain {span} % of the variance of scores that they have not seen, and err by up to {errors:.2f}"
    )


# For scripts.


def document(results: Results) -> dict[str, Any] | None:
    """The same for scripts, and times to the target under the rulesets."""
    found = results.sensitivity
    if not found.shown:
        return None
    return {
        "optimizers": [_of_optimizer(found, name) for name in found.optimizers],
        "clock": CLOCK,
        "times_to_target": {ruleset: times.to_dict("index") for ruleset, times in found.times.items()},
        "algoperf": {ruleset: found.algoperf(ruleset).to_dict() for ruleset in found.times},
        "notes": notes(found),
    }


def _of_optimizer(found: Sensitivity, name: str) -> dict[str, Any]:
    shared, near = found.shared[name], found.near_best(name)
    needed = shared.dimensionality
    return {
        "optimizer": name,
        "lr_share": {task: share for task, (share, _) in near.items()},
        "lr_decades": {task: decades for task, (_, decades) in near.items()},
        "tuned": found.tuned(name).to_dict(),
        "defaults": found.defaults(name).to_dict(),
        "common": shared.common,
        "how": shared.how or None,
        "gained": shared.sensitivity,
        "best_shared": shared.score,
        "dimensionality": needed and needed[0],
        "must_be_tuned": needed and list(needed[1]),
        "models": {task: {"explained": each.explained, "error": each.error, "n": each.n}
                   for task, each in shared.models.items()},
    }  # fmt: skip

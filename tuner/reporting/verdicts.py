"""Verdicts are put into words: a sentence per optimizer, with the numbers behind it, on a task and over several.

No torch, no ray.
"""

from __future__ import annotations

import math
from typing import get_args

import pandas as pd

from tuner.analysis import stats
from tuner.analysis.rules import TESTS
from tuner.comparison.comparison import Comparison
from tuner.comparison.contrast import Contrast
from tuner.comparison.results import Results, TaskResults
from tuner.reporting.numbers import interval, percent, result, signed
from tuner.text import number, p_value

ABOUT = 1.05
"""A ratio of times of which nobody cares."""
VERDICTS = get_args(stats.Verdict)


def verdict(task: TaskResults, optimizer: str) -> str:
    """A sentence on an optimizer and its task's baseline, with the numbers behind it."""
    comparison = task.comparison
    contrast = task.contrast(optimizer)
    if optimizer == comparison.baseline:
        row = next(row for row in task.summary.to_dict("records") if row["optimizer"] == optimizer)
        if not row["n"]:
            return f"{optimizer} is the baseline, and {_lacking(comparison, optimizer)}."
        if task.typical == "mean":
            return f"{optimizer} is the baseline, with {number(row['mean'])} {comparison.metric}."
        lost = f"; it diverged on {row['seeds_diverged']} of {row['n']} seeds" if row["seeds_diverged"] else ""
        return f"{optimizer} is the baseline, with a median {comparison.metric} of {result(row['median'])}{lost}."
    if contrast is None:
        return f"{optimizer} {_lacking(comparison, optimizer)}."
    numbers = _numbers(contrast, comparison.config.report.alpha)
    return f"{_claim(contrast)}{_exploratory(comparison)}{numbers}{_cost(task, optimizer)}."


def _lacking(comparison: Comparison, optimizer: str) -> str:
    """Of an optimizer without a value of the metric: why."""
    retrained = (comparison.seeds["optimizer"] == optimizer).any()
    return f"has no {comparison.metric}" if retrained else "was not retrained"


def _claim(contrast: Contrast) -> str:
    name, baseline, metric = contrast.optimizer, contrast.baseline, contrast.metric
    word, _, slightly = contrast.verdict.partition(", ")
    if word in ("better", "worse"):
        size = f", {slightly}, which is {_margin(contrast)}" if slightly else ""
        return f"{name} is {word} than {baseline} on {metric}{size}"
    if word == "equivalent":
        return f"{name} is equivalent to {baseline} on {metric}, within {_margin(contrast)}"
    if contrast.reason:
        return f"{name} and {baseline} cannot be told apart on {metric}: {contrast.reason}"
    return f"{name} is neither shown to be better than {baseline} on {metric} nor to be worse"


def _margin(contrast: Contrast) -> str:
    """The one that a contrast was judged by; a relative one as it was declared, too."""
    declared = contrast.margin_declared
    return number(contrast.margin) + (f" ({declared} of {contrast.baseline}'s)" if declared.endswith("%") else "")


def _exploratory(comparison: Comparison) -> str:
    """Behind a claim about what was chosen when its result was known."""
    what = " and ".join(comparison.undeclared)
    were = "were" if len(comparison.undeclared) > 1 else "was"
    return f" (not declared: the {what} {were} chosen afterwards)" if what else ""


def _numbers(contrast: Contrast, alpha: float) -> str:
    """Behind a claim: both values, their difference with its interval, test, p-value and seeds."""
    if not contrast.n:
        return ""
    median = "median " * contrast.by_ranks
    text = f": {_diverged(contrast)}{median}{result(contrast.typical)} against {result(contrast.typical_baseline)}"
    if contrast.reason:
        return text
    low, high = contrast.interval
    between = f"uncorrected {percent(1 - alpha)} interval {interval(low, high)}"
    inside = "no interval of so few" if math.isnan(low) else between
    ranks = "decided by ranks, diverged runs last: " * contrast.by_ranks
    text += f", a {median}difference of {signed(contrast.typical_difference)} ({inside}; {ranks}"
    contrary = contrast.shift * contrast.typical_difference < 0
    which = "medians" if contrast.by_ranks else "means"
    decided = contrast.verdict not in ("equivalent", "inconclusive")
    seeds = f"{contrast.n} seeds{f'; by ranks, the {which} say otherwise' if decided and contrary else ''}"
    return f"{text}{TESTS[contrast.test]}, Holm-corrected {p_value(contrast.p)}, {seeds})"


def _diverged(contrast: Contrast) -> str:
    """Which of the two diverged, and how often."""
    counts = {contrast.optimizer: contrast.diverged, contrast.baseline: contrast.baseline_diverged}
    parts = [f"{name} diverged on {count} of {contrast.n} seeds" for name, count in counts.items() if count]
    return f"{' and '.join(parts)}; " if parts else ""


def _paired_costs(comparison: Comparison, optimizer: str, *, by_time: bool) -> pd.DataFrame | None:
    """Of a step, of the optimizer and the baseline on the same seed, in ms or in gradient-equivalents."""
    runs = comparison.seeds
    if not ({"step_ms"} if by_time else {"grad_equivalents", "steps"}) <= set(runs):
        return None
    costs = runs.assign(cost=runs["step_ms"] if by_time else runs["grad_equivalents"] / runs["steps"])
    table = costs.pivot(index="seed", columns="optimizer", values="cost")
    table = table.reindex(columns=[optimizer, comparison.baseline])
    return table.where(table > 0).dropna()


def _cost(task: TaskResults, optimizer: str) -> str:
    """What a step takes, in the baseline's; in gradient-equivalents where times are not comparable."""
    comparison = task.comparison
    same_run = comparison.source(optimizer) is comparison.source(comparison.baseline)  # else at another time
    alone = comparison.timed and same_run
    table = _paired_costs(comparison, optimizer, by_time=alone)
    if table is None:
        return ""
    mine, theirs = table.to_numpy(float).T
    ratio = stats.ratio(mine, theirs, 1 - comparison.config.report.alpha)
    if math.isnan(ratio["mean"]):
        return ""
    if not alone:
        stacked = " (times of stacks are not compared)" if comparison.stacked else ""
        return f"; a step takes {ratio['mean']:.2f} times the gradient-equivalents{stacked}"
    level = percent(1 - comparison.config.report.alpha)
    if math.isnan(ratio["low"]):
        seeds = f"{len(table)} {'seed' if len(table) == 1 else 'seeds'}"
        return f"; a step takes {ratio['mean']:.2f} times as long ({seeds}, no interval)"
    between = f"{level} interval {ratio['low']:.2f} to {ratio['high']:.2f}"
    if 1 / ABOUT <= ratio["low"] <= ratio["high"] <= ABOUT:
        return f"; a step takes about as long ({ratio['mean']:.2f} times, {between})"
    if ratio["low"] <= 1 <= ratio["high"]:
        return f"; whether a step takes longer cannot be told ({ratio['mean']:.2f} times, {between})"
    return f"; a step takes {ratio['mean']:.2f} times as long ({between})"


def verdicts(results: Results) -> list[str]:
    """A sentence per task and optimizer, and of several tasks one per optimizer."""
    if results.across is None:
        return [verdict(task, name) for task in results.tasks for name in task.summary["optimizer"]]
    sentences = [overall(results, name) for name in results.optimizers]
    for task in results.tasks:
        sentences += ["", f"{task.comparison.task}:", *(verdict(task, name) for name in task.summary["optimizer"])]
    return sentences


def overall(results: Results, optimizer: str) -> str:
    """A sentence on an optimizer over several tasks."""
    by_word = by_verdict(results, optimizer)
    if not by_word:
        return f"{optimizer} {without_verdict(results, optimizer)}."
    parts = "; ".join(f"{word}{',' * (',' in word)} on {', '.join(tasks)}" for word, tasks in by_word.items())
    return f"{optimizer} against {baselines(results)}: {parts}."


def without_verdict(results: Results, optimizer: str) -> str:
    """What an optimizer is that has none on any task."""
    of_tasks = [task.comparison for task in results.tasks if optimizer in task.comparison.optimizers]
    return (
        "is the baseline" if any(comparison.baseline == optimizer for comparison in of_tasks) else "was not retrained"
    )


def by_verdict(results: Results, optimizer: str) -> dict[str, list[str]]:
    """The tasks of each verdict that there is, the good ones first; marked where the comparison was not declared."""
    named = [
        (task.verdict(optimizer), task.comparison.task + " (not declared)" * bool(task.comparison.undeclared))
        for task in results.tasks
    ]
    tasks_by_word = {word: [name for verdict, name in named if verdict == word] for word in VERDICTS}
    return {word: tasks for word, tasks in tasks_by_word.items() if tasks}


def baselines(results: Results) -> str:
    return ", ".join(dict.fromkeys(task.comparison.baseline for task in results.tasks))

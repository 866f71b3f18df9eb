"""Verdicts are put into words: a sentence per optimizer, with the numbers behind it, on a task and over several.

No torch, no ray.
"""

from __future__ import annotations

import math
from typing import get_args

import pandas as pd

from tuner.analysis import stats
from tuner.analysis.design import MOST
from tuner.analysis.units import PLURALS
from tuner.comparison.caveats import FEW_UNITS
from tuner.comparison.comparison import Comparison
from tuner.comparison.contrast import Contrast
from tuner.comparison.inclusion import failed_search
from tuner.comparison.results import Results
from tuner.comparison.task_results import TaskResults
from tuner.reporting.looks import equivalence_test_name, test_name, when_decided
from tuner.reporting.numbers import interval, percent, result, signed
from tuner.reporting.subject import answer_is_about, aside, found_once, tuned
from tuner.text import number, p_value

ABOUT = 1.05
"""A ratio of times of which nobody cares."""
MOST_NAMED = 4
"""Tasks that a sentence names without counting them."""
VERDICTS = get_args(stats.Verdict)


def verdict(task: TaskResults, optimizer: str) -> str:
    """A sentence on an optimizer and its task's baseline, with the numbers behind it and what it is about."""
    comparison = task.comparison
    contrast = task.contrast(optimizer)
    if optimizer == comparison.baseline:
        return _of_baseline(task)
    if contrast is None:
        return f"{optimizer} {_lacking(comparison, optimizer)}."
    numbers = _numbers(contrast, comparison.config.report.alpha)
    claim = f"{_claim(task, contrast)}{_exploratory(comparison)}{numbers}"
    aside = f"{when_decided(task, contrast)}{_open(task, contrast)}{_cost(task, optimizer)}"
    return f"{claim}{aside}.{_failed_search(comparison, contrast)}"


def _of_baseline(task: TaskResults) -> str:
    name, metric = task.comparison.baseline, task.comparison.metric
    row = next(row for row in task.summary.to_dict("records") if row["optimizer"] == name)
    if not row["n"]:
        return f"{name} is the baseline, and {_lacking(task.comparison, name)}."
    if task.typical == "mean":
        return f"{name} is the baseline, with {number(row['mean'])} {metric}."
    runs = row["seeds"] - row["seeds_failed"]
    lost = f"; it diverged on {row['seeds_diverged']} of {runs} seeds" if row["seeds_diverged"] else ""
    return f"{name} is the baseline, with a median {metric} of {result(row['median'])}{lost}."


def _lacking(comparison: Comparison, optimizer: str) -> str:
    """Of an optimizer without a value of the metric: why."""
    retrained = (comparison.seeds["optimizer"] == optimizer).any()
    return f"has no {comparison.metric}" if retrained else "was not retrained"


def _claim(task: TaskResults, contrast: Contrast) -> str:
    name, baseline, metric = contrast.optimizer, contrast.baseline, contrast.metric
    word, _, slightly = contrast.verdict.partition(", ")
    if contrast.reason:
        return f"{name} and {baseline} cannot be told apart on {metric}: {contrast.reason}"
    how = tuned(task, contrast)
    if contrast.about == "configurations":
        name, baseline, how = f"{name}'s configuration", f"{baseline}'s", found_once(task, contrast)
    if word in ("better", "worse"):
        size = f", {slightly}, which is {_margin(contrast)}" if slightly else ""
        return f"{name} is {word} than {baseline} on {metric}{size}{how}"
    if word == "equivalent":
        return f"{name} is equivalent to {baseline} on {metric}, within {_margin(contrast)}{how}"
    return f"{name} is neither shown to be better than {baseline} on {metric} nor to be worse{how}"


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
    """Behind a claim: both values, their difference with its interval, test, p-value and units."""
    if not contrast.n:
        return ""
    median = "median " * contrast.by_ranks
    text = f": {_diverged(contrast)}{median}{result(contrast.typical)} against {result(contrast.typical_baseline)}"
    if contrast.reason:
        return text
    low, high = contrast.interval
    at = " at its corrected level" if contrast.level < alpha else ""
    between = f"{confidence(contrast)} interval {interval(low, high)}{at}"
    if math.isnan(low) or (math.isinf(low) and math.isinf(high)):
        without = contrast.course is not None and contrast.test != "t"
        inside = "no interval" if without else "no interval of so few"
    else:
        inside = between
    ranks = "decided by ranks, diverged runs last: " * contrast.by_ranks
    text += f", a {median}difference of {signed(contrast.typical_difference)} ({inside}; {ranks}"
    contrary = contrast.shift * contrast.typical_difference < 0
    which = "medians" if contrast.by_ranks else "means"
    decided = contrast.verdict not in ("equivalent", "inconclusive")
    aside = f"; by ranks, the {which} say otherwise" if decided and contrary else ""
    only = "only " * (contrast.n <= FEW_UNITS)
    corrected = "Holm-corrected " * (contrast.family > 1)
    p = contrast.p_equivalent if contrast.verdict == "equivalent" else contrast.p
    test = (equivalence_test_name if contrast.verdict == "equivalent" else test_name)(contrast)
    return f"{text}{test} over {only}{contrast.units}, {corrected}{p_value(p)}{aside})"


def confidence(contrast: Contrast) -> str:
    """Of the interval beside a verdict: "98.3 %"."""
    return percent(round(1 - contrast.level, 3))


def _open(task: TaskResults, contrast: Contrast) -> str:
    """How much would decide what is open."""
    decisive = task.decisive(contrast.optimizer)
    if decisive is None:
        return ""
    units, cheapest, parts = PLURALS[contrast.unit], decisive.cheapest, []
    if decisive.difference.units:
        parts.append(f"{decisive.difference.units} {units} would show a difference of this size")
        if cheapest and cheapest.units:
            parts[0] += f" (most cheaply {cheapest.units} with {_seeds(cheapest.seeds)} each)"
    if decisive.equivalence and decisive.equivalence.units:
        parts.append(f"{decisive.equivalence.units} would show that it is within the margin")
    if not parts:
        return f"; not even {MOST:,} {units} would show so small a difference"
    return f"; some {', and '.join(parts)}"


def _seeds(count: float) -> str:
    return "1 seed" if count == 1 else f"{count:g} seeds"


def _failed_search(comparison: Comparison, contrast: Contrast) -> str:
    """That who is worse contains the other, so that its rule cannot be what is worse."""
    failed = failed_search(comparison, contrast)
    if failed is None:
        return ""
    inner = contrast.baseline if failed == contrast.optimizer else contrast.optimizer
    return f" {failed} contains {inner}: {failure_of(failed, inner)}"


def failure_of(optimizer: str, inner: str) -> str:
    """What it means that an optimizer is worse than one that it contains."""
    return (f"a search that found {inner}'s settings could not be worse, so it is {optimizer}'s search that "
            f"failed, not its rule; give it more trials or a narrower space, or start it from {inner}'s best "
            "point.")  # fmt: skip


def _diverged(contrast: Contrast) -> str:
    """Which of the two diverged, and how often."""
    counts = {contrast.optimizer: contrast.diverged, contrast.baseline: contrast.baseline_diverged}
    where = f"in {{}} of {contrast.units}" if contrast.unit == "study" else f"on {{}} of {contrast.units}"
    parts = [f"{name} diverged {where.format(count)}" for name, count in counts.items() if count]
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
    """What the answer is about, then a sentence per task and optimizer, and of several tasks one per optimizer."""
    about = answer_is_about(results)
    if results.across is None:
        return about + [verdict(task, name) for task in results.tasks for name in task.summary["optimizer"]]
    sentences = about + [overall(results, name) for name in results.optimizers]
    for task in results.tasks:
        sentences += ["", f"{task.comparison.task}:", *(verdict(task, name) for name in task.summary["optimizer"])]
    return sentences


def overall(results: Results, optimizer: str) -> str:
    """A sentence on an optimizer over several tasks."""
    by_word = by_verdict(results, optimizer)
    if not by_word:
        return f"{optimizer} {without_verdict(results, optimizer)}."
    parts = "; ".join(_on(word, tasks, len(results.tasks)) for word, tasks in by_word.items())
    return f"{optimizer} against {baselines(results)}: {parts} (Holm-corrected over {results.family} contrasts)."


def _on(word: str, tasks: list[str], of: int) -> str:
    """A verdict with the tasks that it is on; of many their number, and what is open without names."""
    comma = "," * ("," in word)
    if of <= MOST_NAMED:
        return f"{word}{comma} on {', '.join(tasks)}"
    names = "" if word == "inconclusive" else f" ({', '.join(tasks)})"
    return f"{word}{comma} on {len(tasks)} of {of} tasks{names}"


def without_verdict(results: Results, optimizer: str) -> str:
    """What an optimizer is that has none on any task."""
    of_tasks = [task.comparison for task in results.tasks if optimizer in task.comparison.optimizers]
    return (
        "is the baseline" if any(comparison.baseline == optimizer for comparison in of_tasks) else "was not retrained"
    )


def by_verdict(results: Results, optimizer: str) -> dict[str, list[str]]:
    """The tasks of each verdict that there is, the good ones first; marked where it is about configurations, and where
    the comparison was not declared."""
    named = [
        (contrast.verdict, f"{task.comparison.task}{aside(task, contrast)}{undeclared(task)}")
        for task, contrasts in zip(results.tasks, results.together, strict=True)
        for contrast in contrasts
        if contrast.optimizer == optimizer
    ]
    tasks_by_word = {word: [name for verdict, name in named if verdict == word] for word in VERDICTS}
    return {word: tasks for word, tasks in tasks_by_word.items() if tasks}


def undeclared(task: TaskResults) -> str:
    """Behind a verdict of a comparison that was not declared."""
    return " (not declared)" * bool(task.comparison.undeclared)


def baselines(results: Results) -> str:
    return ", ".join(dict.fromkeys(task.comparison.baseline for task in results.tasks))

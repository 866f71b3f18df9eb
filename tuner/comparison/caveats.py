"""What limits results is found here, each time as a kind and the data that its sentence needs. No torch, no ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tuner.analysis import across_tasks, searches
from tuner.analysis.paired import power
from tuner.analysis.rules import FEWEST_PAIRS
from tuner.comparison.comparison import Comparison, machine
from tuner.comparison.results import FEW_TASKS, Across, Results, TaskResults
from tuner.comparison.tuned_training import tuned_alike, tuned_training

ENOUGH_SEEDS = 10
Kind = Literal[
    "note", "not_retrained", "failed", "retraining_incomplete", "unpaired", "diverged", "trials_diverged", "untested",
    "least_p_too_large", "low_power", "seeds_added", "searches_differ", "stopped_early", "epochs_differ",
    "search_incomplete", "trials_unequal", "few_trials", "training_tuned_apart", "declarations_differ",
    "metric_missing", "metric_chosen_by", "at_boundary", "stacked", "device_shared", "hardware_differs",
    "several_commands", "nominal_costs", "task_repeated", "no_common_task", "tasks_left_out", "no_target", "few_tasks",
]  # fmt: skip


@dataclass(frozen=True)
class Caveat:
    """What limits the results of a task, or, where ``task`` is empty, those over tasks.

    Attributes:
        data: by name, what of this kind there is to say; see ``reporting.caveats``, which has a sentence of each kind.
    """

    task: str
    kind: Kind
    data: dict[str, Any]


Limit = tuple[Kind, dict[str, Any]]


def caveats(results: Results) -> list[Caveat]:
    """What limits the results, the gravest first within each task."""
    of_tasks = [Caveat(task.comparison.task, *limit) for task in results.tasks for limit in _of_task(task)]
    return of_tasks + [Caveat("", *limit) for limit in _over_tasks(results)]


def _over_tasks(results: Results) -> Iterator[Limit]:
    for name, times in Counter(task.comparison.config.task.name for task in results.tasks).items():
        if times > 1:
            yield "task_repeated", {"task": name, "times": times}
    if results.across:
        yield from _across(results.across)


def _across(across: Across) -> Iterator[Limit]:
    if not len(across.ranks):
        yield "no_common_task", {}
        return
    if left_out := across.ranks.attrs[across_tasks.LEFT_OUT]:
        yield "tasks_left_out", {"tasks": left_out}
    if without := [task.comparison.task for task in across.tasks if task.target is None]:
        yield "no_target", {"tasks": without}
    if len(across.ranks) < FEW_TASKS:
        yield "few_tasks", {"n": len(across.ranks)}


def _of_task(task: TaskResults) -> Iterator[Limit]:
    comparison = task.comparison
    for text in comparison.notes:
        yield "note", {"text": text}
    yield from _missing(task)
    yield from _diverged(task)
    yield from _few(task)
    yield from _added(comparison)
    yield from _budgets(comparison)
    yield from _metric(comparison)
    for name in comparison.optimizers:
        if hyperparameters := comparison.at_boundary(name):
            yield "at_boundary", {"optimizer": name, "hyperparameters": hyperparameters}
    yield from _devices(comparison)
    yield from _costs(comparison)


def _missing(task: TaskResults) -> Iterator[Limit]:
    for row in task.summary.to_dict("records"):
        if not row["seeds"]:
            yield "not_retrained", {"optimizer": row["optimizer"]}
        elif row["seeds_failed"]:
            yield "failed", {"optimizer": row["optimizer"], "failed": row["seeds_failed"], "runs": row["seeds"]}
    sources = task.comparison.sources
    wanted = {name: len(source.config.retrain.seeds) for source in sources for name in source.names.values()}
    seeds = task.summary.set_index("optimizer")["seeds"]
    if short := [str(name) for name, n in seeds.items() if 0 < n < wanted[str(name)]]:
        yield "retraining_incomplete", {"optimizers": short}
    for contrast in task.primary_contrasts:
        if contrast.n_unpaired:
            yield "unpaired", {"optimizer": contrast.optimizer, "baseline": contrast.baseline,
                               "seeds": contrast.n_unpaired}  # fmt: skip


def _diverged(task: TaskResults) -> Iterator[Limit]:
    rows = task.summary.to_dict("records")
    for row in rows:
        if row["seeds_diverged"]:
            yield "diverged", {"optimizer": row["optimizer"], "diverged": row["seeds_diverged"], "runs": row["seeds"]}
    if trials := {row["optimizer"]: (row["trials_diverged"], row["trials"]) for row in rows if row["trials_diverged"]}:
        yield "trials_diverged", {"trials": trials}


def _few(task: TaskResults) -> Iterator[Limit]:
    alpha = task.comparison.config.report.alpha
    pairs = [(contrast.n, contrast.test) for contrast in task.primary_contrasts]
    if few := [n for n, _ in pairs if n < FEWEST_PAIRS]:
        yield "untested", {"seeds": min(few)}
    tested = sorted(pair for pair in pairs if pair[0] >= FEWEST_PAIRS)
    for n, test in [pair for pair in tested if pair[1] != "t"][:1]:
        least = len(tested) * 2 / 2**n
        if least > alpha:
            yield "least_p_too_large", {"seeds": n, "test": test, "contrasts": len(tested), "least": min(1.0, least)}
            return
    if tested and (n := tested[0][0]) < ENOUGH_SEEDS:
        yield "low_power", {"seeds": n, "power": power(n, alpha)}


def _added(comparison: Comparison) -> Iterator[Limit]:
    """Of data that grew because of what it showed."""
    resumed = [entry for source in comparison.sources for entry in source.env.get("resumed") or []]
    added = [entry["added_seeds"] for entry in resumed if isinstance(entry, dict) and entry.get("added_seeds")]
    if added:
        counts = [len(seeds) if isinstance(seeds, list) else None for seeds in added]
        yield "seeds_added", {"counts": counts, "alpha": comparison.config.report.alpha}


def _budgets(comparison: Comparison) -> Iterator[Limit]:
    settings = [source.config.search for source in comparison.sources]
    if len({(search.trials, search.sampler, search.seed, search.scheduler) for search in settings}) > 1:
        yield "searches_differ", {}
    if any(search.scheduler == "asha" for search in settings):
        yield "stopped_early", {}
    searched, retrained = comparison.config.train.epochs, comparison.config.retrain_epochs
    if searched != retrained:
        yield "epochs_differ", {"searched": searched, "retrained": retrained}
    table, names = comparison.trials, [name for name in comparison.optimizers if comparison.spaces[name]]
    trials = {name: int((table["optimizer"] == name).sum()) for name in names}
    if short := [name for name, n in trials.items() if n < comparison.source(name).config.search.trials]:
        yield "search_incomplete", {"optimizers": short}
    if len(set(trials.values())) > 1:
        yield "trials_unequal", {"trials": trials}
    if trials and min(trials.values()) < searches.FEW_TRIALS:
        yield "few_trials", {"wanted": searches.FEW_TRIALS}
    if not tuned_alike(comparison.spaces):
        yield "training_tuned_apart", {"tuned": tuned_training(comparison.spaces)}
    if len({repr(source.config.report) for source in comparison.sources}) > 1:
        yield "declarations_differ", {}


def _metric(comparison: Comparison) -> Iterator[Limit]:
    metric = comparison.metric
    if metric not in comparison.seeds or comparison.seeds[metric].isna().all():
        if len(comparison.seeds):
            yield "metric_missing", {"metric": metric}
    elif metric == comparison.config.task.metric and metric.startswith("val_"):
        yield "metric_chosen_by", {"metric": metric}


def _devices(comparison: Comparison) -> Iterator[Limit]:
    if comparison.stacked:
        yield "stacked", {"cohorts": comparison.cohorts}
    elif comparison.shared:
        yield "device_shared", {}
    if len({machine(source) for source in comparison.sources}) > 1:
        yield "hardware_differs", {}
    elif any(source.env.get("resumed") for source in comparison.sources):
        yield "several_commands", {}


def _costs(comparison: Comparison) -> Iterator[Limit]:
    """Of runs that were made before FLOPs were counted, beside others; where all are alike nothing is unfair."""
    seeds = comparison.seeds
    if not {"steps", "grad_equivalents", "nominal_grad_equivalents"} <= set(seeds):
        return
    dear = seeds[seeds["grad_equivalents"] > seeds["steps"]]
    nominal = dear.loc[dear["nominal_grad_equivalents"].isna(), "optimizer"]
    if seeds["nominal_grad_equivalents"].notna().any() and len(nominal):
        yield "nominal_costs", {"optimizers": list(dict.fromkeys(nominal))}

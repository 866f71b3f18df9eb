"""What limits results is found here, each time as a kind and the data that its sentence needs. No torch, no ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tuner.analysis import across_tasks, searches
from tuner.analysis.paired import power
from tuner.analysis.rules import FEWEST_PAIRS
from tuner.comparison.across import FEW_TASKS, Across
from tuner.comparison.comparison import Comparison, machine
from tuner.comparison.inclusion import failures
from tuner.comparison.longer import meanwhile
from tuner.comparison.results import Results
from tuner.comparison.task_results import TaskResults
from tuner.comparison.tuned_training import tuned_alike, tuned_training
from tuner.config.declared import E_PROCESS

ENOUGH = 10
"""Studies, or seeds of a single search, beyond which it is no caveat how many there are."""
FEW_UNITS = 4
"""Of so many at most a verdict is marked."""
Kind = Literal[
    "baseline_at_boundary", "metric_missing", "note", "failed_search", "untested", "training_tuned_apart", "few_units",
    "not_retrained", "failed", "retraining_incomplete", "unpaired", "diverged", "trials_diverged", "least_p_too_large",
    "low_power", "studies_added", "seeds_added", "searches_differ", "stopped_early", "epochs_differ",
    "search_incomplete", "trials_unequal", "few_trials", "declarations_differ", "metric_chosen_by", "at_boundary",
    "stacked", "device_shared", "hardware_differs", "several_commands", "nominal_costs", "task_repeated",
    "no_common_task", "tasks_left_out", "no_target", "few_tasks",
]  # fmt: skip
"""The gravest first."""


@dataclass(frozen=True)
class Caveat:
    """What limits the results of a task, or, where ``task`` is empty, those over tasks.

    Attributes:
        data: by name, what of this kind there is to say; see ``reporting.caveats``, which has a sentence of each kind.
    """

    task: str
    kind: Kind
    data: dict[str, Any]


KINDS = get_args(Kind)
Limit = tuple[Kind, dict[str, Any]]


def caveats(results: Results) -> list[Caveat]:
    """What limits the results, the gravest kind first."""
    found = [Caveat(task.comparison.task, *limit) for task in results.tasks for limit in _of_task(task)]
    found += [Caveat("", *limit) for limit in _over_tasks(results)]
    return sorted(found, key=lambda caveat: KINDS.index(caveat.kind))


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
    yield from _longer(task)
    yield from _metric(comparison)
    for name, inner in failures(task):
        yield "failed_search", {"optimizer": name, "inner": inner}
    for name in comparison.optimizers:
        if hyperparameters := comparison.at_boundary(name):
            kind: Kind = "baseline_at_boundary" if name == comparison.baseline else "at_boundary"
            yield kind, {"optimizer": name, "hyperparameters": hyperparameters}
    yield from _devices(comparison)
    yield from _costs(comparison)


def _missing(task: TaskResults) -> Iterator[Limit]:
    for row in task.summary.to_dict("records"):
        if not row["seeds"]:
            yield "not_retrained", {"optimizer": row["optimizer"]}
        elif row["seeds_failed"]:
            yield "failed", {"optimizer": row["optimizer"], "failed": row["seeds_failed"], "runs": row["seeds"]}
    sources = task.comparison.sources
    wanted = {shown: source.extent.retraining_runs(own) for source in sources for own, shown in source.names.items()}
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
    for contrast in task.primary_contrasts:
        head = {"optimizer": contrast.optimizer, "units": contrast.units}
        if contrast.n < FEWEST_PAIRS:
            yield "untested", head
        elif contrast.n <= FEW_UNITS and not contrast.reason:
            yield "few_units", head
    stopped = task.looking.stopped if task.looking else {}
    tested = [each for each in task.primary_contrasts if each.n >= FEWEST_PAIRS and each.optimizer not in stopped]
    tested.sort(key=lambda each: each.n)
    for contrast in [each for each in tested if each.test != "t"][:1]:
        least = contrast.family * 2 / 2**contrast.n
        if least > alpha:
            yield "least_p_too_large", {"units": contrast.units, "test": contrast.test, "contrasts": contrast.family,
                                        "least": min(1.0, least)}  # fmt: skip
            return
    if tested and (fewest := tested[0]).n < ENOUGH:
        share = alpha / max(1, fewest.family)
        yield "low_power", {"units": fewest.units, "power": power(fewest.n, share), "contrasts": fewest.family}


def _added(comparison: Comparison) -> Iterator[Limit]:
    """Of data that grew because of what it showed."""
    resumed = [entry for source in comparison.sources for entry in source.env.get("resumed") or []]
    commands = [entry for entry in resumed if isinstance(entry, dict)]
    if comparison.config.report.spending == E_PROCESS and comparison.config.looks:
        return  # which may grow at any time
    alpha = comparison.config.report.alpha
    if studies := [entry["added_studies"] for entry in commands if entry.get("added_studies")]:
        counts = [number if isinstance(number, int) else None for number in studies]
        yield "studies_added", {"counts": counts, "alpha": alpha}
    if seeds := [entry["added_seeds"] for entry in commands if entry.get("added_seeds")]:
        yield "seeds_added", {"counts": [len(each) if isinstance(each, list) else None for each in seeds],
                              "alpha": alpha}  # fmt: skip


def _longer(task: TaskResults) -> Iterator[Limit]:
    config = task.comparison.config
    searched, retrained = config.train.epochs, config.retrain_epochs
    if searched == retrained:
        return
    changes = meanwhile(task.filled, searched) if searched < retrained else {}
    less = config.task.mode == "min"
    worse = {name: pair for name, pair in changes.items() if pair[0] != pair[1] and (pair[0] < pair[1]) == less}
    yield "epochs_differ", {"searched": searched, "retrained": retrained, "metric": config.task.metric, "worse": worse,
                            "known": bool(changes)}  # fmt: skip


def _budgets(comparison: Comparison) -> Iterator[Limit]:
    settings = [source.config.search for source in comparison.sources]
    if len({(search.trials, search.studies, search.sampler, search.seed, search.scheduler) for search in settings}) > 1:
        yield "searches_differ", {}
    if any(search.scheduler == "asha" for search in settings):
        yield "stopped_early", {}
    table, names = comparison.trials, [name for name in comparison.optimizers if comparison.spaces[name]]
    trials = {name: int((table["optimizer"] == name).sum()) for name in names}
    extents = {shown: (source.extent, own) for source in comparison.sources for own, shown in source.names.items()}
    wanted = {name: extent.trials(own) for name, (extent, own) in extents.items() if name in names}
    if short := [name for name, n in trials.items() if n < wanted[name]]:
        yield "search_incomplete", {"optimizers": short}
    if len({trials[name] / extents[name][0].studies(extents[name][1]) for name in names}) > 1:
        yield "trials_unequal", {"trials": trials}
    by_study = table[table["optimizer"].isin(names)].groupby(["optimizer", "study"]).size()
    if names and (len(by_study) == 0 or by_study.min() < searches.FEW_TRIALS or min(trials.values()) == 0):
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

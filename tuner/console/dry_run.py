"""The dry run shows what a command would do, from the configuration alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from tuner.analysis.rules import FEWEST_PAIRS, TESTS
from tuner.config.schema import Config, TaskConfig
from tuner.planning.estimate import time_text
from tuner.store.run import Run
from tuner.text import hp_text


def show(config: Config, plan: dict[str, Any]) -> None:
    """Print the resolved configuration, the search space, the number of runs, the comparison and the resources."""
    print("# resolved configuration (config.yaml)")
    print(config.to_yaml())
    print("# search space")
    for optimizer, spec in config.optimizers.items():
        for name, dim in spec.space.items():
            print(f"{optimizer:14} {name:14} {dim}")
        for point in spec.enqueued()[: config.trials(optimizer)]:
            print(f"{optimizer:14} tried first: {hp_text(point)}")
        if not spec.space:
            print(f"{optimizer:14} nothing to search: one trial")
    runs, resources = plan["runs"], plan["resources"]
    print("\n# runs")
    print(f"{runs['trials']} trials: {_trials(config)}, {config.train.epochs} epochs each")
    print(f"{runs['retrain']} retraining runs: {len(config.optimizers)} optimizers x {_studies(config)}"
          f"{len(config.retrain.seeds)} seeds, {config.retrain_epochs} epochs each")  # fmt: skip
    print(f"{runs['total']} training runs in all")
    print(f"\n# comparison\n{plan['comparison']['sentence']}")
    print(f"\n# time and data\n{plan['time']}\n{plan['data']}")
    print("\n# resources")
    where = f"of the Ray cluster at {resources['address']}" if resources["address"] else "of this machine"
    concurrent = resources["max_concurrent"] or "as many as fit"
    gpus = (
        "as many as it has, at most 1," if resources["gpus_per_trial"] is None else f"{resources['gpus_per_trial']:g}"
    )
    print(f"{resources['cpus_per_trial']:g} CPUs and {gpus} GPUs per run, {concurrent} at once, {where}")
    print(f"\nnothing was started; the run directory would be {plan['run']}")


def describe(config: Config, path: Path) -> dict[str, Any]:
    """What a command would do, as a document."""
    trials = config.total_trials
    retrain = len(config.optimizers) * config.retraining_runs
    content = yaml.safe_load(config.to_yaml())
    return {
        "schema_version": 1,
        "run": str(path),
        "config": content,
        "space": {name: optimizer["space"] for name, optimizer in content["optimizers"].items()},
        "runs": {"trials": trials, "retrain": retrain, "total": trials + retrain},
        "comparison": comparison(config),
        "time": time(path),
        "data": data(config),
        "resources": content["resources"],
    }


def _trials(config: Config) -> str:
    searched = sum(bool(spec.space) for spec in config.optimizers.values())
    others = len(config.optimizers) - searched
    parts = [f"{searched} optimizers x {_studies(config)}{config.search.trials}"] if searched else []
    return " + ".join([*parts, *([f"{others} x {_studies(config)}1 without anything to search"] if others else [])])


def _studies(config: Config) -> str:
    """A factor, where there is more than one study."""
    return f"{config.search.studies} studies x " if config.search.studies > 1 else ""


def comparison(config: Config) -> dict[str, Any]:
    """What will be compared with what, on what, and by which rules."""
    declared = config.report
    split, _, base = config.task.metric.partition("_")
    metric = declared.metric or (f"test_{base}" if split == "val" else config.task.metric)
    plan = {
        "baseline": config.baseline,
        "others": [name for name in config.optimizers if name != config.baseline],
        "metric": metric,
        "studies": config.search.studies,
        "seeds": len(config.retrain.seeds),
        "test": declared.test,
        "alpha": declared.alpha,
        "margin": declared.margin.get(metric.partition("_")[2]),
        "looks": config.looks,
        "spending": declared.spending if config.looks else None,
    }
    return plan | {"sentence": _sentence(plan, config.task)}


def _sentence(plan: dict[str, Any], task: TaskConfig) -> str:
    others, metric = plan["others"], plan["metric"]
    if not others:
        return f"{plan['baseline']} alone: nothing to compare it with, but other runs of {task.name}"
    default = (
        f" ({task.metric} if the task has no test split)"
        if metric == task.metric.replace("val_", "test_", 1) != task.metric
        else ""
    )
    holm = f" over {len(others)} contrasts, after Holm" if len(others) > 1 else ""
    test = f"{TESTS[plan['test']]} at level {plan['alpha']:g}{holm}"
    margin = "no margin is declared"
    if plan["margin"] is not None:
        share = f" of {plan['baseline']}'s value" if isinstance(plan["margin"], str) else ""
        margin = f"differences within {plan['margin']}{share} do not matter"
    unit = "studies" if plan["studies"] > 1 else "seeds"
    enough = plan[unit] >= FEWEST_PAIRS
    rules = f"{test}; {margin}" if enough else f"below {FEWEST_PAIRS} {unit} there is no test"
    looks = f"; {_looks(plan, unit)}" if plan["looks"] else ""
    return f"{', '.join(others)} against {plan['baseline']}, by {metric}{default}, {_pairs(plan)}: {rules}{looks}"


def _looks(plan: dict[str, Any], unit: str) -> str:
    after = ", ".join(map(str, plan["looks"]))
    most = "what is decided stops, so that all this is the most there may be"
    return f"looks after {after} {unit} ({plan['spending']}); {most}"


def _pairs(plan: dict[str, Any]) -> str:
    """What is compared with what, and so what the answer is about."""
    seeds = f"{plan['seeds']} {'seed' if plan['seeds'] == 1 else 'seeds'}"
    if plan["studies"] > 1:
        about = "optimizers" if plan["studies"] >= FEWEST_PAIRS else "nothing that can be tested"
        return f"paired over {plan['studies']} studies of {seeds} each (about {about})"
    return f"paired over {seeds} (about the configurations that one search each finds)"


def time(path: Path) -> str:
    """How long it will take, as far as that is known."""
    run = Run(path)
    exists = os.path.isdir(path)  # unlike Path's, false for a name that no folder can have
    expected = run.env().get("estimate") if exists and run.has_env() else None
    if isinstance(expected, dict):
        parts = [s for key in ("search_s", "retrain_s") if isinstance(s := expected.get(key), int | float)]
        if parts:
            return f"time: about {time_text(sum(parts))} of training were expected when the run was last begun"
    return "time: not known yet; a few steps are timed before Ray starts, and what is expected from them is said"


def data(config: Config) -> str:
    """Whether it is there, as far as one can look without torch."""
    task = config.task
    if config.resources.address:
        return f"data: {task.dataset}, which is loaded in the cluster before the run begins"
    if task.check:
        where = f" in {task.data_dir}" if task.data_dir else ""
        return f"data: {task.dataset} is there{where}, as {task.check} sees it; it is loaded before Ray starts"
    return f"data: {task.dataset}, loaded before Ray starts; the task names no check that would look at it now"

"""What the catalogue has of suites: their tasks, and what each of these gets. No torch, no ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuner.config.registry import available
from tuner.config.schema import Config
from tuner.config.suites import SuiteFile, read_suite, resolve_suite
from tuner.console.suite_plan import minutes

Facts = dict[str, Any]


def suites(configs: Path | None) -> list[Facts]:
    """A suite each.

    Raises:
        UserError: the file of one is not a suite's.
    """
    return [suite_facts(read_suite(name, configs)) for name in available("suites", configs)]


def suite_facts(file: SuiteFile) -> Facts:
    return {"name": file.name, "file": file.origin, "description": file.description, "tasks": list(file.tasks)}


def whole_suite(name: str, configs: Path | None) -> Facts:
    """With the file of its targets, and each task's budget.

    Raises:
        UserError: the file is not a suite's, or what it says of a task is not valid.
    """
    file = read_suite(name, configs)
    budgets = [_budget(entry, config) for entry, config in resolve_suite(file, {}, configs=configs).items()]
    return suite_facts(file) | {"targets": file.targets, "budgets": budgets}


def _budget(entry: str, config: Config) -> Facts:
    return {
        "entry": entry,
        "task": config.task.name,
        "dataset": config.task.dataset,
        "name": config.preset,
        "optimizers": list(config.optimizers),
        "studies": config.search.studies,
        "trials": config.search.trials,
        "epochs": config.train.epochs,
        "seeds": len(config.retrain.seeds),
        "retrain_epochs": config.retrain_epochs,
        "target": config.task.target,
        "minutes": minutes(config, config.total_trials, len(config.optimizers) * config.retraining_runs),
    }

"""The catalogue has the facts about tasks, optimizers, estimators and suites, as a document. No torch, no ray, but for
what only classes know: those of optimizers and estimators are imported for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tuner import text
from tuner.config.docstrings import docstring, first_paragraph
from tuner.config.modules import OWN_PACKAGES, reach
from tuner.config.registry import Kind, available
from tuner.config.schema import Config
from tuner.config.sources import TaskFiles, Value, leaves, optimizer, optimizer_layers, optimizer_values, values
from tuner.console.suite_catalogue import suites, whole_suite
from tuner.errors import UserError, nearest

Facts = dict[str, Any]
KINDS = ("tasks", "optimizers", "estimators", "suites")
NAMED: tuple[Kind, ...] = ("tasks", "optimizers", "suites")
"""Those of which one can be shown whole."""
REMEDIES = {"pytorch_optimizer": "pip install pytorch_optimizer"}
"""By package, how it is installed."""


def document(what: str | None, configs: Path | None, preset: str | None) -> Facts:
    """What is asked for, by kind.

    Args:
        what: a kind, the name of a task, an optimizer or a suite, or ``None`` for all kinds.
        preset: of tasks, the only one in their table, or the one whose values are resolved.

    Raises:
        UserError: an unknown name or preset, or a file that cannot be used.
    """
    reach([] if configs is None else [str(configs.absolute())])
    known = {kind: available(kind, configs) for kind in NAMED}
    of_kind: dict[str, Callable[[], list[Facts]]]
    if what is None or what in KINDS:
        of_kind = {
            "tasks": lambda: tasks(configs, preset),
            "optimizers": lambda: [optimizer_facts(name, configs) for name in known["optimizers"]],
            "estimators": estimators,
            "suites": lambda: suites(configs),
        }
        wanted = [what] if what else list(KINDS)
    else:
        of_kind = {
            "tasks": lambda: [whole_task(what, configs, preset)],
            "optimizers": lambda: [whole_optimizer(what, configs)],
            "suites": lambda: [whole_suite(what, configs)],
        }
        wanted = [kind for kind, names in known.items() if what in names]
        if not wanted:
            valid = [*KINDS, *(name for names in known.values() for name in names)]
            raise UserError(f"unknown name {what!r}: no task, no optimizer and no suite{nearest(what, valid)}")
    if preset is not None and "tasks" not in wanted:
        raise UserError(f"--preset {preset}: has no effect on {what}; only tasks have presets")
    return {"schema_version": 1, **text.plain({kind: of_kind[kind]() for kind in wanted})}


# Tasks.


def tasks(configs: Path | None, preset: str | None) -> list[Facts]:
    """A task each, with all presets or the given one.

    Raises:
        UserError: no task has that preset.
    """
    found = [TaskFiles(name, configs) for name in available("tasks", configs)]
    known = list(dict.fromkeys(name for files in found for name in files.presets))
    if preset is not None and preset not in known:
        raise UserError(f"unknown preset {preset!r}{nearest(preset, known)}")
    return [task_facts(files, [name for name in files.presets if preset in (None, name)]) for files in found]


def task_facts(files: TaskFiles, presets: list[str]) -> Facts:
    configs = {name: files.config(name) for name in presets}
    task = next(iter(configs.values() or [files.config(None)])).task
    return {
        "name": files.name,
        "class": task.class_,
        "dataset": task.dataset,
        "datasets": task.datasets,
        "model": files.about.model,
        "parameters": files.about.parameters,
        "reference": files.about.reference,
        "metric": task.metric,
        "mode": task.mode,
        "target": task.target,
        "presets": [{**_budget(config), "minutes": files.about.minutes.get(name)} for name, config in configs.items()],
    }


def _budget(config: Config) -> Facts:
    return {
        "name": config.preset,
        "optimizers": config.search.optimizers,
        "studies": config.search.studies,
        "trials": config.search.trials,
        "epochs": config.train.epochs,
        "batch_size": config.train.batch_size,
        "seeds": len(config.retrain.seeds),
        "retrain_epochs": config.retrain_epochs,
    }


def whole_task(name: str, configs: Path | None, preset: str | None) -> Facts:
    """With the docstring, what each preset sets, and every value that a preset resolves to."""
    files = TaskFiles(name, configs)
    facts, resolved = task_facts(files, files.presets), files.config(preset)
    for of_preset in facts["presets"]:
        settings = files.settings(of_preset["name"])
        of_preset["settings"] = {".".join(path): value for path, value in leaves(settings)} if settings else {}
    doc = first_paragraph(docstring(resolved.task.class_))
    return facts | {"doc": doc, "preset": resolved.preset, "values": _rows(values(files.layers(preset)))}


def _rows(found: list[Value]) -> list[Facts]:
    return [asdict(value) for value in found]


# Optimizers.


def optimizer_facts(name: str, configs: Path | None) -> Facts:
    """What the files say, and what the class says of itself, where it can be imported; else ``error`` says why not."""
    spec = optimizer(name, optimizer_layers(name, configs))
    package, dot, _ = spec.class_.partition(".")
    facts: Facts = {
        "name": name,
        "class": spec.class_,
        "space": {key: dimension.model_dump() for key, dimension in spec.space.items()},
        "searched": {key: str(dimension) for key, dimension in spec.space.items()},
        "defaults": spec.defaults,
        "package": package,
        "own": package in OWN_PACKAGES,
        "installed": not (package and dot) or find_spec(package) is not None,  # no dotted path: ``error`` says so
        "remedy": None,
        **dict.fromkeys(("stacks", "curvature", "doc", "error")),
    }
    if not facts["installed"]:
        return facts | {"remedy": REMEDIES.get(package)}
    from tuner.training.described import describe

    try:
        return facts | asdict(describe(name, spec))
    except UserError as error:
        return facts | {"error": str(error)}


def whole_optimizer(name: str, configs: Path | None) -> Facts:
    """With every value that holds whatever the task, and what tasks change of them."""
    layers = optimizer_layers(name, configs)
    changes = [
        {
            "task": task,
            "key": value.key.removeprefix(f"optimizers.{name}."),
            "value": value.value,
            "origin": value.origin,
        }
        for task in available("tasks", configs)
        for value in TaskFiles(task, configs).changes(name)
    ]
    return optimizer_facts(name, configs) | {"values": _rows(optimizer_values(name, layers)), "changes": changes}


# Estimators.


def estimators() -> list[Facts]:
    from tuner.training.described import describe_estimators

    return describe_estimators()

"""A suite's file names tasks, each with its own settings, and what all of them share. No torch, no ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.config.checks import NAME
from tuner.config.layers import read, require, resolve
from tuner.config.messages import Layer, mapping_at, shown
from tuner.config.registry import SUFFIXES, Given, Registry
from tuner.config.schema import Config
from tuner.config.targets import read_targets
from tuner.errors import UserError

OF_THE_SUITE = ("description", "tasks", "targets")
"""Keys of a suite's file that are no settings of its tasks."""
BESIDE_RUNS = ("suite.yaml", "summary.csv", "contrasts.csv", "report.html", "figures")
"""What a suite's folder has beside its tasks' runs."""


@dataclass(frozen=True)
class SuiteFile:
    """What a suite's file says.

    Attributes:
        name: of the file, without its ending.
        tasks: by the name that each one's run will have.
        shared: the settings that all tasks have.
        targets: the name of the file of frozen targets, if there is one.
    """

    name: str
    origin: str
    description: str
    tasks: dict[str, dict[str, Any]]
    shared: dict[str, Any]
    targets: str | None

    def task_name(self, entry: str) -> str:
        """Of which task an entry is: the entry's name, unless it says another."""
        return str(mapping_at(self.tasks[entry], "task").get("name", entry))

    def layers(self, entry: str) -> list[Layer]:
        """What the suite says of a task, the last word last."""
        return [(self.origin, self.shared), (f"{self.origin}, task {entry}", self.tasks[entry])]


def read_suite(suite: str, configs: Path | None = None) -> SuiteFile:
    """
    Args:
        suite: a name that the registry knows, or the path of a YAML file.
        configs: the user's own folder of ``--configs``.

    Raises:
        UserError: there is no such suite, or its file is not one.
    """
    registry = Registry(configs)
    path = Path(suite)
    if suite.endswith(SUFFIXES):
        if not path.is_file():
            raise UserError(f"--suite {suite}: no such file")
        found = read(lambda kind, name: path, "suites", path.stem)
        name = path.stem
    else:
        require(suite, "suite", registry.names("suites"))
        found = [layer for lookup in registry.levels for layer in read(lookup, "suites", suite)]
        name = suite
    origin, content = found[-1]  # a user's own of this name takes the place of ours
    tasks = content.get("tasks")
    if not isinstance(tasks, dict) or not tasks:
        raise UserError(f"{origin}: tasks: must be a mapping of tasks to settings, got {shown(tasks)}")
    entries = {str(entry): _settings(origin, str(entry), said) for entry, said in tasks.items()}
    shared = {key: value for key, value in content.items() if key not in OF_THE_SUITE}
    if "task" in shared:
        raise UserError(f"{origin}: task: is a setting of each of the tasks: write it below tasks.NAME")
    targets = None if content.get("targets") is None else str(content["targets"])
    file = SuiteFile(name, origin, str(content.get("description", "")), entries, shared, targets)
    known = registry.names("tasks")
    for entry in entries:
        require(file.task_name(entry), "task", known, f"{origin}: ")
    return file


def _settings(origin: str, entry: str, said: Any) -> dict[str, Any]:
    if not NAME.fullmatch(entry):
        raise UserError(f"{origin}: tasks: {entry!r} must be letters, digits, '.', '_' and '-', as a folder's name is")
    if entry in BESIDE_RUNS:
        raise UserError(f"{origin}: tasks: {entry!r} is a name that a suite's folder has for something else")
    if said is not None and not isinstance(said, dict):
        raise UserError(f"{origin}: tasks.{entry}: must be a mapping of keys to values, or nothing, got {shown(said)}")
    return dict(said or {})


def resolve_suite(
    file: SuiteFile,
    flags: Mapping[str, Any],
    settings: Iterable[str] = (),
    configs: Path | None = None,
    given: Given | None = None,
) -> dict[str, Config]:
    """The configuration of each task, by its entry: as of a task alone, with what the suite says below the command
    line.

    Args:
        flags, settings, configs, given: as for ``resolve``, of all tasks.

    Raises:
        UserError: as of ``resolve``; or the tasks would need a machine shared out differently.
    """
    targets = read_targets(file.targets, configs) if file.targets else {}
    resolved: dict[str, Config] = {}
    for entry in file.tasks:
        name = file.task_name(entry)
        layers = file.layers(entry)
        if entry in targets:
            layers = [(f"targets {file.targets}", {"task": {"target": targets[entry].value}}), *layers]
        config = resolve({"task.name": name} | dict(flags), settings, configs, given, layers)
        if entry in targets:
            targets[entry].check(entry, config)
        resolved[entry] = config
    first, *others = resolved.items()
    for entry, config in others:
        if config.resources != first[1].resources:
            raise UserError(
                f"{file.origin}: resources: tasks of a suite share their workers, so that {entry} cannot have others "
                f"than {first[0]}"
            )
    return resolved

"""Frozen targets: of each task the value that counts as solved, fixed once, so that anybody's times to it compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.config.layers import read, require
from tuner.config.messages import shown
from tuner.config.registry import Registry
from tuner.config.schema import Config
from tuner.errors import UserError


@dataclass(frozen=True)
class FrozenTarget:
    """A target, and of what it is one.

    Attributes:
        value: of the task's metric.
        metric: by which the task ranks trials.
        dataset: whose value it is.
        set: the file and its version.
    """

    value: float
    metric: str
    dataset: str
    set: str

    def check(self, entry: str, config: Config) -> None:
        """
        Raises:
            UserError: the target is of another metric, or of other data, than the configuration.
        """
        for what, own, other in (
            ("metric", self.metric, config.task.metric),
            ("dataset", self.dataset, config.task.dataset),
        ):
            if own != other and config.task.target == self.value:
                raise UserError(
                    f"targets {self.set}: that of {entry} is of {what} {own}, not {other}; say another, "
                    f"task: {{target: ...}} below tasks.{entry}, or null"
                )


def read_targets(name: str, configs: Path | None = None) -> dict[str, FrozenTarget]:
    """By task.

    Raises:
        UserError: there is no such file, or it is not one of targets.
    """
    registry = Registry(configs)
    require(name, "targets", registry.names("targets"))
    origin, content = [layer for lookup in registry.levels for layer in read(lookup, "targets", name)][-1]
    tasks = content.get("tasks")
    if not isinstance(tasks, dict) or not isinstance(content.get("version"), int):
        raise UserError(f"{origin}: must have a version, a whole number, and tasks, a mapping of tasks to targets")
    return {str(task): _target(origin, f"{name} {content['version']}", str(task), said) for task, said in tasks.items()}


def _target(origin: str, called: str, task: str, said: Any) -> FrozenTarget:
    said = said if isinstance(said, dict) else {}
    value = said.get("target")
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**1023:
        raise UserError(f"{origin}: tasks.{task}.target: must be a number, got {shown(value)}")
    for key in ("metric", "dataset"):
        if not isinstance(said.get(key), str):
            raise UserError(f"{origin}: tasks.{task}.{key}: must be a name, got {shown(said.get(key))}")
    return FrozenTarget(float(value), said["metric"], said["dataset"], called)

"""What a program gives to a search, classes and objects in place of names, becomes names, contents and a pickle."""

from __future__ import annotations

import copy
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tuner.config.carried import MODULE, is_importable, pack
from tuner.config.checks import NAME
from tuner.config.layers import read
from tuner.config.modules import INSTALLED, STANDARD
from tuner.config.plain_values import plain_value
from tuner.config.program import Program
from tuner.config.registry import ROOT, Kind, Registry
from tuner.errors import UserError

LR_SPACE = {"low": 1e-5, "high": 1.0, "log": True}
"""Of a class that is given without a space."""
TASK_ATTRIBUTES = ("metric", "mode", "batch_size", "dataset", "target")


class Gathering:
    """Gathers what a program gives.

    Args:
        configs: the user's own folder of ``--configs``.
    """

    def __init__(self, configs: Path | None = None) -> None:
        self.registry = Registry(configs)
        self.given: dict[str, dict[str, dict[str, Any]]] = {"tasks": {}, "optimizers": {}}
        self.objects: dict[str, Any] = {}
        self.remarks: list[str] = []

    def program(self) -> Program:
        """All that was gathered.

        Raises:
            UserError: something cannot be sent to other processes.
        """
        by_class = any(self.given.values())
        return Program(self.given, pack(self.objects), python_path() if by_class else [], self.remarks)

    def optimizer(self, entry: Any) -> str:
        """The name under which a name, a class, a function or the content of a YAML file is searched.

        Raises:
            UserError: it is none of these, or has no name or no space.
        """
        if isinstance(entry, str):
            return entry
        if not isinstance(entry, Mapping):
            if not callable(entry):
                raise UserError(f"an optimizer must be a name, a class, a function or a mapping, got {_shown(entry)}")
            if known := self._known("optimizers", entry, lambda content: content.get("class")):
                return known
            entry = {"class": entry}
        content = dict(entry)
        made = content.get("class")
        name = self._name(content.pop("name", None), made, "optimizer")
        if callable(made):
            content["class"] = self._path(made, name, "optimizers")
            if content.get("space") is None:
                content.pop("space", None)
                content = self._searched_lr(made, name, content.get("args")) | content
        return self._add("optimizers", name, content)

    def task(self, entry: Any) -> str:
        """The name under which a name, a task, a class, a function or the content of a YAML file is trained.

        Raises:
            UserError: it is none of these, or has no name.
        """
        if isinstance(entry, str):
            return entry
        base = sys.modules.get("tasks.base")
        if base and isinstance(entry, base.Task):
            return self._task_object(entry)
        if not isinstance(entry, Mapping):
            if not callable(entry):
                raise UserError(f"task: must be a name, a task, a class, a function or a mapping, got {_shown(entry)}")
            if known := self._known("tasks", entry, lambda content: content.get("task", {}).get("class")):
                return known
            entry = {"task": {"class": entry}}
        content = dict(entry)
        section = content.get("task") or {}
        if not isinstance(section, Mapping):
            raise UserError(f"task: must be a mapping of keys to values, got {_shown(section)}")
        made = section.get("class")
        name = self._name(content.pop("name", None), made, "task")
        if "class" in content:
            own = "{'task': {'class': ...}}"
            raise UserError(f"{name}: unknown key 'class'; that of a task is in its section, {own}")
        if callable(made):
            section = self._described(section, name) | {"class": self._path(made, name, "tasks")}
        return self._add("tasks", name, content | {"task": section})

    def _task_object(self, task: Any) -> str:
        name = self._name(None, type(task), "task")
        if lacking := [key for key in TASK_ATTRIBUTES if not hasattr(task, key)]:
            raise UserError(f"task {name}: has no {lacking[0]}; its __init__ must call that of Task")
        path = f"{MODULE}.{name}"
        self.objects[path] = GivenTask(task, name)
        section = {"class": path, "metric": task.metric, "mode": task.mode, "target": task.target}
        section |= {"dataset": task.dataset or name, "datasets": [task.dataset or name]}
        return self._add("tasks", name, {"task": section, "train": {"batch_size": task.batch_size}})

    def _described(self, section: Mapping[str, Any], name: str) -> dict[str, Any]:
        """A task's section with what its class does not say of itself."""
        if "metric" not in section:
            self.remarks.append(f"{name}: nothing said of its metric, so val_loss ranks trials, the less the better")
        return {"metric": "val_loss", "mode": "min", "dataset": name, "datasets": [name], **section}

    def _searched_lr(self, made: Callable[..., Any], name: str, args: Any = None) -> dict[str, Any]:
        """The space of a class that came without one, its arguments ``args`` fixed."""
        parameter = _parameters(made).get("lr")
        if parameter is None or (isinstance(args, Mapping) and "lr" in args):
            raise UserError(
                f"{name}: has no space, and no lr that could be searched: say what is, "
                f"{{'class': {name}, 'space': {{'NAME': {{'low': 1e-4, 'high': 1.0, 'log': True}}}}}}"
            )
        self.remarks.append(
            f"{name}: no space given, so lr alone is searched, from {LR_SPACE['low']:g} to {LR_SPACE['high']:g} "
            "(log-uniform)"
        )
        default = parameter.default
        usable = isinstance(default, float) and LR_SPACE["low"] <= default <= LR_SPACE["high"]
        return {"space": {"lr": dict(LR_SPACE)}, "defaults": [{"lr": default}] if usable else []}

    def _name(self, name: Any, made: Any, what: str) -> str:
        """What was given with a name, or has one."""
        name = getattr(made, "__name__", None) if name is None else name
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UserError(f"{what} {_shown(made if name is None else name)}: give it a name, {{'name': 'mine', ...}}")
        return name

    def _add(self, kind: Kind, name: str, content: dict[str, Any]) -> str:
        what = kind[:-1]
        if name in self.given[kind]:
            raise UserError(f"two {kind} are called {name}; give one another name, {{'name': 'other', 'class': ...}}")
        of_class = "class" in (content if kind == "optimizers" else content["task"])
        if of_class and name in self.registry.names(kind):
            raise UserError(f"{name}: there is {what} {name} already; give yours another name, {{'name': 'mine', ...}}")
        self.given[kind][name] = plain_value(content, name)
        return name

    def _known(self, kind: Kind, made: Any, path_in: Callable[[dict[str, Any]], Any]) -> str | None:
        """The name of the YAML file that is about this class: of several, that which has the class's name."""
        names = []
        for name in self.registry.names(kind):
            layers = [layer for lookup in self.registry.levels for layer in read(lookup, kind, name)]
            module, _, last = str(path_in(layers[-1][1])).rpartition(".") if layers else ("", "", "")
            if getattr(sys.modules.get(module), last, None) is made:
                names.append(name)
        same = [name for name in names if name == getattr(made, "__name__", "").lower()]
        return next(iter(same or (names if len(names) == 1 else [])), None)

    def _path(self, made: Any, name: str, kind: Kind) -> str:
        """The dotted path of a class or function. One that other processes cannot import is carried, by its own name
        unless it has none or another has it: an identifier."""
        module, last = getattr(made, "__module__", None), getattr(made, "__qualname__", ".")
        if module and getattr(sys.modules.get(module), last, None) is made and is_importable(module):
            return f"{module}.{last}"
        own = str(getattr(made, "__name__", ""))
        other = re.sub(r"\W|^(?=\d)", "_", name)
        for called in (own if own.isidentifier() else other, other):
            if self.objects.setdefault(f"{MODULE}.{called}", made) is made:
                return f"{MODULE}.{called}"
        raise UserError(f"two of what was given are called {name}; give one another name")


class GivenTask:
    """Makes copies of a task that a program gave, as its class would make tasks.

    Args:
        task: the task.
    """

    def __init__(self, task: Any, name: str) -> None:
        self.task = task
        self.__name__ = name
        self.__module__ = type(task).__module__

    def __call__(
        self, *, metric: str, mode: str, batch_size: int, dataset: str | None = None, target: float | None = None
    ) -> Any:
        task = copy.copy(self.task)
        task.metric, task.mode, task.batch_size, task.target = metric, mode, batch_size, target
        return task


def python_path() -> list[str]:
    """The folders where this program, and perhaps no other process, finds modules."""
    known = [*INSTALLED, STANDARD]
    folders = dict.fromkeys(Path(os.path.abspath(folder)) for folder in sys.path)  # noqa: PTH100  (of "" too)
    return [
        str(folder)
        for folder in folders
        if folder.is_dir() and folder.resolve() != ROOT and not any(folder.resolve().is_relative_to(k) for k in known)
    ]


def _parameters(made: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(made).parameters
    except (TypeError, ValueError):
        return {}


def _shown(value: Any) -> str:
    return repr(value)[:80]


def gather(task: Any, optimizers: Any, configs: Path | None) -> tuple[Any, list[str] | None, Program]:
    """The names of a task and of optimizers, and what a program gives with them.

    Args:
        optimizers: several, or one; ``None`` where none are named, as of a run that goes on.

    Raises:
        UserError: one of them is of no use.
    """
    gathering = Gathering(configs)
    name = None if task is None else gathering.task(task)
    if isinstance(optimizers, str | Mapping) or not isinstance(optimizers, Iterable | None):
        optimizers = [optimizers]
    names = None if optimizers is None else [gathering.optimizer(entry) for entry in optimizers]
    return name, names, gathering.program()

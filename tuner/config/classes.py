"""Classes named by dotted path in YAML, and what is made of them: tasks and optimizers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner import text
from tuner.config.registry import OWN_PACKAGES, reach
from tuner.errors import UserError, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tasks.base import Task
    from tuner.config.schema import Config, OptimizerConfig, TaskConfig
    from tuner.training.engine import Engine
    from tuner.training.single import MakeOptimizer

OPTIONAL = "requirements-optional.txt"
PATTERN = re.compile(r"[<*]")  # a name in a task's list of datasets that stands for many


def find(path: str) -> Any:
    """The object at a dotted path such as "optimizers.DiagHessian".

    Raises:
        UserError: there is no such module, or it has no such name.
    """
    module_name, _, name = path.rpartition(".")
    if not all(path.split(".")) or not module_name:
        raise UserError(f"{path!r} is not a dotted path such as torch.optim.Adam")
    try:
        module = import_module(module_name)
    except ImportError as error:
        remedy = f"; pip install -r {OPTIONAL}" if path.startswith("pytorch_optimizer.") else ""
        raise UserError(f"{path}: {module_name} cannot be imported ({error}){remedy}") from None
    if not hasattr(module, name):
        public = [public for public in vars(module) if not public.startswith("_")]
        close = nearest(name, public).partition(" (valid")[0]
        own = path.partition(".")[0]
        ours = (
            f"; {own} is this project's own package, a module of yours needs another name"
            if own in OWN_PACKAGES
            else ""
        )
        raise UserError(f"{path}: {module_name} has no {name!r}{close}{ours}")
    found = getattr(module, name)
    if not callable(found):
        raise UserError(f"{path}: is a {type(found).__name__}, neither a class nor a function")
    return found


def make_task(config: Config) -> Task:
    """The configured task, its data not yet loaded.

    Raises:
        UserError: its class does not exist, or does not take the arguments.
    """
    reach(config.configs)
    task: TaskConfig = config.task
    arguments = {
        "metric": task.metric,
        "mode": task.mode,
        "target": task.target,
        "dataset": task.dataset,
        "batch_size": config.train.batch_size,
        **task.args,
    }
    cls = find(task.class_)
    _check_arguments(f"task {task.name}", cls, 0, arguments)
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"task {task.name}: {error}{nearest_argument(error, cls)}") from None


def set_up(task: Task, config: Config) -> None:
    """Load the task's data onto a trial's device, and keep this process within a trial's resources.

    Raises:
        UserError: the data cannot be used.
    """
    import torch

    device = torch.device("cuda" if config.resources.gpus_per_trial and torch.cuda.is_available() else "cpu")
    limit_memory(config, device)
    torch.set_num_threads(max(1, int(config.resources.cpus_per_trial)))
    data_dir = None if config.task.data_dir is None else Path(config.task.data_dir)
    try:
        task.setup(data_dir, device)
    except ValueError as error:
        raise UserError(f"task {config.task.name}: {error}") from None


def limit_memory(config: Config, device: torch.device, *, alone: bool = False) -> None:
    """Keep this process within a trial's share of the GPU, but where nothing else is on it."""
    import torch

    share = config.resources.gpus_per_trial or 0.0
    if device.type == "cuda" and 0 < share < 1:
        torch.cuda.set_per_process_memory_fraction(1.0 if alone else share)


def make_engine(config: Config) -> Engine:
    """How models are run: see ``tuner.training.engine.Engine``."""
    from tuner.training.engine import Engine

    return Engine(**{field.name: getattr(config.train, field.name) for field in fields(Engine)})


def optimizer_maker(name: str, spec: OptimizerConfig) -> MakeOptimizer:
    """A function (params, hp) -> optimizer.

    Raises:
        UserError: its class does not exist, or does not take the fixed arguments and hyperparameters.
    """
    cls = find(spec.class_)
    _check_arguments(f"optimizer {name}", cls, 1, {**spec.fixed(), **dict.fromkeys(spec.space)})

    def make(params: Iterable[nn.Parameter], hp: dict[str, Any]) -> torch.optim.Optimizer:
        return cls(params, **spec.arguments(hp))

    return make


def check_dataset(config: Config) -> None:
    """Run the task's own quick check of its data set, where it has one.

    Raises:
        UserError: what the check says.
    """
    dataset, datasets = config.task.dataset, config.task.datasets
    if dataset not in datasets and not any(PATTERN.search(name) for name in datasets):
        raise UserError(f"unknown dataset {dataset!r} of {config.task.name}{nearest(dataset, datasets)}")
    if config.task.check is None:
        return
    reach(config.configs)
    try:
        find(config.task.check)(dataset, config.task.data_dir)
    except ValueError as error:
        raise UserError(f"{config.task.name}: {error}") from None
    except Exception as error:  # the check may be a user's own
        raise UserError(f"{config.task.name}: {config.task.check} failed ({text.fault(error)})") from None


def nearest_argument(error: Exception, cls: Any) -> str:
    """Where a base class refused an argument that the class itself passed on: the nearest that one of them takes."""
    refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if refused is None or not inspect.isclass(cls):
        return ""
    owners = [base for base in cls.__mro__ if "__init__" in vars(base) and base is not object]
    parameters = [p for base in owners for p in list(inspect.signature(vars(base)["__init__"]).parameters.values())[2:]]
    taken = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return nearest(refused[1], dict.fromkeys(taken))


def _check_arguments(who: str, cls: Any, positional: int, arguments: dict[str, Any]) -> None:
    signature = inspect.signature(cls)
    parameters = list(signature.parameters.values())[positional:]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        names = [p.name for p in parameters]
        for name in arguments:
            if name not in names:
                raise UserError(f"{who}: {cls.__name__} takes no argument {name!r}{nearest(name, names)}")
    try:
        signature.bind(*[None] * positional, **arguments)
    except TypeError as error:
        raise UserError(f"{who}: {cls.__name__}: {error}") from None

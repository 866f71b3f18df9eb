"""What a configuration names is built here: the task, its engine, and the function that makes an optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.base import Task
from tuner.config.classes import check_arguments, find, nearest_argument
from tuner.config.engine_options import EngineOptions
from tuner.config.modules import reach
from tuner.config.schema import Config
from tuner.config.space import OptimizerConfig
from tuner.errors import UserError
from tuner.machine import memory
from tuner.training.engine import Engine
from tuner.training.single import MakeOptimizer


def make_task(config: Config) -> Task:
    """The configured task, its data not yet loaded.

    Raises:
        UserError: its class does not exist, or does not take the arguments.
    """
    reach(config.module_folders)
    task = config.task
    arguments = {
        "metric": task.metric,
        "mode": task.mode,
        "target": task.target,
        "dataset": task.dataset,
        "batch_size": config.train.batch_size,
        **task.args,
    }
    cls = find(task.class_)
    check_arguments(f"task {task.name}", cls, 0, arguments)
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"task {task.name}: {error}{nearest_argument(error, cls)}") from None


def set_up(task: Task, config: Config) -> None:
    """Load the task's data onto a trial's device, and keep this process within a trial's resources.

    Raises:
        UserError: the data cannot be used.
    """
    device = torch.device("cuda" if config.resources.settled.gpus_per_trial and torch.cuda.is_available() else "cpu")
    limit_memory(config, device)
    torch.set_num_threads(max(1, int(config.resources.cpus_per_trial)))
    load_data(task, config, device)


def load_data(task: Task, config: Config, device: torch.device) -> None:
    """Load the task's data onto this device.

    Raises:
        UserError: the data cannot be used.
    """
    data_dir = None if config.task.data_dir is None else Path(config.task.data_dir)
    try:
        task.setup(data_dir, device)
    except ValueError as error:
        raise UserError(f"task {config.task.name}: {error}") from None


def limit_memory(config: Config, device: torch.device, *, alone: bool = False) -> None:
    """Keep this process within a trial's share of the GPU, but where nothing else is on it."""
    memory.limit(device, config.resources.settled.gpus_per_trial, alone=alone)


def make_engine(config: Config) -> Engine:
    """How models are run: see ``tuner.training.engine.Engine``."""
    return Engine(**config.train.model_dump(include=set(EngineOptions.model_fields)))


def optimizer_maker(name: str, spec: OptimizerConfig) -> MakeOptimizer:
    """A function (params, hp) -> optimizer.

    Raises:
        UserError: its class does not exist, or does not take the fixed arguments and hyperparameters.
    """
    cls = find(spec.class_)
    own = [key for key in spec.space if key not in spec.of_training]
    check_arguments(f"optimizer {name}", cls, 1, {**spec.fixed(), **dict.fromkeys(own)})

    def make(params: Iterable[nn.Parameter], hp: dict[str, Any]) -> torch.optim.Optimizer:
        return cls(params, **spec.arguments(hp))

    return make

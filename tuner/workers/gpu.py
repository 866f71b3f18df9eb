"""What a worker owes its GPU, and those that share it, before and after a run. No ray."""

from __future__ import annotations

import copy
import gc
from contextlib import suppress

import torch

from tasks.base import Task
from tuner.machine import memory
from tuner.training.engine import Engine
from tuner.training.isolation import restored
from tuner.training.single import Hyperparameters, MakeOptimizer, Trainer

WARM_UP_STEPS = 2
"""A refresh, and a step without."""


def name_of(device: torch.device) -> str:
    """A GPU's model; empty for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def settle(device: torch.device) -> None:
    """Let what is loaded by now, and here to stay, not be gone through whenever memory is to be freed."""
    if device.type == "cuda":
        gc.collect()
        gc.freeze()


def warm_up(task: Task, make: MakeOptimizer, hp: Hyperparameters, engine: Engine) -> None:
    """Take a step of each kind that no clock counts: kernels are loaded when they are first launched.

    What goes wrong a run will say.
    """
    if task.device.type != "cuda":
        return
    with suppress(Exception), restored([]), engine.settings():
        _take_steps(copy.copy(task), make, hp, engine.model_copy(update={"compile": False}))
    gc.collect()


def _take_steps(task: Task, make: MakeOptimizer, hp: Hyperparameters, engine: Engine) -> None:
    run = Trainer(task, make, hp, 0, engine, epochs=WARM_UP_STEPS)
    run.take_steps(run.batches(WARM_UP_STEPS), WARM_UP_STEPS)


def finish(device: torch.device, gpu_share: float) -> None:
    """Wait until all is computed, so that what has gone wrong there is the fault of the run that ends, and of none that
    comes; free its memory, and let those that share the GPU have what is only kept for later."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        if gpu_share < 1:
            memory.give_back(device)
        else:
            gc.collect()  # a run refers to itself

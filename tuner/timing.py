"""A few timed steps of a task with each optimizer, in the process where this runs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from statistics import median

import torch

from tasks.base import Batch, Task
from tuner import objects
from tuner.engine import Engine
from tuner.errors import UserError
from tuner.estimate import Timings
from tuner.schema import Config
from tuner.train import Hyperparameters, MakeOptimizer, Trainer

FORWARD_SHARE = 1 / 3
"""Of a gradient's time: a backward pass is twice the work."""
SMALL_SHARE = 16
LONG_STEP_S = 0.3
"""From here on a sixteenth of a batch is timed in place of a batch."""
BUDGET_S = 1.0
STEPS = 20


def measure(config: Config, task: Task) -> Timings:
    """Time each optimizer of the run at the first point that its search will try.

    Args:
        task: with its data loaded.

    Raises:
        UserError: the optimizer cannot be trained as the configuration says.
    """
    engine = objects.make_engine(config)
    steps_per_epoch = task.steps_per_epoch
    batch = min(task.batch_size, len(task.splits["train"][0]))
    step_s, untimed = {}, {}
    with engine.settings():
        scale, plain = _scaled(task, engine)
        for name, spec in config.optimizers.items():
            make = objects.optimizer_maker(name, spec)
            try:
                step_s[name] = scale * seconds_per_step(task, make, spec.first_point(), engine)
            except UserError:
                raise
            except Exception as error:
                untimed[name] = " ".join(f"{type(error).__name__}: {error}".split())
    rows = sum(len(task.splits[split][0]) for split in ("train", "val"))
    return Timings(step_s, FORWARD_SHARE * plain * rows / batch, steps_per_epoch, untimed)


def _scaled(task: Task, engine: Engine) -> tuple[float, float]:
    """Leaves the task with a batch size that can be timed quickly; its share, inverted, and a whole gradient's time."""
    whole = task.batch_size

    def gradient() -> float:
        return seconds_per_step(task, lambda params, hp: torch.optim.SGD(params, **hp), {"lr": 0.0}, engine)

    rows = len(task.splits["train"][0])
    taken = min(whole, rows)
    task.batch_size = max(2, taken // SMALL_SHARE)
    while task.batch_size < taken and rows % task.batch_size == 1:  # BatchNorm takes no statistics of a single row
        task.batch_size += 1
    scale = taken / task.batch_size
    plain = scale * gradient()
    if plain > LONG_STEP_S:
        return scale, plain
    task.batch_size = whole
    return 1.0, gradient()


def seconds_per_step(task: Task, make: MakeOptimizer, hp: Hyperparameters, engine: Engine) -> float:
    """Seconds of an average step, after a first one that warms up; refreshes count as often as they come."""
    trainer = Trainer(task, make, hp, 0, engine, epochs=1)
    plain: list[float] = []
    refreshes: list[float] = []
    batches = _endless(task)
    began = time.perf_counter()
    for _ in range(STEPS):
        cost = trainer.grad_equivalents
        started = time.perf_counter()
        trainer.step(next(batches)).item()  # waits for the device
        seconds = time.perf_counter() - started
        (refreshes if trainer.grad_equivalents - cost > 1 else plain).append(seconds)
        if time.perf_counter() - began > BUDGET_S and len(plain) + len(refreshes) > 1:
            break
    period = getattr(trainer.optimizer, "update_period", 1)
    if not plain or not refreshes:
        return median((plain or refreshes)[1:] or plain or refreshes)
    return (median(refreshes[1:] or refreshes) + (period - 1) * median(plain)) / period


def _endless(task: Task) -> Iterator[Batch]:
    return (batch for epoch in itertools.count() for batch in task.batches(0, epoch))

"""Steps of a task are timed with each optimizer, a few, in the process where this runs."""

from __future__ import annotations

import itertools
import time
from statistics import median

import torch

from tasks.base import Task
from tuner import text
from tuner.config.schema import Config
from tuner.errors import UserError
from tuner.machine import memory
from tuner.planning.cohorts import to_measure
from tuner.planning.estimate import Timings
from tuner.training import build, stack
from tuner.training.engine import Engine
from tuner.training.isolation import restored
from tuner.training.loop import Lockstep
from tuner.training.single import Hyperparameters, MakeOptimizer, Trainer
from tuner.workers.diagnosis import diagnose

FORWARD_SHARE = 1 / 3
"""Of a gradient's time: a backward pass is twice the work."""
SMALL_SHARE = 16
LONG_STEP_S = 0.3
"""From here on a sixteenth of a batch is timed in place of a batch."""
BUDGET_S = 1.0
STEPS = 20
LONGEST_WORTH_STACKING_S = 0.03
"""A longer step is arithmetic: what a stack saves, a millisecond or two of calls, is nothing to it."""


def measure(config: Config, task: Task) -> Timings:
    """Time each optimizer of the run at the first point that its search will try, alone and in stacks.

    Args:
        task: with its data loaded.

    Raises:
        UserError: the optimizer cannot be trained as the configuration says.
    """
    engine = build.make_engine(config)
    steps_per_epoch = task.steps_per_epoch
    batch = min(task.batch_size, len(task.splits["train"][0]))
    step_s, member_s, untimed = {}, {}, {}
    sizes = to_measure(config, config.retraining_runs)
    with engine.settings():
        scale, plain = _scaled(task, engine)
        for name, spec in config.optimizers.items():
            make = build.optimizer_maker(name, spec)
            try:
                with restored([]):
                    step_s[name] = scale * seconds_per_step(task, make, spec.first_point(), engine)
            except UserError:
                raise
            except Exception as error:
                untimed[name] = diagnose(error, spec) or text.fault(error)
                continue
            with restored([]):
                of_sizes = stacks(config, task, make, spec.first_point(), step_s[name], sizes)
            member_s[name] = {1: step_s[name]} | of_sizes
    rows = sum(len(task.splits[split][0]) for split in ("train", "val"))
    return Timings(step_s, FORWARD_SHARE * plain * rows / batch, steps_per_epoch, untimed, member_s)


def stacks(
    config: Config, task: Task, make: MakeOptimizer, hp: Hyperparameters, alone_s: float, sizes: list[int]
) -> dict[int, float]:
    """Seconds of a member's step in stacks of increasing size, up to where larger ones are slower or want more memory
    than there is; nothing where there is no stack.

    A step may be so long that a stack has nothing to save. A size that was asked for then counts as one at a time.
    """
    engine = build.make_engine(config)
    member_s: dict[int, float] = {}
    if len(stack.stacks(task, make, [stack.Member(hp, seed=0)] * 2, engine)) > 1:
        return member_s
    if alone_s > LONGEST_WORTH_STACKING_S:
        return member_s if config.resources.cohort == "auto" else dict.fromkeys(sizes, alone_s)
    settled = config.resources.settled
    allowed = memory.allowance_mb(task.device, settled.gpus_per_trial, settled.max_concurrent)
    memory.reset_peak(task.device)
    base = memory.peak_mb(task.device)
    per_member = 0.0
    for size in sizes:
        if per_member * size > allowed:
            break
        members = [stack.Member(hp, seed=0)] * size
        try:
            member_s[size] = _median_step(stack.Stack(task, make, members, engine, epochs=1), task) / size
        except Exception:
            break  # it will train one at a time
        per_member = max(per_member, (memory.peak_mb(task.device) - base) / size)
        if member_s[size] > min(alone_s, *member_s.values()):
            break
    return member_s


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
    """Seconds of an average step of one run."""
    return _median_step(Trainer(task, make, hp, 0, engine, epochs=1), task)


def _median_step(run: Lockstep, task: Task) -> float:
    """Seconds of an average step, after a first one that warms up; refreshes count as often as they come."""
    plain: list[float] = []
    refreshes: list[float] = []
    batches = itertools.chain.from_iterable(run.batches(1) for _ in itertools.count())
    began = time.perf_counter()
    for _ in range(STEPS):
        cost = run.nominal_grad_equivalents[0]
        started = time.perf_counter()
        run.step(next(batches)).sum().item()  # waits for the device
        seconds = time.perf_counter() - started
        (refreshes if run.nominal_grad_equivalents[0] - cost > 1 else plain).append(seconds)
        if time.perf_counter() - began > BUDGET_S and len(plain) + len(refreshes) > 1:
            break
    period = getattr(run.optimizer, "update_period", 1)
    if not plain or not refreshes:
        return median((plain or refreshes)[1:] or plain or refreshes)
    return (median(refreshes[1:] or refreshes) + (period - 1) * median(plain)) / period

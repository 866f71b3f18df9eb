"""Steps of a task are timed with each optimizer, a few, in the process where this runs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

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
from tuner.training.tried import settled, tried
from tuner.workers.device_errors import brief, has_lost_device
from tuner.workers.diagnosis import diagnose

FORWARD_SHARE = 1 / 3
"""Of a gradient's time: a backward pass is twice the work."""
SMALL_SHARE = 16
LONG_STEP_S = 0.3
"""From here on a sixteenth of a batch is timed in place of a batch."""
BUDGET_S = 1.0
STEPS = 20
CYCLES_PER_S = 2_000_000_000
"""Of a GPU's clock, about."""
LONGEST_SLEEP_S = 0.1
SLOWER = 1.25
"""Larger stacks than one that is so much slower are not tried: what is less may be the machine's noise."""
LONGEST_WORTH_STACKING_S = 0.03
"""A longer step is arithmetic: what a stack saves, a millisecond or two of calls, is nothing to it."""


class StepSeconds(NamedTuple):
    """Seconds of a step, and of those in which a GPU computes: the rest is this process's, which asks it to."""

    whole: float
    on_device: float = 0.0

    def times(self, factor: float) -> StepSeconds:
        return StepSeconds(factor * self.whole, factor * self.on_device)


def measure(config: Config, task: Task) -> Timings:
    """Time each optimizer of the run at the first point that its search will try, alone and in stacks.

    Args:
        task: with its data loaded.

    Raises:
        UserError: the optimizer cannot be trained as the configuration says, or a GPU has failed it.
    """
    engine = build.make_engine(config)
    steps_per_epoch = task.steps_per_epoch
    batch = min(task.batch_size, len(task.splits["train"][0]))
    found: dict[str, dict[int, StepSeconds]] = {}
    untimed, remarks = {}, {}
    sizes = to_measure(config, config.retraining_runs)
    with engine.settings():
        scale, plain = _scaled(task, engine)
        for name, spec in config.optimizers.items():
            make = build.optimizer_maker(name, spec)
            try:
                with restored([]):
                    alone = seconds_per_step(task, make, spec.first_point(), engine).times(scale)
            except UserError:
                raise
            except Exception as error:
                check_device(name, error)
                untimed[name] = diagnose(error, spec) or text.fault(error)
                continue
            finally:
                memory.give_back(task.device)
            with restored([]):
                of_sizes, remarks[name] = stacks(config, task, name, alone.whole, sizes)
            found[name] = {1: alone} | of_sizes
    rows = sum(len(task.splits[split][0]) for split in ("train", "val"))
    return Timings(
        {name: of[1].whole for name, of in found.items()},
        FORWARD_SHARE * plain * rows / batch,
        steps_per_epoch,
        untimed,
        {name: {size: seconds.whole for size, seconds in of.items()} for name, of in found.items()},
        {name: {size: seconds.on_device for size, seconds in of.items()} for name, of in found.items()},
        {name: remark for name, remark in remarks.items() if remark},
    )


def stacks(
    config: Config, task: Task, optimizer: str, alone_s: float, sizes: list[int]
) -> tuple[dict[int, StepSeconds], str]:
    """Of a member's step in stacks of increasing size, up to where larger ones are slower or want more memory than
    there is; nothing where there is no stack. And what a person is to know of it.

    A step may be so long that a stack has nothing to save. A size that was asked for then counts as one at a time.
    """
    engine, spec = build.make_engine(config), config.optimizers[optimizer]
    make, hp = build.optimizer_maker(optimizer, spec), spec.first_point()
    found: dict[int, StepSeconds] = {}
    if not sizes:
        return found, ""
    if alone_s > LONGEST_WORTH_STACKING_S:
        return found if config.resources.cohort == "auto" else dict.fromkeys(sizes, StepSeconds(alone_s)), ""
    try:
        alone, note = tried(task, make, hp, engine)
    except Exception as error:
        check_device(optimizer, error)
        alone, note = text.fault(error), ""
    memory.give_back(task.device)
    if alone:
        return found, f"trains one at a time: {alone}"
    resources = config.resources.settled
    allowed = memory.allowance_mb(task.device, resources.gpus_per_trial, resources.max_concurrent)
    memory.reset_peak(task.device)
    base = memory.peak_mb(task.device)
    per_member = 0.0
    for size in sizes:
        if per_member * size > allowed:
            break
        time_it = partial(_average_step_of_stack, task, make, [stack.Member(hp, seed=0)] * size, engine)
        best = min([alone_s, *(seconds.whole for seconds in found.values())])
        try:
            whole = settled(time_it)
            if whole.whole > size * best:  # larger stacks are faster, or the machine was busy
                whole = min(whole, settled(time_it))
        except Exception as error:
            check_device(optimizer, error)
            break  # it will train one at a time
        found[size] = whole.times(1 / size)
        per_member = max(per_member, (memory.peak_mb(task.device) - base) / size)
        memory.give_back(task.device)
        if found[size].whole > SLOWER * best:
            break
    memory.give_back(task.device)
    return found, note


def _average_step_of_stack(task: Task, make: MakeOptimizer, members: list[stack.Member], engine: Engine) -> StepSeconds:
    return _average_step(stack.Stack(task, make, members, engine, epochs=1), task)


def check_device(optimizer: str, error: Exception) -> None:
    """
    Raises:
        UserError: after this error of the optimizer's there is nothing that a GPU does for this process.
    """
    if has_lost_device(error):
        raise UserError(
            f"optimizer {optimizer}: the GPU failed it in its first steps, and nothing else can be tried after that; "
            f"leave it out, or mend it ({brief(error)})"
        ) from None


def _scaled(task: Task, engine: Engine) -> tuple[float, float]:
    """Leaves the task with a batch size that can be timed quickly; its share, inverted, and a whole gradient's time."""
    whole = task.batch_size

    def gradient() -> float:
        return seconds_per_step(task, lambda params, hp: torch.optim.SGD(params, **hp), {"lr": 0.0}, engine).whole

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


def seconds_per_step(task: Task, make: MakeOptimizer, hp: Hyperparameters, engine: Engine) -> StepSeconds:
    """Of an average step of one run."""
    return _average_step(Trainer(task, make, hp, 0, engine, epochs=1), task)


def _average_step(run: Lockstep, task: Task) -> StepSeconds:
    """Of a run or a stack, all members of it together."""
    batches = itertools.chain.from_iterable(run.batches(1) for _ in itertools.count())

    def step() -> Tensor:
        return run.step(next(batches))

    whole = _median_s(run, partial(_whole_s, step))
    if task.device.type != "cuda":
        return StepSeconds(whole)
    return StepSeconds(whole, min(whole, _median_s(run, partial(_on_device_s, step, whole))))


def _median_s(run: Lockstep, timed_step: Callable[[], float]) -> float:
    """Seconds of an average step, after those that warm up; refreshes count as often as they come."""
    plain: list[float] = []
    refreshes: list[float] = []
    period = getattr(run.optimizer, "update_period", 1)
    began = time.perf_counter()
    for _ in range(STEPS + (run.unsettled - 1) * period):
        cost = run.nominal_grad_equivalents[0]
        seconds = timed_step()
        (refreshes if run.nominal_grad_equivalents[0] - cost > 1 else plain).append(seconds)
        if time.perf_counter() - began > BUDGET_S and len(plain) + len(refreshes) > 1:
            break
    of_plain, of_refresh = (median(s[run.unsettled :] or s[1:] or s) for s in (plain or refreshes, refreshes or plain))
    return (of_refresh + (period - 1) * of_plain) / period


def _whole_s(step: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    step().sum().item()  # waits for the device
    return time.perf_counter() - started


def _on_device_s(step: Callable[[], Tensor], whole_s: float) -> float:
    """What the GPU is busy with a step that it need not wait for, since it sleeps while the step is asked of it."""
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(int(2 * min(whole_s, LONGEST_SLEEP_S) * CYCLES_PER_S))
    began.record()
    step()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended) / 1000

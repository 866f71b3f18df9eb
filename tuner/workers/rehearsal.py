"""A rehearsal runs a task and its optimizers before a run begins: an evaluation; a few steps, also on from a
snapshot."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from optimizers import CurvatureOptimizer
from tasks.base import SPLITS, Task
from tuner.config.schema import Config
from tuner.errors import UserError, nearest
from tuner.machine import memory
from tuner.planning.estimate import Timings
from tuner.text import fault
from tuner.training import build, checkpoint, weights
from tuner.training.engine import Engine
from tuner.training.flops import curvature_scale
from tuner.training.isolation import restored
from tuner.training.loop import worst_of
from tuner.training.metrics import divergence, evaluate
from tuner.training.single import Hyperparameters, MakeOptimizer, Trainer
from tuner.workers.device_errors import has_lost_device
from tuner.workers.timing import check_device

QUICK_S = 2.0
"""An evaluation that takes longer is one of fewer rows."""
STEPS = 2
FEW_ROWS = 8
"""Which are enough to see whether FLOPs can be counted."""
NEGLIGIBLE = 1e-3
"""Of how far the weights went: what rounding may make of the same steps."""
OF_CURVATURE = re.compile(r"hessian|hutchinson|curvature|fisher")


def check_data(who: str, task: Task) -> None:
    """
    Raises:
        UserError: a split has no rows, or numbers that are not finite.
    """
    for split in SPLITS:
        for kind, tensor in zip(("inputs", "targets"), task.splits.get(split, ()), strict=False):
            if not isinstance(tensor, Tensor):
                continue
            if len(tensor) == 0:
                raise UserError(f"{who}: its split {split} has no rows")
            bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
            if bad:
                which = f"the {kind} of its split {split}"
                raise UserError(f"{who}: {bad} of {tensor.numel()} numbers in {which} are not finite")


def evaluate_once(who: str, task: Task, seconds: float) -> list[str]:
    """Evaluate a network that was not trained; what a person should know of it.

    Args:
        seconds: that an evaluation is expected to take.

    Raises:
        UserError: a metric is no finite number, the loss beyond the bound, or the task does not know the one that
            trials are ranked by, or what a diverged run gets.
    """
    rows = max(len(inputs) for inputs, _ in task.splits.values())
    some = rows if seconds <= QUICK_S else max(task.batch_size, int(rows * QUICK_S / seconds))
    try:
        values = evaluate(task.shortened(some), task.build(0), ("train", "val"))
        worst_of(task, values, test=True)
    except UserError as error:
        raise UserError(f"{who}: {error}") from None
    if task.metric not in values:
        raise UserError(f"task.metric: the task has no metric {task.metric!r}{nearest(task.metric, values)}")
    why = divergence(values, task.worst["loss"])
    if not why:
        return []
    if some < rows:  # too few, perhaps, for the metric to be defined
        return [f"{who}: {why}, of an untrained network, in the first {some} rows"]
    raise UserError(f"{who}: {why}, of an untrained network: each run would count as diverged")


def rehearse_all(config: Config, task: Task, timings: Timings) -> tuple[list[str], dict[str, str]]:
    """``rehearse`` with each optimizer that could be timed, at the first point that its search will try.

    Raises:
        UserError: weights are to be kept, and cannot be.
    """
    if config.retrain.keep_weights:
        check_weights(f"task {config.task.name}", task)
    engine = build.make_engine(config)
    warnings: list[str] = []
    unsaved: dict[str, str] = {}
    with engine.settings():
        for name in timings.step_s:
            spec = config.optimizers[name]
            make = build.optimizer_maker(name, spec)
            try:
                with restored([]):
                    notes, why = rehearse(task, make, spec.first_point(), engine)
                _, uncounted = curvature_scale(task.shortened(FEW_ROWS), make, spec.first_point())
            except Exception as error:
                check_device(name, error)
                warnings.append(f"{name}: its first evaluation failed ({fault(error)})")
                continue
            finally:
                memory.give_back(task.device)
            if uncounted:
                notes.append(f"gradient-equivalents are by its nominal costs, not counted ({uncounted})")
            warnings += [f"{name}: {note}" for note in notes]
            if why:
                unsaved[name] = why
    return warnings, unsaved


def check_weights(who: str, task: Task) -> None:
    """
    Raises:
        UserError: the network's state cannot be written down.
    """
    try:
        weights.pack(weights.weights_of(task.build(0)), {})
    except Exception as error:
        raise UserError(f"{who}: --keep-weights: its network's weights cannot be kept ({fault(error)})") from None


def rehearse(task: Task, make: MakeOptimizer, hp: Hyperparameters, engine: Engine) -> tuple[list[str], str]:
    """Take a few steps with an optimizer, evaluate, go on, once from a snapshot as well.

    Returns:
        What a person should know of it; and why runs cannot go on from snapshots, empty where they can.
    """
    epochs = 2 * STEPS
    run = Trainer(task, make, hp, 0, engine, epochs)
    uncalled = _methods_for_others(run.optimizer)
    batches = run.batches(epochs)
    run.take_steps(batches, STEPS)
    if not run.active:
        return [], ""
    run.task = task.shortened(task.batch_size)
    run.evaluate(("val",))  # where its train and eval are called
    run.task = task
    try:
        kept = checkpoint.pack(run.state())
    except Exception as error:
        if has_lost_device(error):
            raise
        return _notes(run, uncalled), f"its state cannot be saved ({fault(error)})"
    if kept is None:
        return _notes(run, uncalled), "its state_dict holds more than numbers, text and tensors"
    before = _weights(run)
    run.take_steps(batches, 2 * STEPS)
    again = Trainer(task, make, hp, 0, engine, epochs)
    try:
        again.take_steps(again.restore(checkpoint.unpack(kept), epochs), 2 * STEPS)
    except Exception as error:
        if has_lost_device(error):
            raise
        return _notes(run, uncalled), f"its state cannot be restored ({fault(error)})"
    way, apart = (_weights(run) - before).norm(), (_weights(run) - _weights(again)).norm()
    same = bool(apart <= NEGLIGIBLE * way) or not way.isfinite()
    return _notes(run, uncalled), "" if same else "its state_dict does not hold all that its steps depend on"


def _weights(run: Trainer) -> Tensor:
    return torch.cat([param.detach().double().flatten() for param in run.runner.exact.parameters()])


def _notes(run: Trainer, uncalled: Mapping[str, bool]) -> list[str]:
    cls = type(run.optimizer).__name__
    return [
        f"nothing here calls {cls}.{name}(); if its documentation asks for it, this trains another method"
        for name, called in uncalled.items()
        if not called
    ]


def _methods_for_others(optimizer: torch.optim.Optimizer) -> dict[str, bool]:
    """Methods by whose names a training loop may have to call them, with whether anything has, from now on.

    Not those of abstract classes, which are there for subclasses of many kinds.
    """
    called: dict[str, bool] = {}
    if isinstance(optimizer, CurvatureOptimizer):
        return called
    own = [vars(cls) for cls in type(optimizer).__mro__ if not inspect.isabstract(cls)]

    def noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def noted(*args: Any, **kwargs: Any) -> Any:
            called[name] = True
            return method(*args, **kwargs)

        return noted

    for name in dict.fromkeys(name for methods in own for name in methods):
        method = getattr(optimizer, name, None)
        if not name.startswith("_") and OF_CURVATURE.search(name) and callable(method):
            called[name] = False
            with suppress(AttributeError):  # of a class with slots
                setattr(optimizer, name, noting(name, method))
    return called

"""Runs and stacks of shipped tasks on the null GPU, whose steps are counted."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from optimizers import CurvatureOptimizer
from optimizers.stacking.optimizer import StackedOptimizer
from tasks.base import Task
from tests.null_gpu.counting import Counted, counting
from tuner.config.classes import find
from tuner.config.layers import resolve
from tuner.config.space import is_of_training
from tuner.training.build import make_task
from tuner.training.engine import Engine
from tuner.training.loop import Lockstep
from tuner.training.single import MakeOptimizer, Trainer
from tuner.training.stack import Member, Stack, stacks

DATASETS = {"cifar_cnn": "digits", "resnet18": "digits", "transformer": "stdlib"}
IMAGE_ROWS = ("task.args.rows.train=1024", "task.args.rows.val=100", "task.args.rows.test=100")
SMALL = {
    "cifar_cnn": IMAGE_ROWS,
    "resnet18": IMAGE_ROWS,
    "transformer": ("task.args.tokens=50000", "task.args.held_out_tokens=5000"),
}
EPOCHS = 1000


@cache
def task_on(name: str, device: str = "cuda") -> Task:
    """The task with some of its data."""
    flags = {"task.name": name} | ({"task.dataset": DATASETS[name]} if name in DATASETS else {})
    task = make_task(resolve(flags, SMALL.get(name, ())))
    task.setup(None, torch.device(device))
    return task


def maker(optimizer: str, arguments: Mapping[str, Any]) -> tuple[MakeOptimizer, dict[str, Any]]:
    """A shipped optimizer with other arguments, and the first point of its space."""
    spec = resolve({"task.name": "mnist1d", "search.optimizers": [optimizer]}).optimizers[optimizer]
    cls, fixed = find(spec.class_), {**spec.fixed(), **arguments}

    def make(params: Any, hp: Mapping[str, Any]) -> Any:
        own = {name: value for name, value in hp.items() if name not in arguments and not is_of_training(name)}
        return cls(params, **fixed, **own)

    return make, spec.first_point()


@cache
def noted(name: str, estimator: str, members: int = 1) -> dict[str, Any]:
    """What a Gauss-Newton estimator notes of a network, or of a stack, at its first refresh, found on the CPU: it reads
    numbers there, which the null GPU does not have."""
    if estimator not in ("gnb", "ggn_mc", "ggn_exact"):
        return {}
    task, batch_size = task_on(name, "cpu"), task_on(name, "cpu").batch_size
    make, hp = maker("sophia", {"estimator": estimator})
    task.batch_size = 8
    run: Lockstep
    if members == 1:
        run = Trainer(task, make, hp, 0, Engine(), 1)
    else:
        run = Stack(task, make, [Member(hp, seed) for seed in range(members)], Engine(), 1)
    run.step(next(iter(run.batches(1))))
    task.batch_size = batch_size
    memory: dict[str, Any] = run.optimizer._memory
    return memory


def run_of(
    name: str, optimizer: str, arguments: Mapping[str, Any], engine: Engine, members: int = 1, seeds: int = 1
) -> Lockstep:
    """A run, or a stack of members with learning rates of their own."""
    task = task_on(name)
    make, hp = maker(optimizer, arguments)
    run: Lockstep
    if members == 1:
        run = Trainer(task, make, hp, 0, engine, EPOCHS)
    else:
        together = [Member({**hp, "lr": hp["lr"] * (1 + 0.01 * i)}, i % seeds) for i in range(members)]
        assert len(stacks(task, make, together, engine)) == 1, f"{optimizer} does not stack"
        run = Stack(task, make, together, engine, EPOCHS)
        for each in run.optimizer.members:
            _note(each, name, arguments, 1)
    _note(run.optimizer, name, arguments, min(members, 2))
    return run


def _note(optimizer: Any, name: str, arguments: Mapping[str, Any], members: int) -> None:
    if isinstance(optimizer, CurvatureOptimizer | StackedOptimizer):
        optimizer._memory = copy.deepcopy(noted(name, str(arguments.get("estimator", "")), members))


@dataclass(frozen=True)
class Steps:
    """One step of each kind; ``refresh`` is ``plain`` where all are alike.

    Attributes:
        period: steps from one refresh to the next.
        peak_mb: of the memory in use over both, in MB of 2^20 bytes.
    """

    plain: Counted
    refresh: Counted
    period: int
    peak_mb: float

    @property
    def mean_launches(self) -> float:
        """Of a step, refreshes as often as they come."""
        return (self.refresh.launches + (self.period - 1) * self.plain.launches) / self.period


def steps_of(
    name: str,
    optimizer: str,
    arguments: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
    *,
    members: int = 1,
    seeds: int = 1,
    warm: int = 4,
) -> Steps:
    """Count a plain step and a refresh after some that warm up, in which a stack records what it replays.

    Without an engine, one that captures nothing: launches are those of the operations.

    Args:
        seeds: how many different ones the members have.
        warm: rounds of a refresh and what follows.
    """
    engine = engine or Engine(capture="off")
    with engine.settings():
        run = run_of(name, optimizer, arguments or {}, engine, members, seeds)
        period = int(getattr(run.optimizer, "update_period", 1))
        batches = itertools.chain.from_iterable(run.batches(EPOCHS) for _ in itertools.count())
        for _ in range(warm * period):
            run.step(next(batches))
        torch.cuda.reset_peak_memory_stats()
        counted = []
        for batch in itertools.islice(batches, min(period, 2)):
            with counting() as each:
                run.step(batch)
            counted.append(each)
        return Steps(counted[-1], counted[0], period, torch.cuda.max_memory_allocated() / 2**20)

"""One training run, pure: (task, optimizer, hyperparameters, seed) -> metrics. No Ray, no Optuna."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from optimizers import CurvatureOptimizer
from tasks.base import Batch, Task
from tuner import memory
from tuner.engine import Engine, Runner

Hyperparameters = dict[str, Any]
MakeOptimizer = Callable[[Iterable[nn.Parameter], Hyperparameters], torch.optim.Optimizer]

DEFAULTS = Engine()

Status = Literal["complete", "diverged"]

LOSSES_PER_CHECK = 20
"""Steps between looks at the losses: each look synchronises with the device."""


@dataclass(frozen=True)
class Budget:
    """How long to train and how often to look.

    Attributes:
        epochs: passes over the training rows.
        evaluations: evaluations after the first step's, equally spaced, the last one at the end.
        test: whether to evaluate the test split, once, at the end.
    """

    epochs: int
    evaluations: int = 10
    test: bool = False


@dataclass(frozen=True)
class Evaluation:
    """One look at a run: the clocks, the metrics, named ``<split>_<metric>``, and what the optimizer says of itself."""

    step: int
    epoch: float
    seconds: float
    grad_equivalents: float
    metrics: dict[str, float]
    diagnostics: dict[str, float]


@dataclass
class Clocks:
    """Four of them: steps, gradient-equivalents, seconds of training (evaluation not counted, the device
    synchronised) and the peak memory in MB."""

    steps: int = 0
    grad_equivalents: float = 0.0
    seconds: float = 0.0
    peak_mem_mb: float = 0.0


@dataclass(frozen=True)
class Result:
    """How a run ended. A diverged run has the task's worst values as its metrics."""

    status: Status
    metrics: dict[str, float]
    clocks: Clocks = field(default_factory=Clocks)


def train(
    task: Task,
    make_optimizer: MakeOptimizer,
    hp: Hyperparameters,
    seed: int,
    budget: Budget,
    on_eval: Callable[[Evaluation], object] = lambda _: None,
    engine: Engine = DEFAULTS,
) -> Result:
    """Train once and say how it went; ``on_eval`` is told of every evaluation as it happens.

    A non-finite loss, or one beyond the task's bound, ends the run with status "diverged". Same seed, same machine,
    nothing beside it on the CPU: the same numbers to the bit.
    """
    run = training(task, make_optimizer, hp, seed, budget, engine)
    while True:
        try:
            on_eval(next(run))
        except StopIteration as stop:
            return stop.value


def training(
    task: Task,
    make_optimizer: MakeOptimizer,
    hp: Hyperparameters,
    seed: int,
    budget: Budget,
    engine: Engine = DEFAULTS,
) -> Generator[Evaluation, None, Result]:
    """``train`` as a generator that pauses after each evaluation and returns the result."""
    with engine.settings():
        return (yield from _training(task, make_optimizer, hp, seed, budget, engine))


def _training(
    task: Task, make_optimizer: MakeOptimizer, hp: Hyperparameters, seed: int, budget: Budget, engine: Engine
) -> Generator[Evaluation, None, Result]:
    trainer = Trainer(task, make_optimizer, hp, seed, engine, budget.epochs)
    evaluation = trainer.evaluate(("train", "val"))
    worst = {name: task.worst[name.split("_", 1)[1]] for name in evaluation.metrics}
    if budget.test:
        worst |= {f"test_{name}": value for name, value in task.worst.items()}
    yield evaluation

    steps = budget.epochs * task.steps_per_epoch
    batches = chain.from_iterable(task.batches(seed, epoch) for epoch in range(budget.epochs))
    looks = min(budget.evaluations, steps)
    for look in range(1, looks + 1):
        until = math.ceil(steps * look / looks)
        finite = trainer.run(batches, until)
        if finite:
            splits = ("train", "val", "test") if budget.test and until == steps else ("train", "val")
            evaluation = trainer.evaluate(splits)
            finite = _sane(evaluation.metrics, task.worst["loss"])
        if not finite:
            return trainer.result("diverged", worst)
        yield evaluation
    return trainer.result("complete", evaluation.metrics)


class Trainer:
    """Takes steps, evaluates and keeps the clocks."""

    def __init__(
        self, task: Task, make_optimizer: MakeOptimizer, hp: Hyperparameters, seed: int, engine: Engine, epochs: int
    ) -> None:
        torch.manual_seed(seed)  # dropout; weights and batches have generators of their own
        memory.reset_peak(task.device)
        self.task = task
        self.runner = Runner(engine, task.build(seed).train())
        self.optimizer = make_optimizer(self.runner.exact.parameters(), hp)
        self.scheduler = engine.scheduler(self.optimizer, epochs * task.steps_per_epoch, task.steps_per_epoch)
        self._kind_of_step = self._plain_step
        if isinstance(self.optimizer, CurvatureOptimizer):
            self._kind_of_step = self._curvature_step
        elif _needs_closure(self.optimizer):
            self._kind_of_step = self._closure_step
        self.clip_grad_norm = engine.clip_grad_norm
        self.clocks = Clocks()
        self._optimizer_mode("train")

    def run(self, batches: Iterator[Batch], until: int) -> bool:
        """Train up to step ``until``; False as soon as the losses are seen to have diverged."""
        bound = self.task.worst["loss"]
        sane = True
        started = time.perf_counter()
        while sane and self.clocks.steps < until:
            steps = min(LOSSES_PER_CHECK, until - self.clocks.steps)
            losses = [self.step(next(batches)) for _ in range(steps)]
            self.clocks.steps += steps
            sane = all(loss <= bound for loss in torch.stack(losses).tolist())  # not for NaN; waits for the device
        self.clocks.seconds += time.perf_counter() - started
        return sane

    def step(self, batch: Batch) -> Tensor:
        """One step; the loss before it, detached."""
        loss = self._kind_of_step(batch)
        if self.scheduler is not None:
            self.scheduler.step()
        return loss

    def _curvature_step(self, batch: Batch) -> Tensor:
        optimizer = cast(CurvatureOptimizer, self.optimizer)
        loss = optimizer.step(
            lambda: self.task.loss(self.runner.exact if optimizer.refreshing else self.runner.trained, batch),
            max_grad_norm=self.clip_grad_norm,
        )
        self.clocks.grad_equivalents = optimizer.grad_equivalents
        return loss

    def _plain_step(self, batch: Batch) -> Tensor:
        loss = self._gradient(batch)
        self.optimizer.step()
        return loss

    def _closure_step(self, batch: Batch) -> Tensor:
        """Of LBFGS, which takes several gradients in a step."""
        losses: list[Tensor] = []

        def closure() -> Tensor:
            losses.append(self._gradient(batch))
            return losses[-1]

        self.optimizer.step(closure)
        return losses[0]

    def _gradient(self, batch: Batch) -> Tensor:
        """Sets the gradients; the loss, detached."""
        self.optimizer.zero_grad()
        loss, _ = self.task.loss(self.runner.trained, batch)
        loss.backward()
        if self.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.runner.exact.parameters(), self.clip_grad_norm)
        self.clocks.grad_equivalents += 1
        return loss.detach()

    def evaluate(self, splits: tuple[str, ...]) -> Evaluation:
        self._optimizer_mode("eval")
        metrics = {
            f"{split}_{name}": value
            for split in splits
            for name, value in self.task.evaluate(self.runner.evaluated, split).items()
        }
        self._optimizer_mode("train")
        diagnostics: dict[str, float] = {}
        if isinstance(self.optimizer, CurvatureOptimizer) and self.clocks.steps:
            diagnostics = {name: float(value) for name, value in self.optimizer.diagnostics().items()}
        clocks, epoch = self.clocks, self.clocks.steps / self.task.steps_per_epoch
        return Evaluation(clocks.steps, epoch, clocks.seconds, clocks.grad_equivalents, metrics, diagnostics)

    def result(self, status: Status, metrics: dict[str, float]) -> Result:
        self.clocks.peak_mem_mb = memory.peak_mb(self.task.device)
        return Result(status, metrics, self.clocks)

    def _optimizer_mode(self, mode: str) -> None:
        """Schedule-free optimizers keep the weights to evaluate apart from those to train, and must be told."""
        switch = getattr(self.optimizer, mode, None)
        if callable(switch):
            switch()


def _needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _sane(metrics: dict[str, float], bound: float) -> bool:
    losses = (value for name, value in metrics.items() if name.endswith("_loss"))
    return all(map(math.isfinite, metrics.values())) and all(loss <= bound for loss in losses)

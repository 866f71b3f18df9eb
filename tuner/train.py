"""One training run, pure: (task, optimizer, hyperparameters, seed) -> metrics. No Ray, no Optuna."""

from __future__ import annotations

import inspect
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from optimizers import CurvatureOptimizer
from tasks.base import Batch, Task
from tuner import memory
from tuner.engine import Engine, Runner

Hyperparameters = dict[str, Any]
MakeOptimizer = Callable[[Iterable[nn.Parameter], Hyperparameters], torch.optim.Optimizer]

DEFAULTS = Engine()

Told = TypeVar("Told")
Ended = TypeVar("Ended")

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
    """How a run ended. A diverged run has the task's worst values as its metrics.

    Attributes:
        cohort: how many members trained in lockstep with it, itself included.
    """

    status: Status
    metrics: dict[str, float]
    clocks: Clocks = field(default_factory=Clocks)
    cohort: int = 1


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
    return drained(training(task, make_optimizer, hp, seed, budget, engine), on_eval)


def drained(run: Generator[Told, None, Ended], tell: Callable[[Told], object]) -> Ended:
    """What a training generator returns, after ``tell`` has been told of all that it yields."""
    while True:
        try:
            told = next(run)
        except StopIteration as stop:
            return stop.value
        tell(told)


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
        run = in_lockstep(Trainer(task, make_optimizer, hp, seed, engine, budget.epochs), budget)
        while True:
            try:
                yield next(run)[0]
            except StopIteration as stop:
                return stop.value[0]


def in_lockstep(run: Lockstep, budget: Budget) -> Generator[dict[int, Evaluation], None, list[Result]]:
    """The loop, of one run or of a stack: pauses after each evaluation, of every member that has not diverged."""
    steps = budget.epochs * run.task.steps_per_epoch
    looks = min(budget.evaluations, steps)
    batches = run.batches(budget.epochs)
    evaluations = run.evaluate(("train", "val"))
    worst = {name: run.task.worst[name.split("_", 1)[1]] for name in evaluations[0].metrics}
    if budget.test:
        worst |= {f"test_{name}": value for name, value in run.task.worst.items()}
    yield evaluations
    for look in range(1, looks + 1):
        until = math.ceil(steps * look / looks)
        run.take_steps(batches, until)
        evaluations = run.evaluate(("train", "val", "test") if budget.test and until == steps else ("train", "val"))
        run.part(member for member, found in evaluations.items() if not _sane(found.metrics, run.task.worst["loss"]))
        evaluations = {member: evaluations[member] for member in run.live}
        if not evaluations:
            break
        yield evaluations
    run.part(run.live)
    return [
        Result("complete", evaluations[member].metrics, clocks, len(run.seconds))
        if member in evaluations
        else Result("diverged", dict(worst), clocks, len(run.seconds))
        for member, clocks in sorted(run.parted.items())
    ]


class Lockstep(ABC):
    """What one run and a stack of them share: takes steps, looks at losses and metrics, keeps the clocks.

    Attributes:
        steps, grad_equivalents: so far, of every member alike.
        seconds: of each member; of a stack's time each gets an equal share, so that seconds add up to what was spent.
        live: the members that are still training, by their numbers from 0.
        parted: the clocks of those that are not, when they ended.
    """

    optimizer: Any

    def __init__(self, task: Task, members: int) -> None:
        self.task = task
        self.steps = 0
        self.grad_equivalents = 0.0
        self.seconds = [0.0] * members
        self.live = list(range(members))
        self.parted: dict[int, Clocks] = {}
        memory.reset_peak(task.device)

    @abstractmethod
    def batches(self, epochs: int) -> Iterator[Any]:
        """What ``step`` takes, for so many epochs."""

    @abstractmethod
    def step(self, batch: Any) -> Tensor:
        """One step; the losses before it, detached: 0-dim or (live members,)."""

    @abstractmethod
    def look(self, member: int, splits: tuple[str, ...]) -> tuple[dict[str, float], dict[str, float]]:
        """A member's metrics, named ``<split>_<metric>``, and what its optimizer says of itself."""

    def take_steps(self, batches: Iterator[Any], until: int) -> None:
        """Train up to step ``until``; members whose losses are seen to have diverged part."""
        bound = self.task.worst["loss"]
        while self.live and self.steps < until:
            started = time.perf_counter()
            steps = min(LOSSES_PER_CHECK, until - self.steps)
            losses = torch.stack([self.step(next(batches)) for _ in range(steps)])
            sane = (losses.view(steps, -1) <= bound).all(0).tolist()  # not for NaN; waits for the device
            self.steps += steps
            share = (time.perf_counter() - started) / len(self.live)
            for member in self.live:
                self.seconds[member] += share
            self.part(member for member, fine in zip(list(self.live), sane, strict=True) if not fine)

    def part(self, members: Iterable[int]) -> None:
        """Stop the clocks of members and go on without them."""
        for member in list(members):
            self.live.remove(member)
            self.parted[member] = Clocks(
                self.steps, self.grad_equivalents, self.seconds[member], memory.peak_mb(self.task.device)
            )

    def evaluate(self, splits: tuple[str, ...]) -> dict[int, Evaluation]:
        """Of each live member."""
        epoch = self.steps / self.task.steps_per_epoch
        found = {member: self.look(member, splits) for member in self.live}
        return {
            member: Evaluation(self.steps, epoch, self.seconds[member], self.grad_equivalents, *looked)
            for member, looked in found.items()
        }


class Trainer(Lockstep):
    """One run."""

    def __init__(
        self, task: Task, make_optimizer: MakeOptimizer, hp: Hyperparameters, seed: int, engine: Engine, epochs: int
    ) -> None:
        super().__init__(task, members=1)
        torch.manual_seed(seed)  # dropout; weights and batches have generators of their own
        self.seed = seed
        self.runner = Runner(engine, task.build(seed).train())
        self.optimizer = make_optimizer(self.runner.exact.parameters(), hp)
        self.scheduler = engine.scheduler(self.optimizer, epochs * task.steps_per_epoch, task.steps_per_epoch)
        self._kind_of_step = self._plain_step
        if isinstance(self.optimizer, CurvatureOptimizer):
            self._kind_of_step = self._curvature_step
        elif _needs_closure(self.optimizer):
            self._kind_of_step = self._closure_step
        self.clip_grad_norm = engine.clip_grad_norm
        self._optimizer_mode("train")

    def batches(self, epochs: int) -> Iterator[Batch]:
        return all_batches(self.task, self.seed, epochs)

    def step(self, batch: Batch) -> Tensor:
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
        self.grad_equivalents = optimizer.grad_equivalents
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
        self.grad_equivalents += 1
        return loss.detach()

    def look(self, member: int, splits: tuple[str, ...]) -> tuple[dict[str, float], dict[str, float]]:
        self._optimizer_mode("eval")
        metrics = evaluate(self.task, self.runner.evaluated, splits)
        self._optimizer_mode("train")
        diagnostics: dict[str, float] = {}
        if isinstance(self.optimizer, CurvatureOptimizer) and self.steps:
            diagnostics = {name: float(value) for name, value in self.optimizer.diagnostics().items()}
        return metrics, diagnostics

    def _optimizer_mode(self, mode: str) -> None:
        """Schedule-free optimizers keep the weights to evaluate apart from those to train, and must be told."""
        switch = getattr(self.optimizer, mode, None)
        if callable(switch):
            switch()


def all_batches(task: Task, seed: int, epochs: int) -> Iterator[Batch]:
    return chain.from_iterable(task.batches(seed, epoch) for epoch in range(epochs))


def evaluate(task: Task, model: nn.Module, splits: tuple[str, ...]) -> dict[str, float]:
    """The metrics of some splits, named ``<split>_<metric>``."""
    return {f"{split}_{name}": value for split in splits for name, value in task.evaluate(model, split).items()}


def _needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _sane(metrics: dict[str, float], bound: float) -> bool:
    losses = (value for name, value in metrics.items() if name.endswith("_loss"))
    return all(map(math.isfinite, metrics.values())) and all(loss <= bound for loss in losses)

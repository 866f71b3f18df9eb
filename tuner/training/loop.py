"""The training loop, of one run or of a stack of them: evaluations, looks at losses, divergence, clocks, snapshots."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from tasks.base import Batch, Task
from tuner.machine import memory
from tuner.training import metrics

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
        analyze_every: K, to analyse the loss's curvature at evaluations 0, K, 2K, ... and the last; ``None`` for never.
    """

    epochs: int
    evaluations: int = 10
    test: bool = False
    analyze_every: int | None = None

    def analyzes(self, look: int, looks: int) -> bool:
        """Whether evaluation ``look`` of 0 to ``looks`` is with an analysis."""
        return self.analyze_every is not None and (look % self.analyze_every == 0 or look == looks)


@dataclass(frozen=True)
class Evaluation:
    """One look at a run: the clocks, the metrics, named ``<split>_<metric>``, and what the optimizer says of itself.

    Attributes:
        curvature: what an analysis found, see ``tuner.curvature.spectrum``.
        unanalyzed: why it did not find all, in a line.
    """

    step: int
    epoch: float
    seconds: float
    grad_equivalents: float
    metrics: dict[str, float]
    diagnostics: dict[str, float]
    curvature: list[tuple[str, int, float, float | None]] = field(default_factory=list)
    unanalyzed: str = ""


@dataclass
class Clocks:
    """Steps; gradient-equivalents, by counted FLOPs and by nominal costs; seconds of training (evaluation not counted,
    the device synchronised); and the peak memory in MB."""

    steps: int = 0
    grad_equivalents: float = 0.0
    nominal_grad_equivalents: float = 0.0
    seconds: float = 0.0
    peak_mem_mb: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """All that a run, or a stack, needs to go on later to the same numbers.

    Attributes:
        state: plain values and tensors, some of them the run's own: to be written down before the run goes on.
    """

    state: dict[str, Any]


@dataclass(frozen=True)
class Saving:
    """Where a run begins and how often it pauses for a ``Snapshot``.

    Attributes:
        state: a snapshot's; ``None`` for the beginning.
        every_s: seconds between snapshots; ``None`` for none.
    """

    state: dict[str, Any] | None = None
    every_s: float | None = None


NEVER = Saving()


class NotRestoredError(Exception):
    """A run cannot go on from this state: it is of something else."""


@dataclass(frozen=True)
class Result:
    """How a run ended. A diverged run has the task's worst values as its metrics.

    Attributes:
        cohort: how many members trained in lockstep with it, itself included.
        why: of a diverged run: what was not finite, or beyond the bound, its value, and the step.
    """

    status: Status
    metrics: dict[str, float]
    clocks: Clocks = field(default_factory=Clocks)
    cohort: int = 1
    why: str = ""


def in_lockstep(
    run: Lockstep, budget: Budget, saving: Saving = NEVER
) -> Generator[dict[int, Evaluation] | Snapshot, None, list[Result]]:
    """The loop, of one run or of a stack: pauses after each evaluation, of every member that has not diverged."""
    steps = budget.epochs * run.task.steps_per_epoch
    looks = min(budget.evaluations, steps)
    if saving.state is None:
        batches = run.batches(budget.epochs)
        evaluations = run.evaluate(("train", "val"), analyze=budget.analyzes(0, looks))
        worst = worst_of(run.task, evaluations[0].metrics, test=budget.test)
        looked = 0
        yield evaluations
    else:
        try:
            batches = run.restore(saving.state, budget.epochs)
            looked, worst = saving.state["looked"], saving.state["worst"]
        except Exception as error:
            raise NotRestoredError(str(error)) from error
    saved = time.monotonic()
    for look in range(looked + 1, looks + 1):
        until = math.ceil(steps * look / looks)
        while run.live and run.steps < until:
            run.take_steps(batches, min(until, run.steps + LOSSES_PER_CHECK))
            if saving.every_s is not None and run.live and time.monotonic() - saved >= saving.every_s:
                try:
                    state = run.state()
                except Exception:  # an optimizer's own: the run is worth more than its snapshot
                    saving = NEVER
                    continue
                yield Snapshot(state | {"looked": look - 1, "worst": worst})
                saved = time.monotonic()
        splits = ("train", "val", "test") if budget.test and until == steps else ("train", "val")
        evaluations = run.evaluate(splits, analyze=budget.analyzes(look, looks))
        run.part_diverged({member: found.metrics for member, found in evaluations.items()})
        evaluations = {member: evaluations[member] for member in run.live}
        if not evaluations:
            break
        yield evaluations
    run.part(dict.fromkeys(run.live, ""))
    return [
        Result("complete", evaluations[member].metrics, clocks, len(run.seconds))
        if member in evaluations
        else Result("diverged", dict(worst), clocks, len(run.seconds), run.why[member])
        for member, clocks in sorted(run.parted.items())
    ]


def worst_of(task: Task, names: Iterable[str], *, test: bool) -> dict[str, float]:
    """What a diverged run gets in place of these metrics, named ``<split>_<metric>``, and of those of the test split.

    Raises:
        UserError: the task does not say it of one of them.
    """
    of_each = {name: name.split("_", 1)[1] for name in names}
    values = metrics.worst(task, of_each.values())
    tested = {f"test_{metric}": value for metric, value in values.items()} if test else {}
    return {name: values[metric] for name, metric in of_each.items()} | tested


class Lockstep(ABC):
    """What one run and a stack of them share: takes steps, looks at losses and metrics, keeps the clocks.

    Attributes:
        steps, nominal_grad_equivalents: so far, of every member alike.
        seconds: of each member; of a stack's time each gets an equal share, so that seconds add up to what was spent.
        live: the members that are still training, by their numbers from 0.
        parted: the clocks of those that are not, when they ended.
        why: of those that have diverged, the reason.
    """

    optimizer: Any

    def __init__(self, task: Task, members: int, curvature_scale: float) -> None:
        """
        Args:
            curvature_scale: what nominal costs beyond a gradient a step are multiplied with, see ``training.flops``.
        """
        self.task = task
        self.curvature_scale = curvature_scale
        self.steps = 0
        self.nominal_grad_equivalents = 0.0
        self.seconds = [0.0] * members
        self.live = list(range(members))
        self.parted: dict[int, Clocks] = {}
        self.why: dict[int, str] = {}
        self._peak_before = 0.0
        memory.reset_peak(task.device)

    @property
    def grad_equivalents(self) -> float:
        """By counted FLOPs."""
        return self.steps + self.curvature_scale * (self.nominal_grad_equivalents - self.steps)

    @abstractmethod
    def batches(self, epochs: int) -> Iterator[Any]:
        """What ``step`` takes, for so many epochs, from the present step on."""

    @abstractmethod
    def step(self, batch: Any) -> Tensor:
        """One step; the losses before it, detached: 0-dim or (live members,)."""

    @abstractmethod
    def look(self, member: int, splits: tuple[str, ...]) -> tuple[dict[str, float], dict[str, float]]:
        """A member's metrics, named ``<split>_<metric>``, and what its optimizer says of itself."""

    @abstractmethod
    def lend(self, member: int) -> tuple[nn.Module, Any]:
        """A member's network, in full precision and not compiled, and its optimizer, to be left as they are."""

    @abstractmethod
    def own_state(self) -> dict[str, Any]:
        """Weights, buffers, optimizer and schedule."""

    @abstractmethod
    def restore_own(self, state: dict[str, Any]) -> None:
        """Make them what ``own_state`` said."""

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs in a run made with the same arguments."""
        return {
            "steps": self.steps,
            "nominal_grad_equivalents": self.nominal_grad_equivalents,
            "seconds": list(self.seconds),
            "live": list(self.live),
            "parted": {member: asdict(clocks) for member, clocks in self.parted.items()},
            "why": dict(self.why),
            "peak_mem_mb": self._peak_mb(),
            "own": self.own_state(),
            "random": _random_state(self.task.device),
        }

    def restore(self, state: dict[str, Any], epochs: int) -> Iterator[Any]:
        """Go on from a state; the batches that are left.

        Raises:
            ValueError: it is that of another run.
        """
        if len(state["seconds"]) != len(self.seconds):
            raise ValueError("the state is of another number of members")
        self.steps, self.nominal_grad_equivalents = state["steps"], state["nominal_grad_equivalents"]
        self.seconds, self.live = list(state["seconds"]), list(state["live"])
        self.parted = {member: Clocks(**clocks) for member, clocks in state["parted"].items()}
        self.why = dict(state["why"])
        self._peak_before = state["peak_mem_mb"]
        self.restore_own(state["own"])
        batches = self.batches(epochs)
        _set_random_state(state["random"], self.task.device)
        return batches

    def _peak_mb(self) -> float:
        return max(self._peak_before, memory.peak_mb(self.task.device))

    def take_steps(self, batches: Iterator[Any], until: int) -> None:
        """Train up to step ``until``; members whose losses are seen to have diverged part."""
        while self.live and self.steps < until:
            started = time.perf_counter()
            steps = min(LOSSES_PER_CHECK, until - self.steps)
            losses = torch.stack([self.step(next(batches)) for _ in range(steps)]).view(steps, -1)
            fine = losses <= self.bound  # not for NaN
            sane = fine.all(0).tolist()  # waits for the device
            before = self.steps
            self.steps += steps
            share = (time.perf_counter() - started) / len(self.live)
            for member in self.live:
                self.seconds[member] += share
            why = {}
            for place in [place for place, all_fine in enumerate(sane) if not all_fine]:
                first = fine[:, place].tolist().index(False)
                reason = metrics.beyond("the training loss", losses[first, place].item(), self.bound)
                why[self.live[place]] = f"{reason}, at step {before + first}"
            self.part(why)

    @property
    def bound(self) -> float:
        """On the training loss."""
        return self.task.worst["loss"]

    def part(self, why: Mapping[int, str]) -> None:
        """Stop the clocks of members and go on without them.

        Args:
            why: for each of them: why it has diverged; empty where it has not.
        """
        for member, reason in why.items():
            self.live.remove(member)
            self.parted[member] = Clocks(
                self.steps,
                self.grad_equivalents,
                self.nominal_grad_equivalents,
                self.seconds[member],
                self._peak_mb(),
            )
            if reason:
                self.why[member] = reason

    def part_diverged(self, found: Mapping[int, dict[str, float]]) -> None:
        """Go on without the members whose metrics say that they have diverged."""
        reasons = {member: metrics.divergence(own, self.bound) for member, own in found.items()}
        self.part({member: f"{reason}, at step {self.steps}" for member, reason in reasons.items() if reason})

    def evaluate(self, splits: tuple[str, ...], *, analyze: bool = False) -> dict[int, Evaluation]:
        """Of each live member.

        Args:
            analyze: the curvature too, of those whose metrics are sane.
        """
        epoch = self.steps / self.task.steps_per_epoch
        found = {member: self.look(member, splits) for member in self.live}
        sound = [m for m, (own, _) in found.items() if analyze and not metrics.divergence(own, self.bound)]
        analyzed = {member: self._analyzed(member) for member in sound}
        return {
            member: Evaluation(
                self.steps, epoch, self.seconds[member], self.grad_equivalents, *looked, *analyzed.get(member, ([], ""))
            )
            for member, looked in found.items()
        }

    def _analyzed(self, member: int) -> tuple[list[tuple[str, int, float, float | None]], str]:
        """What was found of a member's curvature, and what was not; the peak of the memory is that of training."""
        from tuner.curvature import spectrum

        self._peak_before = self._peak_mb()
        found = spectrum.look(self.task, *self.lend(member))
        memory.reset_peak(self.task.device)
        return found


def drained(run: Generator[Told, None, Ended], tell: Callable[[Told], object]) -> Ended:
    """What a training generator returns, after ``tell`` has been told of all that it yields."""
    while True:
        try:
            told = next(run)
        except StopIteration as stop:
            return stop.value
        tell(told)


def all_batches(task: Task, seed: int, epochs: int, done: int = 0) -> Iterator[Batch]:
    """The batches of all epochs but for the first ``done``."""
    epoch, skipped = divmod(done, task.steps_per_epoch)
    batches = chain.from_iterable(task.batches(seed, epoch) for epoch in range(epoch, epochs))
    for _ in range(skipped):
        next(batches)
    return batches


def copy_tensors(saved: Sequence[Tensor], to: Sequence[Tensor]) -> None:
    """
    Raises:
        ValueError: they are others.
    """
    if [tensor.shape for tensor in saved] != [tensor.shape for tensor in to]:
        raise ValueError("the saved tensors are of another network")
    with torch.no_grad():
        for tensor, content in zip(to, saved, strict=True):
            tensor.copy_(content)


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """Of PyTorch's global generators, which dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)

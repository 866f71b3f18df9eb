"""The training loop runs one training run or a stack of them: steps, evaluations, divergence, clocks, snapshots."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from optimizers.stacking.random_state import random_state, set_random_state
from tasks.base import Batch, Task
from tuner.machine import memory
from tuner.training import metrics
from tuner.training.records import (
    NEVER,
    Analyze,
    Budget,
    Clocks,
    Evaluation,
    Finding,
    NotRestoredError,
    Result,
    Saving,
    Snapshot,
)
from tuner.training.weights import weights_of

Yielded = TypeVar("Yielded")
Ended = TypeVar("Ended")

LOSSES_PER_CHECK = 20
"""Steps between readings of the losses: each waits for the device."""


def in_lockstep(
    run: Lockstep, budget: Budget, saving: Saving = NEVER
) -> Generator[dict[int, Evaluation] | Snapshot, None, list[Result]]:
    """The loop, of one run or of a stack: pauses after each evaluation, of every member that has not diverged."""
    steps = budget.epochs * run.task.steps_per_epoch
    last = min(budget.evaluations, steps)
    if saving.state is None:
        batches = run.batches(budget.epochs)
        evaluations = run.evaluate(("train", "val"), analyze=budget.analysis_at(0, last))
        worst = worst_of(run.task, evaluations[0].metrics, test=budget.test)
        evaluated = 0
        yield evaluations
    else:
        try:
            batches = run.restore(saving.state, budget.epochs)
            evaluated, worst = saving.state["evaluated"], saving.state["worst"]
        except Exception as error:
            raise NotRestoredError(str(error)) from error
    saved = time.monotonic()
    for number in range(evaluated + 1, last + 1):
        until = math.ceil(steps * number / last)
        while run.active and run.steps < until:
            run.take_steps(batches, min(until, run.steps + LOSSES_PER_CHECK))
            if saving.every_s is not None and run.active and time.monotonic() - saved >= saving.every_s:
                try:
                    state = run.state()
                except Exception:  # an optimizer's own: the run is worth more than its snapshot
                    saving = NEVER
                    continue
                yield Snapshot(state | {"evaluated": number - 1, "worst": worst})
                saved = time.monotonic()
        splits = ("train", "val", "test") if budget.test and until == steps else ("train", "val")
        evaluations = run.evaluate(splits, analyze=budget.analysis_at(number, last))
        run.retire_diverged({member: evaluation.metrics for member, evaluation in evaluations.items()})
        evaluations = {member: evaluations[member] for member in run.active}
        if not evaluations:
            break
        yield evaluations
    run.retire(dict.fromkeys(run.active, ""))
    weights = {member: run.weights(member) for member in evaluations} if budget.keep_weights else {}
    return [
        Result("complete", evaluations[member].metrics, clocks, len(run.seconds), weights=weights.get(member))
        if member in evaluations
        else Result("diverged", dict(worst), clocks, len(run.seconds), run.why[member])
        for member, clocks in sorted(run.retired.items())
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
    """What one run and a stack of them share: takes steps, reads losses and metrics, keeps the clocks.

    Attributes:
        steps: so far, of every member alike.
        nominal_grad_equivalents: each member's cost so far.
        seconds: of each member; of a stack's time each gets an equal share, so that seconds add up to what was spent.
        active: the members that are still training, by their numbers from 0.
        retired: the clocks of those that are not, when they ended.
        why: of those that have diverged, the reason.
    """

    optimizer: Any
    unsettled = 1
    """Steps of a kind, a refresh or another, before those that take the time that all later ones do."""

    def __init__(self, task: Task, members: int, curvature_scale: float) -> None:
        """
        Args:
            curvature_scale: what nominal costs beyond a gradient a step are multiplied with, see ``training.flops``.
        """
        self.task = task
        self.curvature_scale = curvature_scale
        self.steps = 0
        self.nominal_grad_equivalents = [0.0] * members
        self.seconds = [0.0] * members
        self.active = list(range(members))
        self.retired: dict[int, Clocks] = {}
        self.why: dict[int, str] = {}
        self._peak_before = 0.0
        memory.reset_peak(task.device)

    def grad_equivalents(self, member: int) -> float:
        """Its cost by counted FLOPs."""
        return self.steps + self.curvature_scale * (self.nominal_grad_equivalents[member] - self.steps)

    @abstractmethod
    def batches(self, epochs: int) -> Iterator[Any]:
        """What ``step`` takes, for so many epochs, from the present step on."""

    @abstractmethod
    def step(self, batch: Any) -> Tensor:
        """One step; the losses before it, detached: 0-dim or (active members,)."""

    @abstractmethod
    def evaluate_members(self, splits: tuple[str, ...]) -> dict[int, tuple[dict[str, float], dict[str, float]]]:
        """Each active member's metrics, named ``<split>_<metric>``, and what its optimizer says of itself."""

    @abstractmethod
    def member_model(self, member: int) -> tuple[nn.Module, Any]:
        """A member's network, in full precision and not compiled, and its optimizer, to be left as they are."""

    def weights(self, member: int) -> dict[str, Tensor]:
        """A copy of what a member was last evaluated with, or trained with since."""
        return weights_of(self.member_model(member)[0])

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
            "nominal_grad_equivalents": list(self.nominal_grad_equivalents),
            "seconds": list(self.seconds),
            "active": list(self.active),
            "retired": {member: asdict(clocks) for member, clocks in self.retired.items()},
            "why": dict(self.why),
            "peak_mem_mb": self._peak_mb(),
            "own": self.own_state(),
            "random": random_state(self.task.device),
        }

    def restore(self, state: dict[str, Any], epochs: int) -> Iterator[Any]:
        """Go on from a state; the batches that are left.

        Raises:
            ValueError: it is that of another run.
        """
        if len(state["seconds"]) != len(self.seconds):
            raise ValueError("the state is of another number of members")
        self.steps, self.nominal_grad_equivalents = state["steps"], list(state["nominal_grad_equivalents"])
        self.seconds, self.active = list(state["seconds"]), list(state["active"])
        self.retired = {member: Clocks(**clocks) for member, clocks in state["retired"].items()}
        self.why = dict(state["why"])
        self._peak_before = state["peak_mem_mb"]
        self.restore_own(state["own"])
        batches = self.batches(epochs)
        set_random_state(state["random"], self.task.device)
        return batches

    def _peak_mb(self) -> float:
        return max(self._peak_before, memory.peak_mb(self.task.device))

    def take_steps(self, batches: Iterator[Any], until: int) -> None:
        """Train up to step ``until``; members whose losses have diverged retire."""
        while self.active and self.steps < until:
            started = time.perf_counter()
            steps = min(LOSSES_PER_CHECK, until - self.steps)
            losses = torch.stack([self.step(next(batches)) for _ in range(steps)]).view(steps, -1)
            within = losses <= self.bound  # not for NaN
            all_within = within.all(0).tolist()  # waits for the device
            before = self.steps
            self.steps += steps
            share = (time.perf_counter() - started) / len(self.active)
            for member in self.active:
                self.seconds[member] += share
            why = {}
            for column in [column for column, sound in enumerate(all_within) if not sound]:
                first = within[:, column].tolist().index(False)
                reason = metrics.beyond("the training loss", losses[first, column].item(), self.bound)
                why[self.active[column]] = f"{reason}, at step {before + first}"
            self.retire(why)

    @property
    def bound(self) -> float:
        """On the training loss."""
        return self.task.worst["loss"]

    def retire(self, why: Mapping[int, str]) -> None:
        """Stop the clocks of members and go on without them.

        Args:
            why: for each of them: why it has diverged; empty where it has not.
        """
        for member, reason in why.items():
            self.active.remove(member)
            self.retired[member] = Clocks(
                self.steps,
                self.grad_equivalents(member),
                self.nominal_grad_equivalents[member],
                self.seconds[member],
                self._peak_mb(),
            )
            if reason:
                self.why[member] = reason

    def retire_diverged(self, values: Mapping[int, dict[str, float]]) -> None:
        """Go on without the members whose metrics say that they have diverged."""
        reasons = {member: metrics.divergence(of_member, self.bound) for member, of_member in values.items()}
        self.retire({member: f"{reason}, at step {self.steps}" for member, reason in reasons.items() if reason})

    def evaluate(self, splits: tuple[str, ...], *, analyze: Analyze | None = None) -> dict[int, Evaluation]:
        """Of each active member.

        Args:
            analyze: analyses the curvature of those whose metrics are sane.
        """
        epoch = self.steps / self.task.steps_per_epoch
        values = self.evaluate_members(splits)
        sane = [member for member, (of_member, _) in values.items() if not metrics.divergence(of_member, self.bound)]
        analyzed = {member: self._analyzed(member, analyze) for member in sane} if analyze else {}
        return {
            member: Evaluation(
                self.steps, epoch, self.seconds[member], self.grad_equivalents(member), *of_member,
                *analyzed.get(member, ([], "")),
            )
            for member, of_member in values.items()
        }  # fmt: skip

    def _analyzed(self, member: int, analyze: Analyze) -> tuple[list[Finding], str]:
        """What is known of a member's curvature, and what is not; the peak of the memory stays that of training."""
        self._peak_before = self._peak_mb()
        analyzed = analyze(self.task, *self.member_model(member))
        memory.forget_peak(self.task.device)
        return analyzed


def drained(run: Generator[Yielded, None, Ended], tell: Callable[[Yielded], object]) -> Ended:
    """What a training generator returns, after ``tell`` has been told of all that it yields."""
    while True:
        try:
            yielded = next(run)
        except StopIteration as stop:
            return stop.value
        tell(yielded)


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

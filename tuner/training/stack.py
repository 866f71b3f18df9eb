"""A stack trains several runs of one task and one optimizer in lockstep, as one stacked model. No Ray, no Optuna."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from optimizers.stacking.joined import OwnGradientsError
from optimizers.stacking.keys import each_key
from optimizers.stacking.per_member import BeginAgainError
from optimizers.stacking.random_state import OtherStreamsError
from optimizers.stacking.rule import stack_key
from optimizers.stacking.twin import RoundingDecidesError
from tasks.base import Task
from tuner.training.averaging import Averages
from tuner.training.captures import RECHECKED_EVALUATIONS, UNSETTLED_STACK
from tuner.training.engine import Engine
from tuner.training.isolation import ChangedProcessError, Unchanged
from tuner.training.loop import Lockstep, Yielded, copy_tensors, in_lockstep
from tuner.training.records import NEVER, Analyze, Budget, Evaluation, Result, Saving, Snapshot
from tuner.training.single import DEFAULTS, Hyperparameters, MakeOptimizer, Trainer
from tuner.training.stack_batches import StackBatch, stack_batches
from tuner.training.stack_optimizer import stack_optimizer
from tuner.training.stacked_evaluation import diagnostics_of_rows, evaluate_rows, way_of
from tuner.training.stacked_model import AtBatch, StackedModel
from tuner.training.watched_code import Code
from tuner.training.weights import weights_of

WORTH_DROPPING = 1 / 16
"""The share of a stack that must have diverged for the rest to go on as a smaller one, which is recorded anew."""


@dataclass(frozen=True)
class Member:
    """One training run of a cohort; what of training is among its hyperparameters is its own too."""

    hp: Hyperparameters
    seed: int


ALONE: WeakKeyDictionary[Task, dict[Hashable, str]] = WeakKeyDictionary()
"""Why optimizers of a key train one at a time on a task, as it was found out."""


def train(
    task: Task,
    make_optimizer: MakeOptimizer,
    members: Sequence[Member],
    budget: Budget,
    on_eval: Callable[[int, Evaluation], object] = lambda member, evaluation: None,
    engine: Engine = DEFAULTS,
) -> list[Result]:
    """Train each member as ``single.train`` would; ``on_eval`` is told of every evaluation and whose it is.

    Members that can be stacked train in lockstep, all others one at a time. So do those of a stack that fails: their
    evaluations then begin again, with step 0.
    """
    results: dict[int, Result] = {}

    def run(indices: list[int]) -> Iterator[dict[int, Evaluation] | Snapshot]:
        ended = yield from training(task, make_optimizer, [members[index] for index in indices], budget, engine)
        results.update(zip(indices, ended, strict=True))

    for stackable in stacks(task, make_optimizer, members, engine):
        for indices, yielded in together_or_singly(stackable, run, task.device):
            for member, evaluation in yielded.items() if isinstance(yielded, dict) else ():
                on_eval(indices[member], evaluation)
    return [results[index] for index in range(len(members))]


def together_or_singly(
    stackable: list[int], run: Callable[[list[int]], Iterator[Yielded]], device: torch.device
) -> Iterator[tuple[list[int], Yielded]]:
    """What ``run`` yields of members trained as one stack, and, once that fails, of each trained alone from step 0.

    A stack fails for want of memory, say, or of an operation's batching rule. One that found out how its members must
    step begins again.

    Args:
        stackable: the members, by their index.

    Yields:
        The indices of the members that ``run`` was called with, and what it yielded.

    Raises:
        Exception: that of a member trained alone.
    """
    begins_again = len(stackable) > 1
    while begins_again:
        try:
            yield from ((stackable, yielded) for yielded in run(stackable))
            return
        except Exception as error:
            begins_again = isinstance(error, BeginAgainError)
        release_memory(device)  # only now does no traceback hold it any more
    for index in stackable:
        yield from (([index], yielded) for yielded in run([index]))


def training(
    task: Task,
    make_optimizer: MakeOptimizer,
    members: Sequence[Member],
    budget: Budget,
    engine: Engine = DEFAULTS,
    saving: Saving = NEVER,
    curvature_scale: float = 1.0,
) -> Generator[dict[int, Evaluation] | Snapshot, None, list[Result]]:
    """One stack as a generator that pauses after each evaluation, of each member that goes on, and for snapshots, and
    returns the results.

    Args:
        members: as ``stacks`` put them together; a single one trains as ever.
        curvature_scale: see ``tuner.training.flops``.
    """
    with engine.settings():
        run: Lockstep
        if len(members) == 1:
            hp, seed = members[0].hp, members[0].seed
            run = Trainer(task, make_optimizer, hp, seed, engine, budget.epochs, curvature_scale)
        else:
            run = Stack(task, make_optimizer, members, engine, budget.epochs, curvature_scale)
        return (yield from in_lockstep(run, budget, saving))


def stacks(task: Task, make_optimizer: MakeOptimizer, members: Sequence[Member], engine: Engine) -> list[list[int]]:
    """Which members can train as one stack, by their numbers; one that cannot is alone."""
    if engine.compile or engine.channels_last or not members:
        return [[number] for number in range(len(members))]
    params = list(task.build(members[0].seed).parameters())
    by_key: dict[Hashable, list[int]] = {}
    for number, member in enumerate(members):
        try:
            optimizer = make_optimizer(params, member.hp)
        except Exception:  # it will be raised again where this member trains
            key = None
        else:
            key = member_key(optimizer, params, engine.of(member.hp))
        alone = key is None or key in ALONE.get(task, {})
        by_key.setdefault(("alone", number) if alone else key, []).append(number)
    return list(by_key.values())


def member_key(optimizer: torch.optim.Optimizer, params: Sequence[nn.Parameter], engine: Engine) -> Hashable | None:
    """What members of a stack of these parameters have in common; ``None`` for an optimizer that cannot be in one."""
    groups = getattr(optimizer, "param_groups", None) or []
    if engine.scheduled and any(not isinstance(group.get("lr"), float | int) for group in groups):
        return None
    whole = len(groups) == 1 and list(map(id, groups[0]["params"])) == list(map(id, params))
    return (stack_key(optimizer) if whole else None) or each_key(optimizer, params)


class Stack(Lockstep):
    """Members as one stacked model."""

    def __init__(
        self,
        task: Task,
        make_optimizer: MakeOptimizer,
        members: Sequence[Member],
        engine: Engine,
        epochs: int,
        curvature_scale: float = 1.0,
    ) -> None:
        super().__init__(task, len(members), curvature_scale)
        self.total_steps = epochs * task.steps_per_epoch
        self.engines = [engine.of(member.hp) for member in members]
        self.seeds = [member.seed for member in members]
        self.stacked = list(range(len(members)))
        self.model = StackedModel(task, engine, self.seeds)
        self.unsettled = 1 if self.model.captures is None else UNSETTLED_STACK
        self._unchanged = Unchanged(_functions(type(task)))
        own_params = self.model.own_params
        self.key = member_key(make_optimizer(own_params, members[0].hp), own_params, self.engines[0])
        hps = [member.hp for member in members]
        scheduled = any(own.scheduled for own in self.engines)
        self.optimizer = stack_optimizer(self.model, make_optimizer, hps, self.seeds, self.key, scheduled=scheduled)
        torch.manual_seed(members[0].seed)  # dropout
        self._averages = None if engine.ema is None else Averages(engine.ema, self.model.params)
        self._settle_training()
        self._active_rows: Tensor | None = None
        self._evaluations = 0

    @property
    def note(self) -> str:
        """What is to be known of how its members step and are evaluated, if anything."""
        why_apart = way_of(self.model).why_apart
        evaluated = f"its members are evaluated one by one ({why_apart})" if why_apart else ""
        return "; ".join(filter(None, [self.optimizer.note, evaluated]))

    def batches(self, epochs: int) -> Iterator[StackBatch]:
        return stack_batches(self.task, lambda: [self.seeds[member] for member in self.stacked], epochs, self.steps)

    def step(self, batch: StackBatch) -> Tensor:
        with self._alone_after(OwnGradientsError, OtherStreamsError, RoundingDecidesError, ChangedProcessError):
            losses = self.optimizer.step(AtBatch(self.model, batch), self._lr_factors(), self._max_grad_norm)
            if self.optimizer.steps == 1:
                self._unchanged.check()
        for member, cost in zip(self.stacked, self.optimizer.costs, strict=True):
            self.nominal_grad_equivalents[member] = cost
        if self._averages is not None:
            self._averages.update(self.model.params)
        return losses if self._active_rows is None else losses[self._active_rows]

    @contextmanager
    def _alone_after(self, *errors: type[Exception]) -> Iterator[None]:
        """Remember that optimizers of this key train alone once one of these was raised."""
        try:
            yield
        except errors as error:
            ALONE.setdefault(self.task, {})[self.key] = str(error)
            raise

    def _settle_training(self) -> None:
        """Find out which schedules and bounds there are in the stack; what all share is not kept for each."""
        engines = [self.engines[member] for member in self.stacked]
        bounds = [engine.clip_grad_norm for engine in engines]
        each = [math.inf if bound is None else bound for bound in bounds]
        dtype = self.model.params[0].dtype
        self._max_grad_norm = bounds[0] if len(set(bounds)) == 1 else self._of_each(each, dtype)
        schedules = {(engine.schedule, engine.warmup_epochs, engine.final_lr) for engine in engines}
        self._scheduled = engines[:1] if len(schedules) == 1 else engines

    def _lr_factors(self) -> list[float]:
        """Of the step to come: of all members, or of each."""
        step, steps, per_epoch = self.optimizer.steps, self.total_steps, self.task.steps_per_epoch
        return [own.lr_factor(step, steps, own.warmup_steps(steps, per_epoch)) for own in self._scheduled]

    def _of_each(self, numbers: list[float], dtype: torch.dtype) -> Tensor:
        """(members,)"""
        return torch.tensor(numbers, dtype=dtype, device=self.task.device)

    def own_state(self) -> dict[str, Any]:
        self.optimizer.switch("train")
        model = [tensor.detach() for tensor in (*self.model.params, *self.model.buffers)]
        return {
            "stacked": self.stacked,
            "model": model,
            "optimizer": self.optimizer.state_dict(),
            "evaluations": self._evaluations,
            "averages": None if self._averages is None else self._averages.state(),
        }

    def restore_own(self, state: dict[str, Any]) -> None:
        self._keep(state["stacked"])
        copy_tensors(state["model"], [*self.model.params, *self.model.buffers])
        self.optimizer.load_state_dict(state["optimizer"])
        self._evaluations = state["evaluations"]
        if self._averages is not None:
            self._averages.restore(state["averages"])
        self._settle_active()

    def evaluate(self, splits: tuple[str, ...], *, analyze: Analyze | None = None) -> dict[int, Evaluation]:
        self._evaluations += 1
        with self._alone_after(ChangedProcessError):
            self._unchanged.check()
        if self._evaluations in RECHECKED_EVALUATIONS:
            self.model.recheck_next_replay()
            self.optimizer.recheck_next_step()
        if self.steps:  # before, there are no other weights, and some optimizers know of none
            self.optimizer.switch("eval")
        return super().evaluate(splits, analyze=analyze)

    def member_model(self, member: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        row = self.stacked.index(member)
        self.model.load(row)
        return self.model.runner.exact, self.optimizer.member_optimizer(row)

    def evaluate_members(self, splits: tuple[str, ...]) -> dict[int, tuple[dict[str, float], dict[str, float]]]:
        """Before the first step members of a seed are one network."""
        rows = {member: self.stacked.index(member) for member in self.active}
        if not self.steps:
            first = {self.seeds[member]: row for member, row in reversed(rows.items())}
            rows = {member: first[self.seeds[member]] for member in rows}
        evaluated = list(dict.fromkeys(rows.values()))
        metrics = dict(zip(evaluated, evaluate_rows(self.model, self._evaluated, evaluated, splits), strict=True))
        diagnostics = diagnostics_of_rows(self.optimizer, evaluated) if self.steps else {}
        return {member: (metrics[row], diagnostics.get(row, {})) for member, row in rows.items()}

    def weights(self, member: int) -> dict[str, Tensor]:
        self.model.load(self.stacked.index(member), self._evaluated)
        return weights_of(self.model.runner.exact)

    @property
    def _evaluated(self) -> list[Tensor]:
        """The weights that evaluations see, (members, ...) each."""
        return self.model.params if self._averages is None else self._averages.tensors

    def retire(self, why: Mapping[int, str]) -> None:
        """Those that retire stay in the stack, and are evaluated no more, until enough have."""
        super().retire(why)
        if self.active and len(self.active) <= (1 - WORTH_DROPPING) * len(self.stacked):
            self._keep(self.active)
        self._settle_active()

    def _settle_active(self) -> None:
        """Have the rows of those that train on the device, not copied there at each step, if others are stacked too."""
        rows = [self.stacked.index(member) for member in self.active]
        all_train = len(rows) == len(self.stacked)
        self._active_rows = None if all_train else torch.tensor(rows, dtype=torch.int64, device=self.task.device)

    def _keep(self, members: list[int]) -> None:
        """Go on as a smaller stack."""
        if members == self.stacked:
            return
        rows = torch.tensor([self.stacked.index(member) for member in members], device=self.task.device)
        self.model.keep(rows)
        self.optimizer.keep(rows, self.model.params, self.model.buffer)
        if self._averages is not None:
            self._averages.keep(rows)
        self.stacked = list(members)
        self._settle_training()


@cache
def _functions(task: type[Task]) -> Code:
    return Code(task)


def release_memory(device: torch.device) -> None:
    """Give back what a stack that failed held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()

"""A single training run is a pure function: (task, optimizer, hyperparameters, seed) -> metrics. No Ray, no Optuna."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from optimizers import CurvatureOptimizer
from optimizers.closures import Closures, takes_closure
from optimizers.stacking.captured_run import CapturedRun
from optimizers.stacking.step_of_tensors import loading
from tasks.base import Batch, Task
from tuner.training.averaging import Averages
from tuner.training.captures import RECHECKED_EVALUATIONS, UNSETTLED_RUN, captures_of
from tuner.training.engine import Engine, Runner
from tuner.training.loop import Lockstep, all_batches, copy_tensors, drained, in_lockstep
from tuner.training.metrics import evaluate
from tuner.training.records import NEVER, Analyze, Budget, Evaluation, Result, Saving, Snapshot

Hyperparameters = dict[str, Any]
MakeOptimizer = Callable[[list[nn.Parameter], Hyperparameters], torch.optim.Optimizer]
"""Of a list, which can be gone through more than once."""

DEFAULTS = Engine()


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

    Hyperparameters of training (``train.schedule``, say) have the last word over the engine's options. A non-finite
    loss, or one beyond the task's bound, ends the run with status "diverged". Same seed, same machine,
    nothing beside it on the CPU: the same numbers to the bit.
    """
    run = training(task, make_optimizer, hp, seed, budget, engine)
    return drained(run, lambda yielded: on_eval(yielded) if isinstance(yielded, Evaluation) else None)


def training(
    task: Task,
    make_optimizer: MakeOptimizer,
    hp: Hyperparameters,
    seed: int,
    budget: Budget,
    engine: Engine = DEFAULTS,
    saving: Saving = NEVER,
) -> Generator[Evaluation | Snapshot, None, Result]:
    """``train`` as a generator that pauses after each evaluation, and for snapshots, and returns the result."""
    with engine.settings():
        run = in_lockstep(Trainer(task, make_optimizer, hp, seed, engine, budget.epochs), budget, saving)
        while True:
            try:
                yielded = next(run)
            except StopIteration as stop:
                return stop.value[0]
            yield yielded if isinstance(yielded, Snapshot) else yielded[0]


class Trainer(Lockstep):
    """One run."""

    def __init__(
        self,
        task: Task,
        make_optimizer: MakeOptimizer,
        hp: Hyperparameters,
        seed: int,
        engine: Engine,
        epochs: int,
        curvature_scale: float = 1.0,
    ) -> None:
        super().__init__(task, 1, curvature_scale)
        torch.manual_seed(seed)  # dropout; weights and batches have generators of their own
        self.seed = seed
        engine = engine.of(hp)
        self.runner = Runner(engine, task.build(seed).train())
        params = list(self.runner.exact.parameters())
        self.optimizer = make_optimizer(params, hp)
        self.scheduler = engine.scheduler(self.optimizer, epochs * task.steps_per_epoch, task.steps_per_epoch)
        self._kind_of_step = self._plain_step
        if isinstance(self.optimizer, CurvatureOptimizer):
            self._kind_of_step = self._curvature_step
        elif takes_closure(self.optimizer):
            self._kind_of_step, self._closures = self._closure_step, Closures(params)
        self.clip_grad_norm = engine.clip_grad_norm
        self._params = params
        self._averages = None if engine.ema is None else Averages(engine.ema, params)
        self._mode = ""
        captures = captures_of(task, engine)
        model = self.runner.exact
        self._captured = None
        if captures is not None:
            self._captured = CapturedRun(captures, model, self._loss, self.optimizer, scheduled=engine.scheduled)
        self.unsettled = 1 if captures is None else UNSETTLED_RUN
        self._evaluations = 0

    def batches(self, epochs: int) -> Iterator[Batch]:
        return all_batches(self.task, self.seed, epochs, self.steps)

    def own_state(self) -> dict[str, Any]:
        model = self.runner.exact
        self._optimizer_mode("train")
        return {
            "model": [tensor.detach() for tensor in (*model.parameters(), *model.buffers())],
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "averages": None if self._averages is None else self._averages.state(),
        }

    def restore_own(self, state: dict[str, Any]) -> None:
        model = self.runner.exact
        self._optimizer_mode("train")
        if self._captured is not None:
            self._captured.captures.clear()
        copy_tensors(state["model"], [*model.parameters(), *model.buffers()])
        with loading(self.optimizer):
            self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self._averages is not None:
            self._averages.restore(state["averages"])

    def step(self, batch: Batch) -> Tensor:
        self._optimizer_mode("train")
        loss = self._kind_of_step(batch)
        if self.scheduler is not None:
            self.scheduler.step()
        if self._averages is not None:
            self._averages.update(self._params)
        return loss

    def _curvature_step(self, batch: Batch) -> Tensor:
        optimizer = cast(CurvatureOptimizer, self.optimizer)
        if self._captured is not None:
            loss = self._captured.curvature_step(batch, self.clip_grad_norm)
        else:
            loss = optimizer.step(lambda: self._loss(batch, optimizer.refreshing), max_grad_norm=self.clip_grad_norm)
        self.nominal_grad_equivalents[0] = optimizer.grad_equivalents
        return loss

    def _plain_step(self, batch: Batch) -> Tensor:
        loss = self._gradient(batch)
        self.optimizer.step()
        return loss

    def _closure_step(self, batch: Batch) -> Tensor:
        """Of an optimizer that may read the loss, or take several gradients in a step, as LBFGS and SAM do."""
        loss = self._gradient(batch)
        if self._captured is not None and self._captured.allows_rule:  # of which it needs none
            self._captured.step()
            return loss
        self.optimizer.step(self._closures.make(loss, lambda: self._gradient(batch)))
        return loss

    def _gradient(self, batch: Batch) -> Tensor:
        """Sets the gradients; the loss, detached."""
        self.optimizer.zero_grad()
        if self._captured is not None and self._captured.allows_gradient:
            loss = self._captured.gradient(batch)
        else:
            loss, _ = self._loss(batch)
            loss.backward()
        if self.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.runner.exact.parameters(), self.clip_grad_norm)
        self.nominal_grad_equivalents[0] += 1
        return loss.detach()

    def _loss(self, batch: Sequence[Tensor], exact: bool = False) -> tuple[Tensor, Any]:
        """With the outputs, of the network in full precision or as it is trained."""
        return self.task.loss(self.runner.exact if exact else self.runner.trained, tuple(batch))

    def evaluate(self, splits: tuple[str, ...], *, analyze: Analyze | None = None) -> dict[int, Evaluation]:
        self._evaluations += 1
        if self._captured is not None and self._evaluations in RECHECKED_EVALUATIONS:
            self._captured.captures.recheck_next_replays()
        if self._mode:  # else there are no other weights yet, and some optimizers know of none
            self._optimizer_mode("eval")
        return super().evaluate(splits, analyze=analyze)

    def member_model(self, member: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        return self.runner.exact, self.optimizer

    def evaluate_members(self, splits: tuple[str, ...]) -> dict[int, tuple[dict[str, float], dict[str, float]]]:
        with self._evaluated_weights():
            metrics = evaluate(self.task, self.runner.evaluated, splits)
        diagnostics: dict[str, float] = {}
        if isinstance(self.optimizer, CurvatureOptimizer) and self.steps:
            diagnostics = {name: float(value) for name, value in self.optimizer.diagnostics().items()}
        return dict.fromkeys(self.active, (metrics, diagnostics))

    def weights(self, member: int) -> dict[str, Tensor]:
        with self._evaluated_weights():
            return super().weights(member)

    def _evaluated_weights(self) -> AbstractContextManager[None]:
        return nullcontext() if self._averages is None else self._averages.in_place_of(self._params)

    def _optimizer_mode(self, mode: str) -> None:
        """Schedule-free optimizers keep the weights to evaluate apart from those to train, and must be told."""
        if mode == self._mode:
            return
        self._mode = mode
        switch = getattr(self.optimizer, mode, None)
        if callable(switch):
            switch()

"""The winner of a search is an optimizer to train with: made of parameters, or lines of code to paste."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner import text
from tuner.config.carried import is_carried, receive
from tuner.config.classes import find
from tuner.config.schema import Config
from tuner.config.space import OptimizerConfig
from tuner.errors import UserError, nearest
from tuner.store.run import Run

if TYPE_CHECKING:
    import torch

    from tuner.training.calls import Calls
    from tuner.training.engine import Engine

SCHEDULES = {
    "cosine": "cosine schedule",
    "linear": "linear schedule",
    "wsd": "schedule constant but for the last fifth of the run, then linear,",
}


@dataclass(frozen=True)
class Best:
    """The winning configuration of one optimizer on one task.

    Attributes:
        run, config: the run that found it, and what that was asked to do.
        hp: the hyperparameters, as files have them.
        value: of the task's metric.
        trial: its number.
    """

    run: Run = field(repr=False)
    config: Config = field(repr=False)
    optimizer: str
    hp: dict[str, Any]
    value: float
    trial: int

    @property
    def task(self) -> str:
        """Its name."""
        return self.config.task.name

    @property
    def spec(self) -> OptimizerConfig:
        """The optimizer's class, fixed arguments and search space."""
        return self.config.optimizers[self.optimizer]

    def make(self, params: Iterable[Any]) -> torch.optim.Optimizer:
        """The optimizer.

        Args:
            params: parameters, or parameter groups.

        Raises:
            UserError: its class does not exist, or does not take the arguments.
        """
        return self._maker()(params)

    def _maker(self) -> Callable[[Iterable[Any]], torch.optim.Optimizer]:
        """What makes it, as often as one likes; the class is found for that."""
        from tuner.training.build import optimizer_maker

        receive(self.config, self.run.objects())
        make = optimizer_maker(self.optimizer, self.spec)
        return lambda params: make(list(params), self.hp)

    def code(self) -> str:
        """Lines that make it where they are pasted, of a ``model``; what they cannot do is said in comments."""
        calls = self._calls()
        comments = [f"each step: {calls.step}" + f", where closure() {calls.closure}" * bool(calls.closure)]
        comments += ["optimizer.train() before training, optimizer.eval() before each evaluation"] * calls.modes
        if around := self._around():
            comments.append(f"trained with: {', '.join(around)}")
        return "\n".join([self._import(), self._call(calls.params), *(f"# {comment}" for comment in comments)])

    def _calls(self) -> Calls:
        """How a training loop uses it; the class is imported for that."""
        from tuner.training.calls import Calls, calls

        try:
            make = self._maker()
            return calls(find(self.spec.class_), make, self.engine.clip_grad_norm)
        except Exception as error:  # of a class that is not here, or wants another network
            return Calls(f"as {self.spec.class_} wants it, which cannot be tried here ({text.fault(error)})")

    def _import(self) -> str:
        module, _, name = self.spec.class_.rpartition(".")
        if is_carried(self.spec.class_):
            return f"# {name}: defined in the notebook or script that searched"
        root = module.partition(".")[0]
        folders = self.config.module_folders
        own = [folder for folder in folders for suffix in ("", ".py") if Path(folder, root + suffix).exists()]
        return f"from {module} import {name}" + (f"  # in {own[0]}" if own else "")

    def _call(self, params: str) -> str:
        given = self.spec.arguments(self.hp)
        odd = {key: value for key, value in given.items() if not key.isidentifier() or keyword.iskeyword(key)}
        named = [f"{key}={value!r}" for key, value in given.items() if key not in odd]
        arguments = ", ".join([params, *named, *([f"**{odd!r}"] if odd else [])])
        return f"optimizer = {self.spec.class_.rpartition('.')[2]}({arguments})"

    @property
    def engine(self) -> Engine:
        """How it was trained: what the search set of training included."""
        from tuner.training.build import make_engine

        return make_engine(self.config).of(self.hp)

    def _around(self) -> list[str]:
        """What was done in training around it, where it is not the default: by the loop, not by the optimizer."""
        engine, warm_up = self.engine, self.engine.warmup_epochs
        done = {
            f"warm-up over {warm_up} {'of the run' if isinstance(warm_up, str) else 'epochs'}": warm_up,
            f"{SCHEDULES.get(engine.schedule)} to {engine.final_lr} of the learning rate": engine.schedule in SCHEDULES,
            f"gradient norm at most {engine.clip_grad_norm}": engine.clip_grad_norm,
            f"moving average of the weights with decay {engine.ema}, which was evaluated": engine.ema,
            f"precision {engine.precision}": engine.precision != "fp32",
            "channels_last": engine.channels_last,
            "torch.compile": engine.compile,
            "deterministic algorithms": engine.deterministic,
        }
        return [name for name, is_so in done.items() if is_so]


def best_of(run: Run, optimizer: str) -> Best:
    """The optimizer's best valid trial; while its search goes on, the best so far.

    Raises:
        UserError: the run has no such optimizer, or no valid trial of it.
    """
    config = run.config()
    if optimizer not in config.optimizers:
        raise UserError(f"{run.path}: unknown optimizer {optimizer!r}{nearest(optimizer, config.optimizers)}")
    entry = run.best_optimizers().get(optimizer)
    if entry is None:
        raise UserError(f"{run.path}: no trial of {optimizer} has ended")
    if entry["hp"] is None:
        lost = f"{entry['n_diverged']} diverged, {entry.get('n_failed', 0)} failed"
        raise UserError(f"{run.path}: {optimizer} has no valid trial: of {entry['n_trials']}, {lost}")
    return Best(run, config, optimizer, entry["hp"], entry["value"], entry["trial"])

"""The winner of a search is an optimizer to train with: made of parameters, or lines of code to paste."""

from __future__ import annotations

import keyword
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner import text
from tuner.config.classes import find
from tuner.config.registry import reach
from tuner.config.schema import EngineOptions
from tuner.config.space import OptimizerConfig
from tuner.errors import UserError, nearest
from tuner.store.run import Run

if TYPE_CHECKING:
    import torch

    from tuner.training.calls import Calls

NOTEBOOK = "__main__"


@dataclass(frozen=True)
class Best:
    """The winning configuration of one optimizer on one task.

    Attributes:
        hp: the hyperparameters, as files have them.
        value: of the task's metric.
        trial: its number.
        engine: with which options it was trained.
        configs: the folder of ``--configs``, where Python finds the class too.
    """

    task: str
    optimizer: str
    spec: OptimizerConfig
    hp: dict[str, Any]
    value: float
    trial: int
    engine: EngineOptions
    configs: str | None

    def make(self, params: Iterable[Any]) -> torch.optim.Optimizer:
        """The optimizer.

        Args:
            params: parameters, or parameter groups.

        Raises:
            UserError: its class does not exist, or does not take the arguments.
        """
        from tuner.training.build import optimizer_maker

        reach(self.configs)
        return optimizer_maker(self.optimizer, self.spec)(list(params), self.hp)

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

        reach(self.configs)
        try:
            return calls(find(self.spec.class_), self.make, self.engine.clip_grad_norm)
        except Exception as error:  # of a class that is not here, or wants another network
            return Calls(f"as {self.spec.class_} wants it, which cannot be tried here ({text.fault(error)})")

    def _import(self) -> str:
        module, _, name = self.spec.class_.rpartition(".")
        if module == NOTEBOOK:
            return f"# {name}: defined in the notebook or script that searched"
        root = module.partition(".")[0]
        own = [Path(self.configs, root + suffix) for suffix in ("", ".py")] if self.configs else []
        return f"from {module} import {name}" + f"  # in {self.configs}" * any(path.exists() for path in own)

    def _call(self, params: str) -> str:
        given = self.spec.arguments(self.hp)
        odd = {key: value for key, value in given.items() if not key.isidentifier() or keyword.iskeyword(key)}
        named = [f"{key}={value!r}" for key, value in given.items() if key not in odd]
        arguments = ", ".join([params, *named, *([f"**{odd!r}"] if odd else [])])
        return f"optimizer = {self.spec.class_.rpartition('.')[2]}({arguments})"

    def _around(self) -> list[str]:
        """What was done in training around it, where it is not the default."""
        engine = self.engine
        done = {
            f"warm-up over {engine.warmup_epochs} epochs": engine.warmup_epochs,
            f"cosine schedule to {engine.final_lr} of the learning rate": engine.schedule == "cosine",
            f"gradient norm at most {engine.clip_grad_norm}": engine.clip_grad_norm,
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
    return Best(
        config.task.name, optimizer, config.optimizers[optimizer], entry["hp"], entry["value"], entry["trial"],
        config.train, config.configs,
    )  # fmt: skip

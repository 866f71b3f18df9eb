"""One Optuna study per (task, optimizer): asks for hyperparameters, is told what became of them."""

from __future__ import annotations

import time
import warnings
from concurrent.futures import Executor, Future
from itertools import takewhile
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from tuner.jobs import Done, Job, Outcome
from tuner.schema import Config, Dimension, OptimizerConfig

optuna.logging.set_verbosity(optuna.logging.ERROR)

PATIENCE_S = 30.0
"""How long a study.db that another program has locked is waited for at the end."""
BOUNDARY = 0.05
"""A best value in this outer share of its range is reported as at the boundary."""


class OptimizerStudy:
    """The search of one optimizer's hyperparameters.

    Every trial that was asked for is told: a diverged one with the task's worst value, never NaN; a failed one as FAIL.
    The study itself is kept in memory, where to ask takes a millisecond and not twenty. Trials that have ended go to
    the storage, in the order of their numbers, by the writer.

    Args:
        storage: where the finished trials are kept.
        startup: trials to draw at random before those that learn.
        writer: of one thread, which the storage's owner shuts down.

    Attributes:
        best: the best trial that ran to the end of its budget, with its value; None as long as there is none.
    """

    def __init__(
        self, config: Config, optimizer: str, storage: optuna.storages.BaseStorage, startup: int, writer: Executor
    ) -> None:
        self.config = config
        self.optimizer = optimizer
        self.spec: OptimizerConfig = config.optimizers[optimizer]
        self.total = config.search.trials
        self.asked = 0
        self.counts = {"complete": 0, "diverged": 0, "failed": 0, "stopped": 0}
        self.best: tuple[Job, float] | None = None
        self._running: dict[int, optuna.Trial] = {}
        self._distributions = {name: distribution(dim) for name, dim in self.spec.space.items()}
        direction = "minimize" if config.task.mode == "min" else "maximize"
        sampler = make_sampler(config.search.sampler, config.search.seed, startup)
        self._study = optuna.create_study(direction=direction, sampler=sampler)
        self._record = optuna.create_study(
            storage=storage, study_name=study_name(config.task.name, optimizer), direction=direction
        )
        self._writer = writer
        self._written = 0
        self._writing: Future[None] | None = None
        self._fault = ""
        for point in self.spec.enqueued()[: self.total]:
            self._study.enqueue_trial(point)

    @property
    def done(self) -> int:
        return sum(self.counts.values())

    @property
    def recorded(self) -> bool:
        """Whether all that has ended is in the storage."""
        return self._written == self.done

    @property
    def running(self) -> int:
        return len(self._running)

    def ask(self, most: int) -> list[Job]:
        """The next trials of the search, at most so many, chosen without knowing each other's results."""
        return [self._ask() for _ in range(min(most, self.total - self.asked))]

    def _ask(self) -> Job:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self._study.ask(self._distributions)
        self.asked += 1
        self._running[trial.number] = trial
        return Job("search", self.optimizer, trial.number, self.config.search.seed, dict(trial.params))

    def tell(self, done: Done) -> None:
        """What became of trials that ``ask`` returned."""
        for job, outcome in done:
            self._tell(job, outcome)

    def _tell(self, job: Job, outcome: Outcome) -> None:
        trial = self._running.pop(job.trial)
        self.counts[outcome.state] += 1
        trial.set_user_attr("state", outcome.state)
        if outcome.state == "failed":
            self._study.tell(trial, state=TrialState.FAIL)
            return
        value = outcome.metrics[self.config.task.metric]
        if outcome.state == "stopped":
            # TPE ranks pruned trials by their last value, after those that ran to the end.
            trial.report(value, step=int(outcome.clocks["steps"]))
            self._study.tell(trial, state=TrialState.PRUNED)
            return
        self._study.tell(trial, value)
        if outcome.state == "complete" and (self.best is None or self._better(value, self.best[1])):
            self.best = (job, value)

    def close(self) -> str:
        """Fail what still runs, nobody owns it any more, and see everything written; what is wrong if it cannot be."""
        for trial in self._running.values():
            self._study.tell(trial, state=TrialState.FAIL)
        self._running.clear()
        until = time.monotonic() + PATIENCE_S
        while not self.write():
            if time.monotonic() > until:
                left = len(self._study.trials) - self._written
                return f"study.db lacks {left} trials of {self.optimizer} ({self._fault})"
            time.sleep(0.05)
        return ""

    def write(self) -> bool:
        """Have the writer put what has ended into the storage, where it is ready; whether all is there."""
        if self._writing is not None:
            if not self._writing.done():
                return False
            fault = self._writing.exception()
            self._fault = "" if fault is None else " ".join(str(fault).split())
            self._writing = None
        finished = list(takewhile(lambda trial: trial.state.is_finished(), self._left()))
        if finished:
            self._writing = self._writer.submit(self._add, finished)
        return not finished

    def _add(self, trials: list[FrozenTrial]) -> None:
        """One by one: each is there as a whole or not at all."""
        for trial in trials:
            self._record.add_trial(trial)
            self._written += 1

    def _left(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)[self._written :]

    def summary(self) -> dict[str, Any]:
        """The optimizer's entry in best.json; hp, value and trial are None where no trial was valid."""
        job, value = self.best if self.best else (None, None)
        return {
            "hp": job.hp if job else None,
            "value": value,
            "trial": job.trial if job else None,
            "n_trials": self.done,
            "n_diverged": self.counts["diverged"],
            "n_failed": self.counts["failed"],
            "at_boundary": at_boundary(self.spec, job.hp) if job else [],
        }

    def _better(self, value: float, than: float) -> bool:
        return value < than if self.config.task.mode == "min" else value > than


def study_name(task: str, optimizer: str) -> str:
    """The study's name in study.db."""
    return f"{task}/{optimizer}"


def at_boundary(spec: OptimizerConfig, hp: dict[str, Any]) -> list[str]:
    """The hyperparameters whose value lies in the outer 5 % of their range, on the searched scale."""
    positions = {name: dim.position(hp[name]) for name, dim in spec.space.items()}
    return [name for name, p in positions.items() if p is not None and not BOUNDARY <= p <= 1 - BOUNDARY]


def distribution(dim: Dimension) -> BaseDistribution:
    """Optuna's form of a dimension of the search space."""
    if dim.choices is not None:
        return CategoricalDistribution(dim.choices)
    assert dim.low is not None and dim.high is not None
    if dim.integer:
        return IntDistribution(int(dim.low), int(dim.high), log=dim.log)
    return FloatDistribution(dim.low, dim.high, log=dim.log)


def make_sampler(name: str, seed: int, startup: int) -> BaseSampler:
    """The sampler of that name. Each study has its own, from the same seed.

    Args:
        startup: trials to draw at random before those that learn.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "tpe":
                return TPESampler(seed=seed, n_startup_trials=startup)
            case "gp":
                return GPSampler(seed=seed, n_startup_trials=startup)
            case "qmc":
                return QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
            case "random":
                return RandomSampler(seed=seed)
    raise ValueError(f"unknown sampler {name!r}")

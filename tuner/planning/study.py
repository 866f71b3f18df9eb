"""The study of one optimizer asks for hyperparameters, is told what became of them, and knows the best. No Ray."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, get_args

import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from tuner.config.boundary import at_boundary
from tuner.config.schema import LEARNING, Config
from tuner.config.space import OptimizerConfig
from tuner.errors import UserError
from tuner.jobs import Job, Outcome, State
from tuner.planning.samplers import draw_seed, make_sampler, sampling_seed
from tuner.planning.study_db import STATE, OpenStorage, StudyDatabase, orphans
from tuner.store.optuna_space import distribution, hyperparameters, params
from tuner.store.tables import HP, Row

STATES = {
    "complete": TrialState.COMPLETE, "diverged": TrialState.COMPLETE, "failed": TrialState.FAIL,
    "stopped": TrialState.PRUNED,
}  # fmt: skip
ANY_TRIAL = create_trial(state=TrialState.WAITING)
ABANDONED_AFTER = 5
"""The searches of an optimizer are given up when so many of its trials have ended and all of them failed."""


@dataclass
class SinceStart:
    """How many trials of an optimizer, of all its studies, this command saw end."""

    ended: int = 0
    failed: int = 0


class OptimizerStudy:
    """One independent search of one optimizer's hyperparameters.

    Every trial that was asked for is told: a diverged one with the task's worst value, never NaN; a failed one as FAIL.
    The study is kept in memory, where to ask takes a millisecond and not twenty, and ``database`` writes it down. What
    is drawn for a trial depends on the search seed, the trial's number and what the study knows, so that a search that
    was cut off goes on as if it had not been.

    Args:
        number: which of the optimizer's studies it is.
        startup: trials to draw at random before those that learn.
        writer: of one thread, for study.db.
        asked: hyperparameters of the trials that earlier commands began, by number.
        rows: the study's rows of trials.csv, as text, which earlier commands wrote.
        since_start: shared with the optimizer's other studies.

    Attributes:
        best: the best trial that ran to the end of its budget, with its value; None as long as there is none.
        database: the study in study.db.
    """

    def __init__(
        self,
        config: Config,
        optimizer: str,
        number: int,
        storage: OpenStorage,
        startup: int,
        writer: Executor,
        asked: Mapping[int, dict[str, Any]] | None = None,
        rows: Sequence[Row] = (),
        since_start: SinceStart | None = None,
    ) -> None:
        self.config = config
        self.optimizer = optimizer
        self.number = number
        self.spec: OptimizerConfig = config.optimizers[optimizer]
        self.total = config.trials(optimizer)
        self.asked = 0
        self.counts = dict.fromkeys(get_args(State), 0)
        self.best: tuple[Job, float] | None = None
        self._since_start = since_start or SinceStart()
        self._running: dict[int, optuna.Trial] = {}
        self._distributions = {name: distribution(dim) for name, dim in self.spec.space.items()}
        self._startup = startup
        shared = config.search.draws == "shared"
        self._sampling_seed = sampling_seed(None if shared else config.task.name, config.search_seed(number))
        self._random_sampler, self._n_random = RandomSampler(seed=self._sampling_seed), 0
        self._resumed: set[int] = set()
        name = study_name(config.task.name, optimizer, number)
        self._study = optuna.create_study(
            study_name=name, direction="minimize" if config.task.mode == "min" else "maximize"
        )
        self.database = StudyDatabase(self._study, storage, writer)
        known = self._restore(rows, asked or {}, orphans(storage, name) if rows or asked else set())
        for point in self.spec.enqueued()[: self.total]:
            if not any(point.items() <= hp.items() for hp in known):
                self._study.enqueue_trial(params(point))

    def _restore(
        self, rows: Sequence[Row], asked: Mapping[int, dict[str, Any]], orphans: set[int]
    ) -> list[dict[str, Any]]:
        """Put what earlier commands did into the study; the hyperparameters that they tried.

        Trials that have not ended are asked for again first. One that nobody knows anything of fails and costs nothing.

        Raises:
            UserError: a row is not of this search space.
        """
        ended = {int(row["trial"]): row for row in rows}
        try:
            hp = {number: self._hp(row) for number, row in ended.items()}
            frozen = {number: self._frozen(row, hp[number]) for number, row in ended.items()}
        except (ValueError, LookupError) as error:
            raise UserError(
                f"trials.csv: {self.optimizer} has a trial that the search space does not: {error}"
            ) from None
        begun = {number: values for number, values in asked.items() if number not in ended and number not in orphans}
        for number in range(max([*ended, *begun, *orphans], default=-1) + 1):
            if number in ended:
                self._study.add_trial(frozen[number])
            elif number in begun:
                self._study.enqueue_trial(params(begun[number]))
            else:
                self._study.add_trial(create_trial(state=TrialState.FAIL))
        for number, row in ended.items():  # in the order in which they ended: of equals the first is the best
            self._count(self._job(number, hp[number]), row["state"], float(row.get("value", "nan")))
        self.asked, self._resumed = len(ended), set(begun)
        return [*hp.values(), *begun.values()]

    def _hp(self, row: Row) -> dict[str, Any]:
        columns = {name: f"{HP}{name}" for name in self.spec.space}
        return {name: self.spec.space[name].parse(row[column]) for name, column in columns.items() if column in row}

    def _frozen(self, row: Row, hp: dict[str, Any]) -> FrozenTrial:
        """A trial that ended, from its row."""
        state = STATES[row["state"]]
        intermediate = {int(row["steps"]): float(row["value"])} if row["state"] == "stopped" else {}
        return create_trial(
            state=state,
            value=None if state == TrialState.FAIL else float(row["value"]),
            params=params(hp),
            distributions={name: self._distributions[name] for name in hp},
            user_attrs={STATE: row["state"]},
            intermediate_values=intermediate,
        )

    @property
    def done(self) -> int:
        return sum(self.counts.values())

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def abandoned(self) -> bool:
        """Whether all of the optimizer's trials fail, so that more would, too."""
        return self._since_start.failed == self._since_start.ended >= ABANDONED_AFTER

    @property
    def asks(self) -> bool:
        """Whether there are trials to begin."""
        return self.asked < self.total and not self.abandoned

    @property
    def over(self) -> bool:
        return not self.asks and not self._running

    def ask(self) -> Job:
        """The next trial, chosen without knowing the results of those that run."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = self._sampler()
            trial = self._study.ask(self._distributions)
        self._n_random += self._study.sampler is self._random_sampler and trial.number not in self._resumed
        self.asked += 1
        self._running[trial.number] = trial
        return self._job(trial.number, hyperparameters(self.spec, trial.params))

    def _sampler(self) -> BaseSampler:
        """For the next trial. Those that are drawn at random take their turns in one stream, the search seed's; a trial
        that learns, and a published default that leaves something open, has a seed of its own."""
        search, points = self.config.search, len(self.spec.enqueued()[: self.total])
        at_random = search.sampler == "random" or (search.sampler in LEARNING and self.asked < self._startup)
        if not at_random:
            return make_sampler(search.sampler, self._sampling_seed, self.asked, self._startup)
        if self.asked < points:
            return RandomSampler(seed=draw_seed(self._sampling_seed, self.asked))
        for _ in range(self.asked - points - self._n_random):
            for name, searched in self._distributions.items():
                self._random_sampler.sample_independent(self._study, ANY_TRIAL, name, searched)
        self._n_random = self.asked - points
        return self._random_sampler

    def _job(self, number: int, hp: dict[str, Any]) -> Job:
        return Job("search", self.optimizer, number, self.config.search_seed(self.number), hp, self.number)

    def tell(self, job: Job, outcome: Outcome) -> None:
        """What became of a trial that ``ask`` returned."""
        trial = self._running.pop(job.trial)
        value = outcome.metrics.get(self.config.task.metric, math.nan)
        self._count(job, outcome.state, value)
        self._since_start.ended += 1
        self._since_start.failed += outcome.state == "failed"
        trial.set_user_attr(STATE, outcome.state)
        if outcome.state == "stopped":
            # TPE ranks pruned trials by their last value, after those that ran to the end.
            trial.report(value, step=int(outcome.clocks["steps"]))
        state = STATES[outcome.state]
        self._study.tell(trial, value if state == TrialState.COMPLETE else None, state=state)

    def _count(self, job: Job, state: str, value: float) -> None:
        self.counts[state] += 1
        if state == "complete" and (self.best is None or self._better(value, self.best[1])):
            self.best = (job, value)

    def summary(self) -> dict[str, Any]:
        """The study's entry in best.json; hp, value and trial are None where no trial was valid."""
        job, value = self.best if self.best else (None, None)
        return {
            "study": self.number,
            "seed": self.config.search_seed(self.number),
            "hp": job.hp if job else None,
            "value": value,
            "trial": job.trial if job else None,
            "n_trials": self.done,
            "n_diverged": self.counts["diverged"],
            "n_failed": self.counts["failed"],
            "at_boundary": at_boundary(self.spec.space, job.hp) if job else [],
        }

    def _better(self, value: float, than: float) -> bool:
        return value < than if self.config.task.mode == "min" else value > than


def study_name(task: str, optimizer: str, number: int) -> str:
    """The study's name in study.db."""
    return f"{task}/{optimizer}/study-{number}" if number else f"{task}/{optimizer}"

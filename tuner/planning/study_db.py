"""study.db is written behind an optimizer's study, which lives in memory, by a thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from itertools import takewhile

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

PATIENCE_S = 30.0
"""How long a study.db that another program has locked is waited for at the end."""
STATE = "state"
"""The user attribute that trials.csv's state becomes; a trial without it is nobody's."""

OpenStorage = Callable[[], optuna.storages.BaseStorage]


def orphans(storage: OpenStorage, name: str) -> set[int]:
    """Numbers of the stored study's trials that no row of trials.csv can stand for: of another program, or cut off."""
    try:
        trials = optuna.load_study(study_name=name, storage=storage()).get_trials(deepcopy=False)
    except Exception:  # there is none yet, or it cannot be read; the search does not need it
        return set()
    return {t.number for t in trials if STATE not in t.user_attrs and t.state != TrialState.WAITING}


class StudyDatabase:
    """Puts the trials of a study that have ended into a storage, under the same numbers, by a thread.

    A storage that is locked, or whose disk is full, holds nothing up: trials are tried again. What it says is running,
    of a process that is no more, fails.

    Args:
        study: in memory; its name is that in the storage.
        storage: opens the storage; the writer calls it.
        writer: of one thread.
    """

    def __init__(self, study: optuna.Study, storage: OpenStorage, writer: Executor) -> None:
        self._study = study
        self._storage = storage
        self._writer = writer
        self._stored: StoredStudy | None = None
        self._written = 0
        self._writing: Future[None] | None = None
        self._fault = ""

    def write(self, *, last: bool = False) -> bool:
        """Have the writer put what has ended into the storage, where it is ready; whether all is there.

        Args:
            last: trials that still run, of a run that was interrupted, wait in the storage, where others with higher
                numbers have ended.
        """
        if self._writing is not None:
            if not self._writing.done():
                return False
            fault = self._writing.exception()
            self._fault = "" if fault is None else reason(fault)
            self._writing = None
        due = self._due(last)
        if due:
            self._writing = self._writer.submit(self._add, due)
        return not due

    def close(self, patience_s: float = PATIENCE_S) -> str:
        """See everything written; what is wrong if it cannot be."""
        until = time.monotonic() + patience_s
        while not self.write(last=True):
            if time.monotonic() > until:
                return f"study.db lacks {len(self._due(last=True))} trials of {self._study.study_name} ({self._fault})"
            time.sleep(0.05)
        return ""

    def _due(self, last: bool) -> list[FrozenTrial]:
        unwritten = self._study.get_trials(deepcopy=False)[self._written :]
        if not last:
            return list(takewhile(lambda trial: trial.state.is_finished(), unwritten))
        finished = (number for number, trial in enumerate(unwritten, start=1) if trial.state.is_finished())
        return unwritten[: max(finished, default=0)]

    def _add(self, trials: list[FrozenTrial]) -> None:
        if self._stored is None:
            self._stored = StoredStudy(self._storage(), self._study)
        for trial in trials:
            self._stored.put(trial)
            self._written += 1


def reason(fault: BaseException) -> str:
    """What the database says, without what Optuna and SQLAlchemy put around it."""
    cause = fault.__cause__ or fault
    return " ".join(str(getattr(cause, "orig", cause)).split())


class StoredStudy:
    """The study in the storage."""

    def __init__(self, storage: optuna.storages.BaseStorage, study: optuna.Study) -> None:
        self.storage = storage
        direction, name = study.direction, study.study_name
        self.study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
        self.study_id = storage.get_study_id_from_name(name)
        self.states = [trial.state for trial in self.study.get_trials(deepcopy=False)]
        for number, state in enumerate(self.states):
            if state == TrialState.RUNNING:
                self.study.tell(number, state=TrialState.FAIL)
                self.states[number] = TrialState.FAIL

    def put(self, trial: FrozenTrial) -> None:
        """A new trial is there as a whole or not at all."""
        if trial.number >= len(self.states):
            self.study.add_trial(trial if trial.state.is_finished() else waiting(trial))
            self.states.append(trial.state)
        elif not self.states[trial.number].is_finished() and trial.state.is_finished():
            self._finish(trial)

    def _finish(self, trial: FrozenTrial) -> None:
        """One that waited."""
        storage = self.storage
        trial_id = storage.get_trial_id_from_study_id_trial_number(self.study_id, trial.number)
        for name, distribution in trial.distributions.items():
            value = distribution.to_internal_repr(trial.params[name])
            storage.set_trial_param(trial_id, name, value, distribution)
        for name, attribute in trial.user_attrs.items():
            storage.set_trial_user_attr(trial_id, name, attribute)
        for step, value in trial.intermediate_values.items():
            storage.set_trial_intermediate_value(trial_id, step, value)
        storage.set_trial_state_values(trial_id, trial.state, trial.values)
        self.states[trial.number] = trial.state


def waiting(trial: FrozenTrial) -> FrozenTrial:
    """A trial that has not ended, as one that somebody will do."""
    attributes = {"fixed_params": trial.params} | trial.system_attrs
    return create_trial(state=TrialState.WAITING, system_attrs=attributes)

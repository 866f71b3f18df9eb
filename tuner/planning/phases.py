"""The two phases of a run, search and retraining, say which jobs are next and record what became of them. No Ray."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tuner.config.schema import Config
from tuner.jobs import Done, Job, Outcome
from tuner.planning.cohorts import CohortSizes
from tuner.planning.looking import Looking
from tuner.planning.progress import Progress
from tuner.planning.study import OptimizerStudy, SinceStart
from tuner.planning.study_db import OpenStorage
from tuner.store.background import BackgroundThread
from tuner.store.columns import STUDY
from tuner.store.extent import Extent
from tuner.store.run import Run
from tuner.store.seed_rows import Retraining, current_rows, missing_runs
from tuner.store.tables import hp_columns
from tuner.store.winners import entry_of

MAX_DATABASE_LAG_S = 5.0
"""How far study.db may lag behind trials.csv."""


class Search:
    """The search phase: the studies of all optimizers, all that are open under way at once.

    It goes on from what the run directory has of an earlier command.

    Attributes:
        studies: by optimizer and number.
    """

    def __init__(self, config: Config, run: Run, storage: OpenStorage, sizes: CohortSizes, looking: Looking) -> None:
        self.config = config
        self.run = run
        self.looking = looking
        writer = BackgroundThread()
        rows, asked = run.trial_rows(), run.asked()
        rows_of = defaultdict(list)
        for row in rows:
            rows_of[row["optimizer"], int(row[STUDY])].append(row)
        since_start = {name: SinceStart() for name in config.optimizers}
        self.studies = {
            (name, number): OptimizerStudy(
                config, name, number, storage, sizes.startup(name), writer,
                asked.get((name, number)), rows_of[name, number], since_start[name],
            )
            for name in config.optimizers for number in config.studies
        }  # fmt: skip
        self.sizes = sizes
        self.last_write = time.monotonic()
        if run.has_trials():
            run.write_trials(rows, config.hyperparameters)
        if rows:
            self.write_best()

    def next_jobs(self) -> list[Job]:
        """A cohort of the optimizer with the fewest trials under way, of all its studies, those with the fewest first,
        so that each learns from its own soon."""
        open_studies, extent = defaultdict(list), self.looking.open
        for study in self.studies.values():
            if study.asks and extent.includes(study.optimizer, study.number):
                open_studies[study.optimizer].append(study)
        if not open_studies:
            return []
        name = min(open_studies, key=self._under_way)
        studies = open_studies[name]
        asked, running = [study.asked for study in studies], sum(study.running for study in studies)
        size = self.sizes.to_ask(name, asked, running, alone=len(open_studies) == 1)
        jobs: list[Job] = []
        while len(jobs) < size and any(study.asks for study in studies):
            asking = min((study for study in studies if study.asks), key=lambda study: (study.running, study.asked))
            jobs.append(asking.ask())
        self.run.append_asked(jobs)
        return jobs

    def _under_way(self, optimizer: str) -> tuple[int, int]:
        """How many trials of an optimizer run, and how many were asked for."""
        studies = self.of(optimizer)
        return sum(study.running for study in studies), sum(study.asked for study in studies)

    def of(self, optimizer: str) -> list[OptimizerStudy]:
        """The studies of an optimizer."""
        return [self.studies[optimizer, number] for number in self.config.studies]

    @property
    def running(self) -> bool:
        return any(study.running for study in self.studies.values())

    def record(self, done: Done) -> None:
        rows = [
            {
                "task": self.config.task.name,
                "optimizer": job.optimizer,
                STUDY: job.study,
                "trial": job.trial,
                "state": outcome.state,
                "value": outcome.metrics.get(self.config.task.metric),
                "seed": job.seed,
                "steps": int(outcome.clocks.get("steps", 0)),
                "seconds": outcome.clocks.get("seconds", 0.0),
                "cohort": outcome.cohort,
                "code": self.run.mark,
                "error": outcome.error,
            }
            | hp_columns(job.hp)
            for job, outcome in done
        ]
        self.run.append_trials(rows, self.config.hyperparameters)
        for job, outcome in done:
            self.studies[job.optimizer, job.study].tell(job, outcome)
        self.write_best()

    def tick(self) -> None:
        """Bring study.db up to date now and then: that takes longer than many a trial."""
        now = time.monotonic()
        if now - self.last_write > MAX_DATABASE_LAG_S:
            self.last_write = now
            for study in self.studies.values():
                study.database.write()

    def write_best(self) -> None:
        begun = {name: [study.summary() for study in self.of(name) if study.done] for name in self.config.optimizers}
        mode = self.config.task.mode
        optimizers = {name: entry_of(studies, mode) for name, studies in begun.items() if studies}
        self.run.write_best(
            {"task": self.config.task.name, "metric": self.config.task.metric, "optimizers": optimizers}
        )

    def progress(self) -> Iterator[Progress]:
        better, extent = min if self.config.task.mode == "min" else max, self.looking.extent
        for name in self.config.optimizers:
            studies = self.of(name)
            values = [study.best[1] for study in studies if study.best]
            yield Progress(
                name,
                "search",
                done=sum(study.done for study in studies),
                total=sum(study.total for study in studies if extent.includes(name, study.number)),
                running=sum(study.running for study in studies),
                diverged=sum(study.counts["diverged"] for study in studies),
                failed=sum(study.counts["failed"] for study in studies),
                best=better(values, default=None),
            )

    def close(self, patience_s: float) -> list[str]:
        """See study.db written; what could not be."""
        until = time.monotonic() + patience_s
        faults = [study.database.close(max(0.0, until - time.monotonic())) for study in self.studies.values()]
        return [fault for fault in faults if fault]


class Retrain:
    """The retrain phase: the best hyperparameters of each study, once per evaluation seed of its own.

    Args:
        best: says for an optimizer and a study what best.json does, or None while its search goes on.
        rows: rows of seeds.csv that an earlier command wrote; their runs are not done again.

    Attributes:
        remaining, running: the runs that nobody has begun, also those that are not open yet, and those under way.
        checked: the studies, by optimizer and number, of which ``rows`` holds runs with the best hyperparameters only.
        states: how the runs ended.
    """

    def __init__(
        self,
        config: Config,
        run: Run,
        best: Callable[[str, int], Mapping[str, Any] | None],
        sizes: CohortSizes,
        looking: Looking,
        rows: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.config = config
        self.run = run
        self.best = best
        self.sizes = sizes
        self.looking = looking
        self.rows = [dict(row) for row in rows]
        self.remaining = missing_runs(looking.extent, self.rows)
        self.checked: set[tuple[str, int]] = set()
        self.running: list[Retraining] = []
        self.states: dict[Retraining, str] = {}

    def next_jobs(self) -> list[Job]:
        """A cohort of runs of the next optimizer that has a winner, of all of its winners; optimizers take turns."""
        self._drop_outdated_rows()
        best = {key: self.best(*key) for key in {(run.optimizer, run.study) for run in self.remaining}}
        nothing = {key for key, entry in best.items() if entry is not None and entry["hp"] is None}  # none was valid
        self.remaining = [run for run in self.remaining if (run.optimizer, run.study) not in nothing]
        self.remaining = within(self.looking.extent, self.remaining)
        searched = [run for run in self.remaining if best[run.optimizer, run.study] is not None]
        ready = within(self.looking.open, searched)
        if not ready:
            return []
        name = ready[0].optimizer
        cohort = [run for run in ready if run.optimizer == name][: self.sizes.retrain[name]]
        self.remaining = [run for run in self.remaining if run not in cohort]
        self.running += cohort
        return [self._job(run, best[name, run.study] or {}) for run in cohort]

    def _job(self, run: Retraining, best: Mapping[str, Any]) -> Job:
        return Job("retrain", run.optimizer, best["trial"], run.seed, best["hp"], run.study)

    def _drop_outdated_rows(self) -> None:
        """Forget runs with other hyperparameters than the best: a search that went on may have found better ones."""
        for key in ((name, study) for name in self.config.optimizers for study in self.config.studies):
            best = None if key in self.checked else self.best(*key)
            if best is None:
                continue
            self.checked.add(key)
            name, study = key
            current = [dict(row) for row in current_rows(self.rows, {name: best})]
            if len(current) < len(self.rows):
                seeds = [run.seed for run in map(Retraining.of, self.rows) if (run.optimizer, run.study) == key]
                self.rows = current
                missing = missing_runs(self.looking.extent, current)
                self.remaining = [run for run in missing if run not in self.running]
                self.run.write_seeds(current, self.config.hyperparameters)
                self.run.forget_retrained(name, study, seeds)

    def record(self, done: Done) -> None:
        for job, outcome in done:
            key = Retraining(job.optimizer, job.study, job.seed)
            self.running.remove(key)
            self.states[key] = outcome.state
            self.run.weights.write(job.optimizer, job.seed, outcome.weights)
            self.rows.append(self._row(job, outcome))
        order = list(self.config.optimizers)
        self.rows.sort(key=lambda row: (order.index(row["optimizer"]), int(row[STUDY]), int(row["seed"])))
        self.run.write_seeds(self.rows, self.config.hyperparameters)

    def _row(self, job: Job, outcome: Outcome) -> dict[str, Any]:
        steps, seconds = outcome.clocks.get("steps", 0), outcome.clocks.get("seconds", 0.0)
        return (
            {"task": self.config.task.name, "optimizer": job.optimizer, STUDY: job.study, "seed": job.seed}
            | {"status": outcome.state}
            | outcome.metrics
            | outcome.clocks
            | {"step_ms": 1000 * seconds / steps if steps else None, "cohort": outcome.cohort}
            | {"code": self.run.mark, "error": outcome.error}
            | hp_columns(job.hp)
        )

    def progress(self) -> Iterator[Progress]:
        for name in self.config.optimizers:
            states = [state for run, state in self.states.items() if run.optimizer == name]
            running = sum(run.optimizer == name for run in self.running)
            waiting = sum(run.optimizer == name for run in within(self.looking.extent, self.remaining))
            diverged, failed = states.count("diverged"), states.count("failed")
            total = len(states) + running + waiting
            yield Progress(name, "retrain", len(states), total, running, diverged, failed)


def within(extent: Extent, runs: Sequence[Retraining]) -> list[Retraining]:
    return [run for run in runs if extent.includes(run.optimizer, run.study, run.declared_seed)]

"""The two phases of a run, search and retraining, say which jobs are next and record what became of them. No Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tuner.config.schema import Config
from tuner.jobs import Done, Job, Outcome
from tuner.planning.cohorts import CohortSizes
from tuner.planning.progress import Progress
from tuner.planning.study import OptimizerStudy
from tuner.planning.study_db import OpenStorage
from tuner.store.background import BackgroundThread
from tuner.store.run import Run
from tuner.store.seed_rows import current_rows, missing_seeds
from tuner.store.tables import hp_columns

MAX_DATABASE_LAG_S = 5.0
"""How far study.db may lag behind trials.csv."""


class Search:
    """The search phase: one study per optimizer, all under way at once.

    It goes on from what the run directory has of an earlier command.
    """

    def __init__(self, config: Config, run: Run, storage: OpenStorage, sizes: CohortSizes) -> None:
        self.config = config
        self.run = run
        writer = BackgroundThread()
        rows = run.trial_rows()
        self.studies = {
            name: OptimizerStudy(
                config, name, storage, sizes.startup(name), writer,
                run.asked(name), [row for row in rows if row["optimizer"] == name],
            )
            for name in config.optimizers
        }  # fmt: skip
        self.sizes = sizes
        self.last_write = time.monotonic()
        if rows:
            run.write_trials(rows, config.hyperparameters)
            self.write_best()

    def next_jobs(self) -> list[Job]:
        """A cohort of the study with the fewest trials under way, so that each learns from its own soon."""
        open_studies = [study for study in self.studies.values() if study.asks]
        if not open_studies:
            return []
        study = min(open_studies, key=lambda s: (s.running, s.asked))
        jobs = study.ask(self.sizes.to_ask(study.optimizer, study.asked, alone=len(open_studies) == 1))
        self.run.append_asked(jobs)
        return jobs

    def record(self, done: Done) -> None:
        rows = [
            {
                "task": self.config.task.name,
                "optimizer": job.optimizer,
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
        for name, study in self.studies.items():
            study.tell([(job, outcome) for job, outcome in done if job.optimizer == name])
        self.write_best()

    def tick(self) -> None:
        """Bring study.db up to date now and then: that takes longer than many a trial."""
        now = time.monotonic()
        if now - self.last_write > MAX_DATABASE_LAG_S:
            self.last_write = now
            for study in self.studies.values():
                study.database.write()

    def write_best(self) -> None:
        optimizers = {name: study.summary() for name, study in self.studies.items() if study.done}
        self.run.write_best(
            {"task": self.config.task.name, "metric": self.config.task.metric, "optimizers": optimizers}
        )

    def progress(self) -> Iterator[Progress]:
        for name, study in self.studies.items():
            best = study.best[1] if study.best else None
            diverged, failed = study.counts["diverged"], study.counts["failed"]
            yield Progress(name, "search", study.done, study.total, study.running, diverged, failed, best)

    def close(self, patience_s: float) -> list[str]:
        """See study.db written; what could not be."""
        faults = [study.database.close(patience_s) for study in self.studies.values()]
        return [fault for fault in faults if fault]


class Retrain:
    """The retrain phase: the best hyperparameters of each optimizer, once per evaluation seed.

    Args:
        best: says for an optimizer what best.json does, or None while its search goes on.
        rows: rows of seeds.csv that an earlier command wrote; their runs are not done again.

    Attributes:
        remaining, running: (optimizer, seed) of the runs that nobody has begun, and of those under way.
        checked: the optimizers of which ``rows`` holds runs with the best hyperparameters only.
        states: (optimizer, seed) -> how the run ended.
    """

    def __init__(
        self,
        config: Config,
        run: Run,
        best: Callable[[str], dict[str, Any] | None],
        sizes: CohortSizes,
        rows: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.config = config
        self.run = run
        self.best = best
        self.sizes = sizes
        self.rows = [dict(row) for row in rows]
        self.remaining = missing_seeds(config, self.rows)
        self.checked: set[str] = set()
        self.running: list[tuple[str, int]] = []
        self.states: dict[tuple[str, int], str] = {}

    def next_jobs(self) -> list[Job]:
        """A cohort of runs of the next optimizer that has been searched; optimizers take turns."""
        self._drop_outdated_rows()
        for name in dict.fromkeys(name for name, _ in self.remaining):
            best = self.best(name)
            if best is None:
                continue
            cohort = [key for key in self.remaining if key[0] == name]
            if best["hp"] is not None:  # else no trial was valid: there is nothing to retrain
                cohort = cohort[: self.sizes.retrain[name]]
            self.remaining = [key for key in self.remaining if key not in cohort]
            if best["hp"] is not None:
                self.running += cohort
                return [Job("retrain", name, best["trial"], seed, best["hp"]) for _, seed in cohort]
        return []

    def _drop_outdated_rows(self) -> None:
        """Forget runs with other hyperparameters than the best: a search that went on may have found better ones."""
        for name in self.config.optimizers:
            best = None if name in self.checked else self.best(name)
            if best is None:
                continue
            self.checked.add(name)
            current = [dict(row) for row in current_rows(self.rows, {name: best})]
            if len(current) < len(self.rows):
                self.rows = current
                self.remaining = [key for key in missing_seeds(self.config, current) if key not in self.running]
                self.run.write_seeds(current, self.config.hyperparameters)
                self.run.forget_retrained(name)

    def record(self, done: Done) -> None:
        for job, outcome in done:
            key = (job.optimizer, job.seed)
            self.running.remove(key)
            self.states[key] = outcome.state
            self.run.weights.write(job.optimizer, job.seed, outcome.weights)
            self.rows.append(self._row(job, outcome))
        order = list(self.config.optimizers)
        self.rows.sort(key=lambda row: (order.index(row["optimizer"]), int(row["seed"])))
        self.run.write_seeds(self.rows, self.config.hyperparameters)

    def _row(self, job: Job, outcome: Outcome) -> dict[str, Any]:
        steps, seconds = outcome.clocks.get("steps", 0), outcome.clocks.get("seconds", 0.0)
        return (
            {"task": self.config.task.name, "optimizer": job.optimizer, "seed": job.seed, "status": outcome.state}
            | outcome.metrics
            | outcome.clocks
            | {"step_ms": 1000 * seconds / steps if steps else None, "cohort": outcome.cohort}
            | {"code": self.run.mark, "error": outcome.error}
            | hp_columns(job.hp)
        )

    def progress(self) -> Iterator[Progress]:
        for name in self.config.optimizers:
            states = [state for (optimizer, _), state in self.states.items() if optimizer == name]
            running = sum(optimizer == name for optimizer, _ in self.running)
            waiting = sum(optimizer == name for optimizer, _ in self.remaining)
            diverged, failed = states.count("diverged"), states.count("failed")
            total = len(states) + running + waiting
            yield Progress(name, "retrain", len(states), total, running, diverged, failed)

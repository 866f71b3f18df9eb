"""What a run has to do and what has been done: hands out jobs, records their outcomes in the store."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from tuner.jobs import Job, Outcome, Phase, missing_seeds
from tuner.schema import Config
from tuner.searcher import OptimizerStudy
from tuner.store import HP, Run


@dataclass(frozen=True)
class Progress:
    """How far one optimizer is in one phase."""

    optimizer: str
    phase: Phase
    done: int
    total: int
    running: int
    diverged: int
    failed: int
    best: float | None = None


class Search:
    """The search phase: one study per optimizer, all under way at once."""

    def __init__(self, config: Config, run: Run, storage: Any, concurrency: int) -> None:
        self.config = config
        self.run = run
        share = min(math.ceil(concurrency / len(config.optimizers)), config.search.trials // 3)
        self.studies = {name: OptimizerStudy(config, name, storage, share) for name in config.optimizers}

    def next_job(self) -> Job | None:
        """The next trial, of the study with the fewest trials under way, so that each learns from its own soon."""
        open_studies = [study for study in self.studies.values() if study.asked < study.total]
        return min(open_studies, key=lambda s: (s.running, s.asked)).ask() if open_studies else None

    def record(self, job: Job, outcome: Outcome) -> None:
        study = self.studies[job.optimizer]
        row = {
            "task": self.config.task.name,
            "optimizer": job.optimizer,
            "trial": job.trial,
            "state": outcome.state,
            "value": outcome.metrics.get(self.config.task.metric),
            "seed": job.seed,
            "steps": int(outcome.clocks.get("steps", 0)),
            "seconds": outcome.clocks.get("seconds", 0.0),
        }
        self.run.append_trial(row, job.hp, self.config.hyperparameters)
        study.tell(job, outcome)
        self.write_best()

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

    def close(self) -> None:
        for study in self.studies.values():
            study.close()


class Retrain:
    """The retrain phase: the best hyperparameters of each optimizer, once per evaluation seed.

    Args:
        best: says for an optimizer what best.json does, or None while its search goes on.
        rows: rows of seeds.csv that an earlier command wrote; their runs are not done again.
    """

    def __init__(
        self,
        config: Config,
        run: Run,
        best: Callable[[str], dict[str, Any] | None],
        rows: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.config = config
        self.run = run
        self.best = best
        self.rows = [dict(row) for row in rows]
        self.cells = missing_seeds(config, self.rows)
        self.running: list[tuple[str, int]] = []
        self.states: dict[tuple[str, int], str] = {}

    def next_job(self) -> Job | None:
        """The next run whose optimizer has been searched; optimizers take turns, seed by seed."""
        for cell in list(self.cells):
            name, seed = cell
            best = self.best(name)
            if best is None:
                continue
            self.cells.remove(cell)
            if best["hp"] is not None:  # else no trial was valid: there is nothing to retrain
                self.running.append(cell)
                return Job("retrain", name, best["trial"], seed, best["hp"])
        return None

    def record(self, job: Job, outcome: Outcome) -> None:
        cell = (job.optimizer, job.seed)
        self.running.remove(cell)
        self.states[cell] = outcome.state
        steps, seconds = outcome.clocks.get("steps", 0), outcome.clocks.get("seconds", 0.0)
        self.rows.append(
            {"task": self.config.task.name, "optimizer": job.optimizer, "seed": job.seed, "status": outcome.state}
            | outcome.metrics
            | outcome.clocks
            | {"step_ms": 1000 * seconds / steps if steps else None}
            | {HP + name: value for name, value in job.hp.items()}
        )
        order = list(self.config.optimizers)
        self.rows.sort(key=lambda row: (order.index(row["optimizer"]), int(row["seed"])))
        self.run.write_seeds(self.rows, self.config.hyperparameters)

    def progress(self) -> Iterator[Progress]:
        for name in self.config.optimizers:
            states = [state for (optimizer, _), state in self.states.items() if optimizer == name]
            running = sum(optimizer == name for optimizer, _ in self.running)
            waiting = sum(optimizer == name for optimizer, _ in self.cells)
            diverged, failed = states.count("diverged"), states.count("failed")
            total = len(states) + running + waiting
            yield Progress(name, "retrain", len(states), total, running, diverged, failed)


class Plan:
    """The phases of one command, and the one place where a job's outcome is written down."""

    def __init__(self, config: Config, run: Run, search: Search | None, retrain: Retrain) -> None:
        self.config = config
        self.run = run
        self.search = search
        self.retrain = retrain
        self.task_noted = False
        self.failures: list[tuple[Job, str]] = []

    def next_job(self) -> Job | None:
        """A job that can start now; None where there is none, for now or, with nothing running, for good."""
        return (self.search.next_job() if self.search else None) or self.retrain.next_job()

    def record(self, job: Job, outcome: Outcome) -> None:
        """Write down what became of a job: its curves first, so that a recorded run always has them."""
        self.run.append_curves(self._curve_rows(job, outcome))
        if outcome.state == "failed":
            self.failures.append((job, outcome.error))
            self.run.write_log(str(job).replace(" ", "-"), outcome.traceback or outcome.error + "\n")
        if job.phase == "search":
            assert self.search is not None
            self.search.record(job, outcome)
        else:
            self.retrain.record(job, outcome)

    def note_task(self, about: dict[str, Any]) -> None:
        """Put the data and the network's size, the same in every worker, into env.json."""
        if not self.task_noted:
            self.run.write_env(self.run.env() | about)
            self.task_noted = True

    def progress(self) -> list[Progress]:
        return [*(self.search.progress() if self.search else ()), *self.retrain.progress()]

    def close(self) -> None:
        """Leave the run's files as a reader expects them, however the command ended."""
        if self.search:
            self.search.close()
        self.run.finish_curves()

    def _curve_rows(self, job: Job, outcome: Outcome) -> Iterator[dict[str, Any]]:
        for evaluation in outcome.evaluations:
            diagnostics = {f"train_{name}": value for name, value in evaluation["diagnostics"].items()}
            for name, value in (evaluation["metrics"] | diagnostics).items():
                split, metric = name.split("_", 1)
                yield {
                    "task": self.config.task.name,
                    "optimizer": job.optimizer,
                    "phase": job.phase,
                    "trial": job.trial,
                    "seed": job.seed,
                    **{clock: evaluation[clock] for clock in ("step", "epoch", "seconds", "grad_equivalents")},
                    "split": split,
                    "metric": metric,
                    "value": value,
                }


def new_plan(config: Config, run: Run) -> Plan:
    """Search every optimizer, then retrain it."""
    storage = optuna.storages.RDBStorage(run.study_url)
    search = Search(config, run, storage, config.resources.max_concurrent or 1)

    def best(optimizer: str) -> dict[str, Any] | None:
        study = search.studies[optimizer]
        return study.summary() if study.done == study.total else None

    return Plan(config, run, search, Retrain(config, run, best))


def retrain_plan(config: Config, run: Run) -> Plan:
    """Retrain what the run's best.json has, where seeds.csv has no valid row yet."""
    best = run.best()["optimizers"]
    rows = run.valid_seed_rows()
    nothing = {"hp": None}
    return Plan(config, run, None, Retrain(config, run, lambda name: best.get(name, nothing), rows))

"""Workers that do a plan's jobs without Ray, and may be cut off; what becomes of a job depends on the job alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tuner.config.schema import Config
from tuner.jobs import EvaluationRecord, Job, Outcome
from tuner.planning.cohorts import CohortSizes
from tuner.planning.plan import Plan, retrain_plan, search_plan
from tuner.store.run import Run

STATES = ["complete"] * 6 + ["diverged", "failed", "stopped"]


def planned(asked: Config, run: Run, *, search: bool = True) -> Plan:
    return (search_plan if search else retrain_plan)(asked, run, CohortSizes(asked, {}, asked.retraining_runs))


def a_number(job: Job) -> float:
    """In [0, 1)."""
    return int(hashlib.sha256(repr((job.phase, job.seed, job.hp)).encode()).hexdigest()[:12], 16) / 16**12


def loss(job: Job) -> float:
    return (job.hp["lr"] - 0.3) ** 2 + 1e-3 * a_number(job)


def of_any_state(job: Job) -> Any:
    return STATES[int(a_number(job) * len(STATES))] if job.phase == "search" else "complete"


def complete(job: Job) -> Any:
    return "complete"


def failed(job: Job) -> Any:
    return "failed"


def ended(job: Job, state: Any, cohort: int = 1) -> Outcome:
    if state == "failed":
        return Outcome("failed", error="too much, and too soon", traceback="Traceback ...\n")
    metrics = {"val_loss": 99.0 if state == "diverged" else loss(job)}
    if job.phase == "retrain":
        metrics["test_loss"] = 2 * loss(job)
    evaluations = [EvaluationRecord(8, 1.0, 0.5, 16.0, metrics)]
    clocks = {"steps": 8, "grad_equivalents": 16.0, "seconds": 0.5, "peak_mem_mb": 3.0}
    return Outcome(state, metrics, clocks, evaluations, cohort=cohort)


@dataclass
class Workers:
    """So many at once; they note what they are given, and what was not handed in when all was cut off."""

    number: int = 1
    becomes: Callable[[Job], Any] = complete
    given: list[Job] = field(default_factory=list)
    cut_off: list[Job] = field(default_factory=list)

    def do(self, plan: Plan, chance: random.Random, events: float = float("inf")) -> bool:
        """Events, at most so many, of which each is a cohort taken or jobs handed in; whether all is done."""
        running: list[list[Job]] = []
        self.cut_off = []
        while True:
            taken = plan.next_jobs() if len(running) < self.number else []
            if taken:
                running.append(taken)
                self.given += taken
            elif running:
                jobs = running.pop(chance.randrange(len(running)))
                together = chance.randint(1, len(jobs))
                plan.record([(job, ended(job, self.becomes(job), together)) for job in jobs[:together]])
                running += [jobs[together:]] if jobs[together:] else []
            else:
                return True
            if chance.random() < 0.3 and plan.search:
                for study in plan.search.studies.values():
                    study.database.write()
            events -= 1
            if events <= 0:
                self.cut_off = [job for jobs in running for job in jobs]
                return False


def abandon(plan: Plan) -> None:
    """Nothing is closed; but what the thread has begun to write is written, so that tests repeat."""
    if plan.search:
        for study in plan.search.studies.values():
            study.database._writer.submit(int).result()


def finish(asked: Config, run: Run, workers: Workers, chance: int = 0, *, search: bool = True) -> Plan:
    plan = planned(asked, run, search=search)
    assert workers.do(plan, random.Random(chance))
    assert plan.close() == []
    return plan


def texts(run: Run) -> dict[str, str]:
    return {name: (run.path / name).read_text() for name in ("best.json", "trials.csv", "seeds.csv")}


def numbers(run: Run, optimizer: str) -> list[int]:
    return sorted(int(row["trial"]) for row in run.trial_rows() if row["optimizer"] == optimizer)

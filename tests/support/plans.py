"""Plans of small runs, and outcomes of their jobs, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.run_configs import run_config
from tuner.config.schema import Config
from tuner.jobs import EvaluationRecord, Job, Outcome
from tuner.planning.cohorts import CohortSizes
from tuner.planning.plan import Plan, retrain_plan, search_plan
from tuner.store.run import Run

OPTIMIZERS = {
    "one": {"class": "pkg.One", "space": {"lr": {"low": 0.0, "high": 1.0}}, "defaults": [{"lr": 0.5}]},
    "two": {"class": "pkg.Two", "space": {"lr": {"low": 0.0, "high": 1.0}, "kind": {"choices": ["a", "b"]}}},
}
CLOCKS = {
    "steps": 8, "grad_equivalents": 13.1, "nominal_grad_equivalents": 16.0, "seconds": 0.5, "peak_mem_mb": 3.0,
}  # fmt: skip


def config(trials: int = 2, **changes: Any) -> Config:
    return run_config(OPTIMIZERS, trials=trials, **changes)


def loss(job: Job) -> float:
    """Different for every job."""
    return (1 + job.seed % 7) * (job.hp["lr"] - 0.3) ** 2 + (1.0 if job.optimizer == "two" else 0.0)


def ended(job: Job, state: Any = "complete", cohort: int = 1) -> Outcome:
    if state == "failed":
        return Outcome("failed", error="out of memory", traceback="Traceback ...\nout of memory\n")
    metrics = {"train_loss": 2.0, "val_loss": 99.0 if state == "diverged" else loss(job)}
    if job.phase == "retrain":
        metrics["test_loss"] = 3.0
    evaluations = [
        EvaluationRecord(0, 0.0, 0.0, 0.0, {"val_loss": 5.0}), EvaluationRecord(8, 1.0, 0.5, 16.0, metrics)
    ]  # fmt: skip
    return Outcome(state, metrics, dict(CLOCKS), evaluations, cohort=cohort)


def new_search(asked: Config, run: Run) -> Plan:
    """Nothing was timed: one at a time, unless the configuration says otherwise."""
    return search_plan(asked, run, CohortSizes(asked, {}, asked.retraining_runs))


def more(asked: Config, run: Run) -> Plan:
    return retrain_plan(asked, run, CohortSizes(asked, {}, asked.retraining_runs))


def next_job(plan: Plan) -> Job | None:
    """The only one of a cohort; None where there is nothing to do now."""
    jobs = plan.next_jobs()
    assert len(jobs) <= 1
    return jobs[0] if jobs else None


def finish(plan: Plan, state: Callable[[Job], str] = lambda job: "complete") -> list[Job]:
    """Do all jobs, a cohort after the other."""
    done = []
    while jobs := plan.next_jobs():
        done += jobs
        plan.record([(job, ended(job, state(job), len(jobs))) for job in jobs])
    plan.close()
    return done

"""What a warm process still imports when it does its first jobs is no more than the task's own module."""

from __future__ import annotations

from tests.support.commands import python

FIRST_JOBS = """
import gc, sys
import tuner.workers.warm
import torch
assert gc.isenabled() and not torch.are_deterministic_algorithms_enabled() and not torch.cuda.is_initialized()
before = set(sys.modules)
from tuner.config.layers import resolve
from tuner.jobs import Job
from tuner.planning.messages import Request
from tuner.workers.workbench import Workbench
config = resolve({"task.name": "mnist1d", "search.optimizers": ["adam"], "resources.gpus_per_trial": 0.0},
                 ["train.epochs=1"])
bench = Workbench(config)
for cohort in (1, 2):
    jobs = [Job("search", "adam", number, 1000, {"lr": 0.001}) for number in range(cohort)]
    reports = list(bench.reports(Request(jobs), every_evaluation=False))
    assert [outcome.state for report in reports for outcome in report.outcomes.values()] == ["complete"] * cohort
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_a_warm_worker_imports_the_task_alone() -> None:
    code, out, err = python(FIRST_JOBS)
    assert code == 0, err
    assert set(out.split()) <= {"tasks", "encodings", "zipfile"}, out

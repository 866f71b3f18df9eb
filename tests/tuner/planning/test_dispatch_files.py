"""The dispatcher between a plan and Tune, without Ray: checkpoints, what cannot be written, and what Tune is told."""

from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.run_configs import run_config
from tests.tuner.planning.test_dispatch import COMPLETE, LOST, Cohorts, job, new_dispatcher
from tuner.jobs import Done, Job, checkpoint_name
from tuner.planning.dispatch import Dispatcher, Halted
from tuner.planning.looking import Looking
from tuner.planning.messages import Report, TaskSummary
from tuner.planning.plan import Plan
from tuner.store.run import Run
from tuner.workers import tune
from tuner.workers.tune import JobCallback, JobSearcher, Searcher


class Retrained:
    """Hands out cohorts of seeds."""

    def __init__(self, *sizes: int) -> None:
        numbers = count()
        self.running = [None]
        self.cohorts = [[Job("retrain", "adam", 3, next(numbers), {"lr": 0.1}) for _ in range(n)] for n in sizes]
        self.recorded: list[Job] = []

    def next_jobs(self) -> list[Job]:
        return self.cohorts.pop(0) if self.cohorts else []

    def record(self, done: Done) -> None:
        self.recorded += [job for job, _ in done]


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Dispatcher]:
    """A dispatcher before a plan with a run directory of its own."""
    monkeypatch.setattr(tune.ray, "put", lambda content: content)
    config = run_config({"adam": {"class": "pkg.Adam", "space": {"lr": {"low": 0.0, "high": 1.0}}}}, seeds=8)

    def make(*sizes: int) -> Dispatcher:
        retrain: Any = Retrained(*sizes)
        run = Run.create(tmp_path / "run", config)
        return new_dispatcher(Plan(config, run, None, retrain, Looking(config, None, run.path)))

    return make


def only(dispatcher: Dispatcher) -> Any:
    (plan,) = dispatcher.plans.all
    return plan


def files(dispatcher: Dispatcher) -> list[str]:
    folder = only(dispatcher).run.path / "checkpoints"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def suggested(dispatcher: Dispatcher, trial_id: str) -> tuple[list[int], dict[str, bytes]]:
    """Seeds and checkpoints of what Tune is told to do."""
    found = JobSearcher(dispatcher).suggest(trial_id)
    assert isinstance(found, dict)
    return [job["seed"] for job in found["jobs"]], found["checkpoints"]


def test_a_checkpoint_is_handed_out_again_with_its_job_and_goes_when_that_is_recorded(real: Any) -> None:
    dispatcher = real(1, 1)
    assert suggested(dispatcher, "a") == ([0], {})
    for content in (b"early", b"late"):
        dispatcher.save_checkpoint("a", [0], content)
    assert files(dispatcher) == ["adam-seed-0.pt"]
    dispatcher.close("a", LOST)
    assert suggested(dispatcher, "b") == ([0], {"adam-seed-0": b"late"})
    dispatcher.complete("b", {0: COMPLETE})
    assert files(dispatcher) == [] and not (only(dispatcher).run.path / "checkpoints").exists()
    assert suggested(dispatcher, "c") == ([1], {})
    assert only(dispatcher).retrain.recorded == [Job("retrain", "adam", 3, 0, {"lr": 0.1})]


def test_a_cohorts_checkpoint_goes_when_it_is_recorded(real: Any) -> None:
    dispatcher = real(3, 1)
    assert suggested(dispatcher, "a") == ([0, 1, 2], {})
    suggested(dispatcher, "b")
    dispatcher.save_checkpoint("a", [0, 1, 2], b"all")
    dispatcher.save_checkpoint("b", [0], b"other")
    dispatcher.complete("a", dict.fromkeys(range(3), COMPLETE))
    assert files(dispatcher) == ["adam-seed-3.pt"]


def test_jobs_of_a_cohort_that_train_as_one_have_a_checkpoint_of_their_own(real: Any) -> None:
    dispatcher = real(4)
    suggested(dispatcher, "a")
    dispatcher.save_checkpoint("a", [1, 3], b"two")
    dispatcher.complete("a", {0: COMPLETE})
    assert files(dispatcher) == ["adam-seed-1.pt"]
    dispatcher.complete("a", {1: COMPLETE, 3: COMPLETE})
    assert files(dispatcher) == []


def test_a_lost_cohorts_checkpoint_goes_with_its_jobs(real: Any) -> None:
    dispatcher = real(2)
    suggested(dispatcher, "a")
    dispatcher.save_checkpoint("a", [0, 1], b"both")
    dispatcher.close("a", LOST)
    for trial_id in "bc":
        suggested(dispatcher, trial_id)
        dispatcher.complete(trial_id, {0: COMPLETE})
    assert files(dispatcher) == []


def test_names_of_checkpoints_cannot_be_mistaken() -> None:
    """Of jobs that may be under way at once: a cohort's is its first job's, which is in no other."""
    seeds = [Job("retrain", "adam", 3, seed, {}) for seed in range(5)]
    chosen = [seeds[:2], seeds[2:], [job(0)], [job(1), job(2)], [Job("search", "adamw", 0, 1, {})]]
    assert len({checkpoint_name(jobs) for jobs in chosen}) == len(chosen)


def test_what_cannot_be_written_halts_the_run_with_the_reason() -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a/trials.csv")

    for broken in ("record", "write", "tick", "note_task"):
        plan: Any = Cohorts(1)
        plan.tick = plan.note_task = lambda *_: None
        plan.run = SimpleNamespace(checkpoints=SimpleNamespace(write=lambda *_: None))
        setattr(plan.run.checkpoints if broken == "write" else plan, broken, full)
        dispatcher = new_dispatcher(plan)
        dispatcher.assign("a")
        callback, trial = JobCallback(dispatcher), SimpleNamespace(trial_id="a", config={})
        report = Report({0: COMPLETE}, checkpoint=([0], b"x"), task=TaskSummary({}, 3, "cpu"), done=True)
        with pytest.raises(Halted, match=r"^runs/a/trials.csv: No space left on device$"):  # noqa: PT012
            callback.on_step_begin(1, [])
            callback.on_trial_result(1, [], trial, report.to_dict())
    plan = Cohorts(1, retries=0)
    plan.record = full
    dispatcher = new_dispatcher(plan)
    dispatcher.assign("a")
    with pytest.raises(Halted):
        JobCallback(dispatcher).on_trial_complete(1, [], SimpleNamespace(trial_id="a", config={}))


def test_what_cannot_be_read_or_asked_halts_the_run_too() -> None:
    plan: Any = Cohorts(1)

    def gone(*_: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "runs/a")

    plan.next_jobs = gone
    with pytest.raises(Halted, match="runs/a: No such file or directory"):
        JobSearcher(new_dispatcher(plan)).suggest("a")


def test_tune_is_told_to_wait_while_something_is_under_way_and_to_finish_then() -> None:
    plan: Any = Cohorts(1)
    plan.checkpoints = lambda jobs: {}
    dispatcher = new_dispatcher(plan)
    searcher = JobSearcher(dispatcher)
    found = searcher.suggest("a")
    assert found == {"jobs": [job(0).to_dict()], "alone": False, "checkpoints": {}, "run": "run"}
    assert searcher.suggest("b") is None
    dispatcher.close("a", LOST)
    assert searcher.suggest("b") == found
    assert searcher.suggest("c") is None
    dispatcher.complete("b", {0: COMPLETE})
    assert searcher.suggest("c") == Searcher.FINISHED

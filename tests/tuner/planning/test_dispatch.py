"""The dispatcher between a plan and Tune, without Ray: what is lost is done again, and every job is recorded once."""

from __future__ import annotations

from collections import Counter
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.examples import examples
from tuner.jobs import Done, Job, Outcome
from tuner.planning import dispatch
from tuner.planning.dispatch import Dispatcher
from tuner.planning.messages import Report
from tuner.planning.plans import Plans

LOST = "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.\n"
KILLED = (
    "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.\n"
    "Memory on the node was 30.1GB / 32.0GB, which exceeds the memory usage threshold of 0.95."
)
COMPLETE = Outcome("complete", {"val_loss": 1.0}, {"steps": 1})
FAILED = Outcome("failed", error="ValueError: lr")
NO_MEMORY = Outcome("failed", error="OutOfMemoryError: CUDA out of memory", out_of_memory=True)


class Cohorts:
    """A plan that hands out cohorts of given sizes and notes what is recorded."""

    def __init__(self, *sizes: int, retries: int = 2, trial_limit_s: float | None = None) -> None:
        self.config = SimpleNamespace(faults=SimpleNamespace(retries=retries, trial_limit_s=trial_limit_s))
        self.key = "run"
        self.busy = True
        numbers = count()
        self.cohorts = [[job(next(numbers)) for _ in range(size)] for size in sizes]
        self.recorded: list[tuple[Job, Outcome]] = []
        self.replaced: list[str] = []

    def next_jobs(self) -> list[Job]:
        return self.cohorts.pop(0) if self.cohorts else []

    def record(self, done: Done) -> None:
        self.recorded += done

    def note_replaced_worker(self, reason: str) -> None:
        self.replaced.append(reason)

    def trials(self) -> list[int]:
        return [job.trial for job, _ in self.recorded]


def job(number: int) -> Job:
    return Job("search", "adam", number, 1000, {"lr": 0.1})


def new_dispatcher(plan: Any) -> Dispatcher:
    return Dispatcher(Plans([plan], Path()), lambda: None)


def assigned(dispatcher: Dispatcher, trial_id: str) -> tuple[list[int], bool] | None:
    """The numbers of the jobs handed out, and whether they are alone."""
    assignment = dispatcher.assign(trial_id)
    return None if assignment is None else ([job.trial for job in assignment.jobs.values()], assignment.alone)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; to be changed."""
    now = [1000.0]
    monkeypatch.setattr(dispatch, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


# A lost worker.


@pytest.mark.parametrize(("retries", "times"), [(0, ""), (1, " 2 times"), (2, " 3 times"), (5, " 6 times")])
def test_a_job_is_tried_again_so_often_and_then_failed(retries: int, times: str) -> None:
    plan = Cohorts(1, 1, retries=retries)
    dispatcher = new_dispatcher(plan)
    for attempt in range(retries + 1):
        assert (plan.recorded == [] and not dispatcher.idle) or attempt == 0
        assert assigned(dispatcher, f"t{attempt}") == ([0], False)
        dispatcher.close(f"t{attempt}", LOST)
    ((failed, outcome),) = plan.recorded
    assert failed == job(0) and outcome.state == "failed" and not outcome.out_of_memory
    assert outcome.error.startswith(f"the worker was lost{times}: ") and "\n" not in outcome.error
    assert outcome.traceback == LOST
    assert assigned(dispatcher, "next") == ([1], False)  # the search goes on
    dispatcher.complete("next", {0: COMPLETE})
    assert dispatcher.assign("t") is None and dispatcher.idle and plan.trials() == [0, 1]


def test_a_job_done_again_can_end_well() -> None:
    plan = Cohorts(1)
    dispatcher = new_dispatcher(plan)
    for trial_id in ("a", "b"):
        dispatcher.assign(trial_id)
        dispatcher.close(trial_id, LOST)
    assert assigned(dispatcher, "c") == ([0], False)
    dispatcher.complete("c", {0: COMPLETE})
    dispatcher.close("c", "")  # Tune says so of every trial
    assert plan.recorded == [(job(0), COMPLETE)] and dispatcher.idle


def test_what_is_left_of_a_lost_cohort_is_done_one_at_a_time_before_anything_new() -> None:
    plan = Cohorts(4, 2)
    dispatcher = new_dispatcher(plan)
    assert assigned(dispatcher, "cohort") == ([0, 1, 2, 3], False)
    dispatcher.complete("cohort", {2: FAILED})
    dispatcher.close("cohort", LOST)
    assert plan.recorded == [(job(2), FAILED)]
    assert [assigned(dispatcher, trial_id) for trial_id in "abcd"] == [
        ([0], False),
        ([1], False),
        ([3], False),
        ([4, 5], False),
    ]
    dispatcher.close("b", LOST)
    assert assigned(dispatcher, "e") == ([1], False)
    dispatcher.close("e", LOST)  # with the cohort's that is the third time
    assert plan.trials() == [2, 1] and "lost 3 times" in plan.recorded[1][1].error


# A worker that retires.


def test_what_a_worker_hands_back_is_done_next_together_and_is_no_loss() -> None:
    plan = Cohorts(3, 1, retries=0)
    dispatcher = new_dispatcher(plan)
    for trial_id in "abc":
        assert assigned(dispatcher, trial_id) == ([0, 1, 2], False)
        dispatcher.return_jobs(trial_id)
        assert not dispatcher.idle
        dispatcher.close(trial_id, LOST)  # as Tune sees it
    assert assigned(dispatcher, "d") == ([0, 1, 2], False)
    dispatcher.complete("d", {0: COMPLETE})
    dispatcher.return_jobs("d")
    assert assigned(dispatcher, "e") == ([1, 2], False)
    dispatcher.complete("e", {0: COMPLETE, 1: COMPLETE})
    assert plan.recorded == [(job(n), COMPLETE) for n in range(3)]
    assert not dispatcher.losses


def test_what_came_back_from_a_cohort_that_a_worker_cannot_go_on_with_is_done_one_at_a_time_and_is_no_loss() -> None:
    plan = Cohorts(3, retries=0)
    dispatcher = new_dispatcher(plan)
    assert assigned(dispatcher, "a") == ([0, 1, 2], False)
    dispatcher.receive("a", Report(worker_unusable="the GPU failed", retires=True, singly=True))
    for trial_id, number in (("b", 0), ("c", 1), ("d", 2)):
        assert assigned(dispatcher, trial_id) == ([number], False)
    assert plan.replaced == ["the GPU failed"] and not dispatcher.losses


# Memory.


def test_a_job_out_of_memory_is_done_again_with_nothing_beside_it_then_failed() -> None:
    plan = Cohorts(1, 1, 1)
    dispatcher = new_dispatcher(plan)
    assert [assigned(dispatcher, trial_id) for trial_id in "ab"] == [([0], False), ([1], False)]
    dispatcher.complete("a", {0: NO_MEMORY})
    assert plan.recorded == []
    assert dispatcher.assign("c") is None and not dispatcher.idle  # another is under way
    dispatcher.complete("b", {0: COMPLETE})
    assert assigned(dispatcher, "c") == ([0], True)
    assert dispatcher.assign("d") is None and not dispatcher.idle  # nothing beside it
    dispatcher.complete("c", {0: NO_MEMORY})
    ((_, well), (failed, outcome)) = plan.recorded
    assert well == COMPLETE and failed == job(0) and (outcome.state, outcome.out_of_memory) == ("failed", True)
    assert outcome.error == f"out of memory, with nothing beside it: {NO_MEMORY.error}"
    assert assigned(dispatcher, "d") == ([2], False)


def test_one_that_had_too_little_memory_beside_others_can_end_well_alone() -> None:
    plan = Cohorts(3)
    dispatcher = new_dispatcher(plan)
    dispatcher.assign("a")
    dispatcher.complete("a", {0: COMPLETE, 1: NO_MEMORY, 2: NO_MEMORY})
    for trial_id, number in (("b", 1), ("c", 2)):
        assert assigned(dispatcher, trial_id) == ([number], True)
        assert dispatcher.assign("x") is None
        dispatcher.complete(trial_id, {0: COMPLETE})
    assert plan.recorded == [(job(n), COMPLETE) for n in range(3)] and dispatcher.idle


def test_a_worker_killed_for_want_of_memory_is_told_from_one_that_died() -> None:
    plan = Cohorts(1, 1)
    dispatcher = new_dispatcher(plan)
    assert [assigned(dispatcher, trial_id) for trial_id in "ab"] == [([0], False), ([1], False)]
    dispatcher.close("a", KILLED)
    assert dispatcher.assign("c") is None
    dispatcher.complete("b", {0: COMPLETE})
    assert assigned(dispatcher, "c") == ([0], True)
    dispatcher.close("c", KILLED)
    _, (_, outcome) = plan.recorded
    assert (outcome.error, outcome.out_of_memory) == ("out of memory, with nothing beside it", True)


def test_want_of_memory_is_tried_again_alone_whatever_the_number_of_retries() -> None:
    plan = Cohorts(1, retries=0)
    dispatcher = new_dispatcher(plan)
    dispatcher.assign("a")
    dispatcher.close("a", KILLED)
    assert plan.recorded == [] and assigned(dispatcher, "b") == ([0], True)


def test_a_cohort_killed_for_want_of_memory_is_done_one_at_a_time() -> None:
    dispatcher = new_dispatcher(Cohorts(2))
    dispatcher.assign("a")
    dispatcher.close("a", KILLED)
    assert [assigned(dispatcher, trial_id) for trial_id in "bc"] == [([0], False), ([1], False)]


# Time.


def test_a_job_that_took_too_long_has_failed_at_once(clock: list[float]) -> None:
    plan = Cohorts(1, 1, trial_limit_s=60.0)
    dispatcher = new_dispatcher(plan)
    dispatcher.assign("a")
    clock[0] += 500.0  # the worker starts
    dispatcher.begin("a")
    clock[0] += 60.5
    dispatcher.close("a", LOST)
    assert [outcome.error for _, outcome in plan.recorded] == ["took longer than faults.trial_limit_s, 60 s"]


@pytest.mark.parametrize(("begun", "seconds"), [(True, 59.0), (False, 900.0)])
def test_a_job_whose_worker_was_lost_within_its_time_is_done_again(
    clock: list[float], begun: bool, seconds: float
) -> None:
    plan = Cohorts(1, trial_limit_s=60.0)
    dispatcher = new_dispatcher(plan)
    dispatcher.assign("a")
    if begun:
        dispatcher.begin("a")
    clock[0] += seconds
    dispatcher.close("a", LOST)
    assert plan.recorded == [] and assigned(dispatcher, "b") == ([0], False)


def test_a_cohort_that_took_too_long_is_done_one_at_a_time(clock: list[float]) -> None:
    plan = Cohorts(2, trial_limit_s=60.0)
    dispatcher = new_dispatcher(plan)
    dispatcher.assign("a")
    dispatcher.begin("a")
    clock[0] += 121.0
    dispatcher.close("a", LOST)
    assert plan.recorded == [] and [assigned(dispatcher, t) for t in "bc"] == [([0], False), ([1], False)]


# Whatever happens.


class Anything(RuleBasedStateMachine):
    """Workers that end, fail, vanish and run out of memory in any assignment."""

    RETRIES = 1

    def __init__(self) -> None:
        super().__init__()
        self.plan = Cohorts(3, 1, 1, 2, 1, 4, 1, retries=self.RETRIES)
        self.all = [job for cohort in self.plan.cohorts for job in cohort]
        self.dispatcher = new_dispatcher(self.plan)
        self.ids = count()
        self.handed_out: Counter[int] = Counter()

    @rule()
    def assign(self) -> None:
        before = dict(self.dispatcher.assignments)
        assignment = self.dispatcher.assign(trial_id := f"t{next(self.ids)}")
        if assignment is None:
            assert before or not self.plan.cohorts  # with nothing under way there is always something, or the end
            return
        assert not (before and assignment.alone) and not any(o.alone for o in before.values())
        assert self.dispatcher.assignments[trial_id] is assignment
        self.handed_out.update(job.trial for job in assignment.jobs.values())

    @precondition(lambda self: self.dispatcher.assignments)
    @rule(data=st.data(), outcome=st.sampled_from([COMPLETE, FAILED, NO_MEMORY]))
    def end_some(self, data: st.DataObject, outcome: Outcome) -> None:
        trial_id = data.draw(st.sampled_from(sorted(self.dispatcher.assignments)))
        places = sorted(self.dispatcher.assignments[trial_id].jobs)
        some = data.draw(st.lists(st.sampled_from(places), min_size=1, unique=True))
        self.dispatcher.complete(trial_id, dict.fromkeys(some, outcome))

    @precondition(lambda self: self.dispatcher.assignments)
    @rule(data=st.data(), error=st.sampled_from([LOST, KILLED, ""]))
    def lose(self, data: st.DataObject, error: str) -> None:
        self.dispatcher.close(data.draw(st.sampled_from(sorted(self.dispatcher.assignments))), error)

    @precondition(lambda self: self.dispatcher.assignments)
    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        trial_id = data.draw(st.sampled_from(sorted(self.dispatcher.assignments)))
        jobs = [job.trial for job in self.dispatcher.assignments[trial_id].jobs.values()]
        self.handed_out.subtract(jobs)  # which is no loss
        self.dispatcher.return_jobs(trial_id)

    @rule()
    def close_what_has_ended(self) -> None:
        self.dispatcher.close("t0" if "t0" not in self.dispatcher.assignments else "never", LOST)

    @invariant()
    def each_job_is_in_one_place(self) -> None:
        waiting = [job.trial for cohort in self.plan.cohorts for job in cohort]
        again = [job.trial for _, jobs, _ in self.dispatcher.requeued for job in jobs]
        under_way = [
            job.trial for assignment in self.dispatcher.assignments.values() for job in assignment.jobs.values()
        ]
        assert sorted(waiting + again + under_way + self.plan.trials()) == [job.trial for job in self.all]

    @invariant()
    def no_assignment_is_empty(self) -> None:
        assert all(assignment.jobs for assignment in self.dispatcher.assignments.values())

    def teardown(self) -> None:
        """All that is left ends well: then every job was recorded once, and none was tried more often than may be."""
        for trial_id, under_way in list(self.dispatcher.assignments.items()):
            self.dispatcher.complete(trial_id, dict.fromkeys(list(under_way.jobs), COMPLETE))
        while (assignment := self.dispatcher.assign(trial_id := f"t{next(self.ids)}")) is not None:
            self.handed_out.update(job.trial for job in assignment.jobs.values())
            self.dispatcher.complete(trial_id, dict.fromkeys(list(assignment.jobs), COMPLETE))
        assert self.dispatcher.idle
        assert sorted(self.plan.trials()) == [job.trial for job in self.all]
        # Once, as often again as a worker may be lost, and for the cohort's loss; once more alone.
        assert max(self.handed_out.values()) <= 1 + self.RETRIES + 2


Anything.TestCase.settings = examples(150, stateful_step_count=40)
TestAnything = Anything.TestCase

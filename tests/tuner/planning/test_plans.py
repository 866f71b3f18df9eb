"""Several plans as one stream of jobs: whose come next, and when each one ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.plans import config, ended, new_search
from tests.support.run_configs import blank_database, copied_url
from tests.tuner.planning.test_dispatch import COMPLETE, LOST, Cohorts
from tuner.jobs import Job
from tuner.planning.dispatch import Dispatcher
from tuner.planning.plan import Plan
from tuner.planning.plans import Plans
from tuner.store.run import Run


@pytest.fixture(scope="module")
def search_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Plan]:
    """Makes plans of runs with a name."""
    blank = blank_database(tmp_path_factory.mktemp("blank"))

    def make(name: str, trials: int = 1, seeds: int = 1) -> Plan:
        asked = config(trials=trials, seeds=seeds)
        run = Run.create(tmp_path_factory.mktemp("runs") / name, asked)
        copied_url(blank, run.path)
        return new_search(asked, run)

    return make


def given_out(plans: Plans) -> tuple[Plan, Job] | None:
    found = plans.next_jobs()
    if found is None:
        return None
    plan, (job,) = found
    return plan, job


def text(found: tuple[Plan, Job] | None) -> str | None:
    return found and f"{found[0].key}: {found[1]}"


def finish(found: tuple[Plan, Job] | None, state: str = "complete") -> None:
    assert found
    plan, job = found
    plan.record([(job, ended(job, state))])


def test_the_next_plans_jobs_fill_the_gap_while_the_firsts_wait_for_results(search_of: Callable[..., Plan]) -> None:
    plans = Plans([search_of("a"), search_of("b")], Path())
    a_one, a_two, b_one = (given_out(plans) for _ in range(3))
    assert [text(each) for each in (a_one, a_two, b_one)] == ["a: one trial 0", "a: two trial 0", "b: one trial 0"]
    finish(a_one)
    retraining, b_two = given_out(plans), given_out(plans)
    assert [text(retraining), text(b_two)] == ["a: one seed 0", "b: two trial 0"]
    assert given_out(plans) is None  # all wait for what is under way


def test_plans_end_in_order_and_each_once(search_of: Callable[..., Plan]) -> None:
    said: list[str] = []
    plans = Plans([search_of("a"), search_of("b")], Path(), lambda plan: said.append(plan.key))
    while found := given_out(plans):
        said.append(text(found) or "")
        finish(found)
    assert plans.next_jobs() is None and plans.open == []
    of_plan = ["one trial 0", "two trial 0", "one seed 0", "two seed 0"]
    assert said == [*(f"a: {job}" for job in of_plan), "a", *(f"b: {job}" for job in of_plan), "b"]


def test_a_plan_that_waits_has_not_ended(search_of: Callable[..., Plan]) -> None:
    closed: list[str] = []
    plans = Plans([search_of("a"), search_of("b")], Path(), lambda plan: closed.append(plan.key))
    under_way = [given_out(plans) for _ in range(4)]
    assert given_out(plans) is None and closed == []
    for found in under_way[2:]:  # b is ahead of a
        finish(found, "failed")
    assert given_out(plans) is None and closed == ["b"]
    for found in under_way[:2]:
        finish(found, "failed")
    assert given_out(plans) is None and closed == ["b", "a"]


def test_a_plan_whose_files_cannot_be_written_at_its_end_is_open_still(search_of: Callable[..., Plan]) -> None:
    """So that who halts the work closes it, and its status says so."""
    plan = search_of("a")

    def full(ended: Plan) -> None:
        raise OSError(28, "No space left on device")

    plans = Plans([plan], Path(), full)
    while len(plan.run.seed_rows()) < 2:
        finish(given_out(plans))
    with pytest.raises(OSError, match="No space left"):
        plans.next_jobs()
    assert plans.open == [plan]


def test_a_plan_without_work_ends_at_once(search_of: Callable[..., Plan]) -> None:
    done = search_of("a")
    while jobs := done.next_jobs():
        done.record([(job, ended(job)) for job in jobs])
    closed: list[str] = []
    plans = Plans([done, search_of("b")], Path(), lambda plan: closed.append(plan.key))
    assert text(given_out(plans)) == "b: one trial 0"
    assert closed == ["a"]


def test_progress_of_several_is_said_with_the_runs_name(search_of: Callable[..., Plan]) -> None:
    a, b = search_of("a"), search_of("b")
    assert {p.run for p in Plans([a], Path()).progress()} == {""}
    plans = Plans([a, b], Path())
    keys = [(phase, name) for phase in ("search", "retrain") for name in ("one", "two")]
    assert [p.key for p in plans.progress()] == [(run, *key) for run in "ab" for key in keys]
    while found := given_out(plans):
        finish(found)
    assert [(p.done, p.total) for p in plans.progress()] == [(1, 1)] * 8  # of those that have ended, too


def test_only_open_plans_are_ticked() -> None:
    ticks: list[str] = []

    class Ticking(Cohorts):
        def tick(self) -> None:
            ticks.append(self.key)

    first, second = Ticking(), Ticking(1)
    first.key, second.key, first.busy = "a", "b", False
    plans = Plans([first, second], Path())  # type: ignore[list-item]
    plans.tick()
    plans.next_jobs()
    plans.tick()
    assert ticks == ["a", "b", "b"]


# What is lost.


def two(retries: int) -> tuple[Dispatcher, Cohorts, Cohorts]:
    """Of the same trials, of which the second's is given out while the first has no other."""
    a, b = Cohorts(1, retries=retries), Cohorts(1, retries=retries)
    a.key, b.key = "a", "b"
    return Dispatcher(Plans([a, b], Path()), lambda: None), a, b  # type: ignore[list-item]


def test_a_lost_job_goes_back_to_its_own_plan() -> None:
    dispatcher, a, b = two(retries=1)
    assert dispatcher.assign("x") and dispatcher.assign("y")
    dispatcher.close("y", LOST)
    dispatcher.complete("x", {0: COMPLETE})
    again = dispatcher.assign("z")
    assert again and again.plan is b
    dispatcher.complete("z", {0: COMPLETE})
    assert (a.trials(), b.trials()) == ([0], [0])


def test_losses_are_counted_for_each_plan() -> None:
    """Both have a trial 0, and each may be lost once."""
    dispatcher, a, b = two(retries=1)
    for lost in ("x", "y"):
        assert dispatcher.assign(lost)
    for lost in ("x", "y"):
        dispatcher.close(lost, LOST)
    assert (a.recorded, b.recorded) == ([], [])
    for again in ("x again", "y again"):
        assert dispatcher.assign(again)
        dispatcher.close(again, LOST)
    assert [[outcome.state for _, outcome in plan.recorded] for plan in (a, b)] == [["failed"], ["failed"]]

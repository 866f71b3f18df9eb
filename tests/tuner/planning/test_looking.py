"""Runs that go on until they are decided: which jobs are given out between looks, and what another command does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.plans import config, ended
from tuner.config.changes import extended, keep_seeds, revise
from tuner.config.schema import Config
from tuner.errors import UserError
from tuner.jobs import Job
from tuner.planning.cohorts import CohortSizes, studies_at_once
from tuner.planning.plan import Plan, retrain_plan, search_plan
from tuner.planning.study_db import StudyDatabase
from tuner.store.extent import Extent
from tuner.store.run import Run
from tuner.store.seed_rows import missing_runs


@pytest.fixture(autouse=True)
def _no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """study.db holds nothing that a plan hangs on, and takes most of the time."""
    monkeypatch.setattr(StudyDatabase, "write", lambda self, last=False: True)
    monkeypatch.setattr("tuner.planning.study.orphans", lambda storage, name: set())


THREE = {"three": {"class": "pkg.Three", "space": {"lr": {"low": 0.0, "high": 1.0}}}}


def until(studies: int = 1, seeds: Any = 2, **report: Any) -> Config:
    """Of optimizers one, two and three; one is the baseline."""
    base = config(trials=2, seeds=seeds)
    more = base.model_dump(by_alias=True)
    more["optimizers"] |= THREE
    more["search"] |= {"optimizers": [*more["optimizers"]], "studies": studies}
    more["report"] |= {"baseline": "one", "until": "decided", **report}
    return Config.model_validate(more)


def plan(asked: Config, run: Run, at: Mapping[int, dict[str, str]], *, search: bool = True) -> tuple[Plan, list[int]]:
    """A plan whose looks decide what ``at`` says, and the looks that it has taken."""
    taken: list[int] = []

    def decide(units: int) -> dict[str, str]:
        taken.append(units)
        return {name: word for look, found in at.items() if look <= units for name, word in found.items()}

    make = search_plan if search else retrain_plan
    return make(asked, run, CohortSizes(asked, {}, asked.retraining_runs), decide=decide), taken


def finish(made: Plan, most: int = 10_000) -> list[Job]:
    """Do so many cohorts."""
    done: list[Job] = []
    while most and (jobs := made.next_jobs()):
        made.record([(job, ended(job, "complete", len(jobs))) for job in jobs])
        done += jobs
        most -= 1
    made.close()
    return done


def units(jobs: list[Job], phase: str) -> dict[str, list[int]]:
    """Studies, by optimizer."""
    return {name: sorted({job.study for job in jobs if job.optimizer == name and job.phase == phase})
            for name in ("one", "two", "three")}  # fmt: skip


def test_optimizers_stop_at_the_look_that_decides_and_the_baseline_with_the_last(run: Run) -> None:
    asked = until(studies=10, looks=[3, 6, 10])
    made, taken = plan(asked, run, {3: {"two": "worse"}, 6: {"three": "better"}})
    jobs = finish(made)
    assert taken == [3, 6]
    for phase in ("search", "retrain"):
        assert units(jobs, phase) == {"one": list(range(6)), "two": list(range(3)), "three": list(range(6))}
    progress = {(p.phase, p.optimizer): (p.done, p.total) for p in made.progress()}
    assert progress["search", "two"] == (6, 6) and progress["retrain", "one"] == (12, 12)
    content = json.loads((run.path / "looks.json").read_text())
    assert content["stopped"] == {"two": 3, "three": 6, "one": 6}
    assert content["looks"] == [{"units": 3, "decided": {"two": "worse"}}, {"units": 6, "decided": {"three": "better"}}]


def test_no_study_begins_before_the_look_is_known(run: Run) -> None:
    made, taken = plan(until(studies=6, looks=[3, 6]), run, {})
    given_out, done = [], []
    while jobs := made.next_jobs():
        given_out.append(jobs)
    searched = [job for jobs in given_out for job in jobs]
    assert {job.study for job in searched} == {0, 1, 2} and taken == []
    assert Counter(job.optimizer for job in searched) == {"one": 6, "two": 6, "three": 6}
    for jobs in given_out:
        made.record([(job, ended(job)) for job in jobs])
        done += jobs
    totals = {p.total for p in made.progress() if p.phase == "search"}
    assert totals == {12}  # of all that may be
    assert {job.study for job in finish(made)} == {0, 1, 2, 3, 4, 5} and taken == [3, 6]


def test_what_is_not_decided_goes_to_the_cap(run: Run) -> None:
    made, taken = plan(until(studies=4), run, {})
    assert units(finish(made), "retrain") == {name: [0, 1, 2, 3] for name in ("one", "two", "three")}
    assert taken == [3, 4]


def test_with_one_study_units_are_seeds(run: Run) -> None:
    asked = until(seeds=[7, 5, 3, 9, 1], looks=[3, 5])
    made, taken = plan(asked, run, {3: {"two": "worse"}})
    jobs = finish(made)
    seeds = {name: [job.seed for job in jobs if job.phase == "retrain" and job.optimizer == name]
             for name in ("one", "two")}  # fmt: skip
    assert seeds == {"one": [7, 5, 3, 9, 1], "two": [7, 5, 3]} and taken == [3, 5]
    extent = Extent.of(asked, run.path)
    assert [extent.retraining_runs(name) for name in ("one", "two")] == [5, 3]
    assert missing_runs(extent, run.seed_rows()) == []
    assert extent.saved == (0, 2)


@pytest.mark.parametrize("stop", [3, 11, 19, 25, 40])
def test_a_command_that_goes_on_takes_the_same_looks(run: Run, stop: int) -> None:
    """It was killed after so many jobs, before or after a look."""
    asked, at = until(studies=8, looks=[3, 5, 8]), {3: {"two": "worse"}, 5: {"three": "better"}}
    first = finish(plan(asked, run, at)[0], stop)
    if stop == 19:
        (run.path / "looks.json").unlink(missing_ok=True)
    made, taken = plan(asked, run, at)
    rest = finish(made)
    assert len(rest) > 0 and taken == [3, 5]
    both = [(str(job), job.phase) for job in first + rest]
    assert len(both) == len(set(both))
    assert units(first + rest, "retrain") == {"one": list(range(5)), "two": [0, 1, 2], "three": list(range(5))}
    assert finish(plan(asked, run, at)[0]) == []


def test_retraining_alone_goes_from_look_to_look(run: Run) -> None:
    asked = until(seeds=6, looks=[3, 6])
    made, _ = plan(asked, run, {})
    while (jobs := made.next_jobs())[0].phase == "search":
        made.record([(job, ended(job)) for job in jobs])
    again, taken = plan(asked, run, {3: {"two": "equivalent", "three": "better"}}, search=False)
    assert {job.seed for job in finish(again)} == {0, 1, 2} and taken == [3]


def test_a_failed_run_is_done_again_before_its_look_is_taken_anew(run: Run) -> None:
    asked, at = until(studies=4, looks=[3, 4]), {3: {"two": "worse", "three": "worse"}}
    made, _ = plan(asked, run, at)
    while jobs := made.next_jobs():
        made.record([(job, ended(job, "failed" if str(job) == "one seed 10001" else "complete")) for job in jobs])
    made.close()
    assert list(map(str, finish(plan(asked, run, at)[0]))) == ["one seed 10001"]


def test_cohorts_are_of_the_studies_between_looks() -> None:
    assert studies_at_once(until(studies=20)) == 5
    assert studies_at_once(until(studies=10, looks=[3, 9, 10])) == 6
    assert studies_at_once(until(seeds=20)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search.studies": 8}, "search.studies: this run is decided at looks after 3, 4 studies"),
        ({"search.trials": 9}, "search.trials: "),
        ({"retrain.seeds": 5}, "retrain.seeds: "),
    ],
)
def test_a_plan_that_has_begun_is_not_changed(change: dict[str, Any], message: str) -> None:
    asked = until(studies=4)
    assert extended(asked, revise(asked, {"resources.max_concurrent": 2})).resources.max_concurrent == 2
    with pytest.raises(UserError, match=message):
        extended(asked, revise(asked, change))


def test_an_open_ended_plan_grows(run: Run) -> None:
    asked = until(studies=3, spending="e_process")
    assert finish(plan(asked, run, {})[0])
    more = extended(asked, revise(asked, {"search.studies": 8}))
    assert more.looks == [3, 4, 6, 8]
    made, taken = plan(more, run, {6: {"two": "better", "three": "better"}})
    assert units(finish(made), "retrain")["one"] == [3, 4, 5] and taken == [3, 4, 6]
    with pytest.raises(UserError, match=r"retrain\.seeds"):
        extended(asked, revise(asked, {"retrain.seeds": 9}))
    seeds = until(seeds=[4, 2, 3], spending="e_process")
    assert extended(seeds, revise(seeds, {"retrain.seeds": [4, 2, 3, 1]})).most_units == 4
    with pytest.raises(UserError, match=r"retrain\.seeds"):
        extended(seeds, revise(seeds, {"retrain.seeds": [2, 3, 4, 1]}))


def test_the_order_of_seeds_is_the_plans() -> None:
    assert keep_seeds(until(seeds=[7, 5, 3]), [3, 5]).retrain.seeds == [7, 5, 3]


@pytest.mark.parametrize("text", ["{", "[]", '{"stopped": {"one": 0}}', '{"stopped": 3}'])
def test_damaged_looks_are_one_line(run: Run, text: str) -> None:
    (run.path / "looks.json").write_text(text)
    with pytest.raises(UserError, match=r"looks\.json: is damaged"):
        Extent.of(until(studies=4), run.path)

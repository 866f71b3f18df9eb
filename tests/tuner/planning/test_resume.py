"""A plan cut off at any moment, as by SIGKILL, and built anew from its directory: real files and SQLite, no Ray."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.support.run_configs import OPTIMIZERS, run_config, stored
from tests.support.thinned import thinned
from tests.support.workers import Workers, abandon, complete, finish, numbers, of_any_state, planned, texts
from tuner.config.schema import Config
from tuner.jobs import Job
from tuner.planning.study import ABANDONED_AFTER
from tuner.store.run import Run

KINDS: list[Any] = ["a", 1, 0.5, False]
WITH_KIND = {"class": "pkg.Two", "space": OPTIMIZERS["two"]["space"] | {"kind": {"choices": KINDS}}}


def config(optimizers: dict[str, Any] = OPTIMIZERS, **changes: Any) -> Config:
    return run_config(optimizers, **{"trials": 6, "cohort": 1} | changes)


def tear(path: Path, chance: random.Random) -> None:
    """Cut the last line in the middle."""
    if path.exists() and (content := path.read_bytes()):
        start = content.rstrip(b"\n").rfind(b"\n") + 1
        path.write_bytes(content[: chance.randint(start, len(content) - 1)])


def tear_curves(run: Run, chance: random.Random) -> None:
    """Those of a trial are written before its row: one whose curves are cut has none yet."""
    if not run.trial_rows() or run.seed_rows():
        return
    last, (*_, curve) = run.trial_rows()[-1], run.curves().to_dict("records")
    if (last["optimizer"], last["trial"]) == (curve["optimizer"], str(curve["trial"])):
        tear(run.path / "logs/curves.csv", chance)
        lines = (run.path / "trials.csv").read_text().splitlines(keepends=True)
        (run.path / "trials.csv").write_text("".join(lines[:-1]))


def damage(run: Run, chance: random.Random) -> None:
    """What a crash may leave behind of what was not about to be written, or was."""
    if chance.random() < 0.3:
        (run.path / "best.json").unlink(missing_ok=True)
    if chance.random() < 0.3:
        (run.path / "seeds.csv.partial").write_text("task,optimizer,se")
    if chance.random() < 0.2:
        (run.path / "study.db").unlink(missing_ok=True)


def tear_any(run: Run, chance: random.Random) -> None:
    match chance.randrange(5):
        case 0:
            tear(run.path / "trials.csv", chance)
        case 1:
            tear(run.logs / "asked.jsonl", chance)
        case 2:
            tear_curves(run, chance)


def assert_database_agrees(run: Run, asked: Config) -> None:
    """study.db has what trials.csv has, and besides only trials of nobody, that failed."""
    states = {"complete": "COMPLETE", "diverged": "COMPLETE", "failed": "FAIL", "stopped": "PRUNED"}
    for name in asked.optimizers:
        found = stored(run.study_url, name)
        assert [trial.number for trial in found] == list(range(len(found)))
        rows = {int(row["trial"]): row for row in run.trial_rows() if row["optimizer"] == name}
        assert {trial.number for trial in found if "state" in trial.user_attrs} == rows.keys()
        for trial in found:
            row = rows.get(trial.number)
            if row is None:
                assert trial.state == TrialState.FAIL
                continue
            assert trial.state.name == states[row["state"]]
            hp = {key.removeprefix("hp."): text for key, text in row.items() if key.startswith("hp.")}
            assert {key: str(value) for key, value in trial.params.items()} == hp
            if trial.state == TrialState.COMPLETE:
                assert trial.value == float(row["value"])
            if trial.state == TrialState.PRUNED:
                assert trial.intermediate_values == {int(row["steps"]): float(row["value"])}


# The same as if nothing had happened.


@pytest.mark.parametrize("becomes", [complete, of_any_state])
@pytest.mark.parametrize("sampler", thinned(["tpe", "random", "qmc", "gp"], 2))
def test_one_at_a_time_a_run_cut_off_again_and_again_ends_as_if_undisturbed(
    sampler: str, becomes: Callable[[Job], Any], run_of: Callable[[Config], Run]
) -> None:
    asked = config(sampler=sampler, trials=8 if sampler != "gp" else 7)
    undisturbed = run_of(asked)
    finish(asked, undisturbed, Workers(becomes=becomes))
    chance, run, times = random.Random(f"{sampler} {becomes.__name__}"), run_of(asked), 0
    while not Workers(becomes=becomes).do(plan := planned(asked, run), chance, chance.randint(1, 12)):
        abandon(plan)
        damage(run, chance)
        tear_any(run, chance)
        times += 1
    assert plan.close() == []
    assert times > 3
    assert texts(run) == texts(undisturbed)
    assert_database_agrees(run, asked)
    keys = ["optimizer", "phase", "trial", "seed", "metric", "split"]
    curves = [of.curves().sort_values(keys, ignore_index=True) for of in (run, undisturbed)]
    assert curves[0].equals(curves[1])


@pytest.mark.parametrize("becomes", [complete, of_any_state])
@pytest.mark.parametrize("cohort", [1, 4])
def test_several_at_once_every_trial_is_done_once_and_what_was_begun_with_the_same_hyperparameters(
    cohort: int, becomes: Callable[[Job], Any], run_of: Callable[[Config], Run]
) -> None:
    optimizers = OPTIMIZERS | {"two": WITH_KIND}
    asked = config(optimizers, sampler="tpe", trials=10, concurrent=3, cohort=cohort)
    chance, run = random.Random(cohort), run_of(asked)
    workers, times = Workers(3, becomes), 0
    begun: dict[tuple[str, int], dict[str, Any]] = {}
    while not workers.do(plan := planned(asked, run), chance, chance.randint(1, 9)):
        abandon(plan)
        damage(run, chance)
        times += 1
    assert plan.close() == []
    assert times > 3
    for job in workers.given:
        if job.phase == "search":
            hp = begun.setdefault((job.optimizer, job.trial), job.hp)
            assert repr(hp) == repr(job.hp)
    for name in optimizers:
        assert numbers(run, name) == list(range(asked.search.trials))
    assert begun.keys() == {(name, number) for name in optimizers for number in range(asked.search.trials)}
    assert_database_agrees(run, asked)
    seeds = [(row["optimizer"], row["seed"]) for row in run.seed_rows()]
    valid = [name for name in optimizers if run.best()["optimizers"][name]["hp"]]
    assert seeds == [(name, str(seed)) for name in valid for seed in asked.retrain.seeds]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
@pytest.mark.parametrize("number", [1, 3])
def test_no_hyperparameters_are_drawn_twice(sampler: str, number: int, run_of: Callable[[Config], Run]) -> None:
    """Neither after an interruption nor after failures."""
    asked = config({"two": OPTIMIZERS["two"]}, sampler=sampler, trials=14, concurrent=number)

    def at_first_failed(job: Job) -> Any:
        return "failed" if job.trial < 3 else "complete"

    run = run_of(asked)
    for events in (9, 7):
        plan = planned(asked, run)
        assert not Workers(number, at_first_failed).do(plan, random.Random(0), events)
        abandon(plan)
    finish(asked, run, Workers(number, at_first_failed))
    assert numbers(run, "two") == list(range(14))
    assert max(Counter(row["hp.lr"] for row in run.trial_rows()).values()) == 1


def test_what_was_under_way_is_done_first(run_of: Callable[[Config], Run]) -> None:
    asked = config(trials=12, concurrent=3, cohort=4)
    run, workers = run_of(asked), Workers(3)
    plan = planned(asked, run)
    assert not workers.do(plan, random.Random(0), 3)
    abandon(plan)
    assert len(workers.cut_off) == 12
    plan = planned(asked, run)
    again = [job for _ in range(3) for job in plan.next_jobs()]
    assert sorted(map(repr, again)) == sorted(map(repr, workers.cut_off))
    abandon(plan)


# A run that is extended.


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_more_trials_go_on_where_the_search_was(sampler: str, run_of: Callable[[Config], Run]) -> None:
    short, long = (config(sampler=sampler, trials=trials) for trials in (5, 9))
    run, at_once = run_of(short), run_of(long)
    finish(short, run, Workers())
    before = (run.path / "trials.csv").read_text()
    workers = Workers()
    finish(long, run, workers)
    finish(long, at_once, Workers())
    assert (run.path / "trials.csv").read_text().startswith(before)
    for name in OPTIMIZERS:
        assert numbers(run, name) == list(range(9))
        assert [job.trial for job in workers.given if (job.phase, job.optimizer) == ("search", name)] == [5, 6, 7, 8]
    assert [row["hp.lr"] for row in run.trial_rows() if row["optimizer"] == "one"].count("0.5") == 1
    assert sorted((run.path / "trials.csv").read_text().splitlines()) == sorted(
        (at_once.path / "trials.csv").read_text().splitlines()
    )
    assert texts(run)["best.json"] == texts(at_once)["best.json"]
    assert texts(run)["seeds.csv"] == texts(at_once)["seeds.csv"]
    assert_database_agrees(run, long)


def test_defaults_left_out_of_a_short_search_are_tried_in_a_longer_one(run_of: Callable[[Config], Run]) -> None:
    asked = config(trials=1)
    run = run_of(asked)
    finish(asked, run, Workers())
    finish(config(trials=3), run, Workers())
    rates = [row["hp.lr"] for row in run.trial_rows() if row["optimizer"] == "one"]
    assert rates[:2] == ["0.5", "0.125"] and len(set(rates)) == 3


@pytest.mark.parametrize("search", [True, False])
def test_more_seeds_are_run_and_the_others_are_not_again(search: bool, run_of: Callable[[Config], Run]) -> None:
    asked = config(trials=2, seeds=2)
    run = run_of(asked)
    finish(asked, run, Workers())
    before, workers = texts(run)["seeds.csv"].splitlines(), Workers()
    finish(config(trials=2, seeds=[4, 1, 0]), run, workers, search=search)
    assert list(map(str, workers.given)) == ["one seed 4", "two seed 4"]
    after = texts(run)["seeds.csv"].splitlines()
    assert [line for line in after if line in before] == before and len(after) == len(before) + 2


def test_a_better_configuration_is_retrained_and_the_other_forgotten(run_of: Callable[[Config], Run]) -> None:
    """Of "two", whose first trial is not its best; "one" has found its best at once."""
    optimizers = OPTIMIZERS | {"one": OPTIMIZERS["one"] | {"defaults": [{"lr": 0.3}]}}
    asked = config(optimizers, trials=1)
    run, workers = run_of(asked), Workers()
    finish(asked, run, workers)
    first, lines = run.best()["optimizers"]["two"], texts(run)["seeds.csv"].splitlines()
    workers = Workers()
    longer = config(optimizers, trials=9)
    finish(longer, run, workers)
    best = run.best()["optimizers"]
    assert best["two"]["value"] < first["value"] and best["two"]["hp"] != first["hp"] and best["one"]["trial"] == 0
    retrained = [job for job in workers.given if job.phase == "retrain"]
    assert [(str(job), job.hp) for job in retrained] == [(f"two seed {seed}", best["two"]["hp"]) for seed in (0, 1)]
    rows = run.seed_rows()
    assert [(row["optimizer"], row["seed"], row["hp.lr"]) for row in rows] == [
        (name, str(seed), str(best[name]["hp"]["lr"])) for name in optimizers for seed in (0, 1)
    ]
    assert set(lines) & set(texts(run)["seeds.csv"].splitlines()) == {line for line in lines if ",two," not in line}
    curves = run.curves()
    curves = curves[(curves["phase"] == "retrain") & (curves["metric"] == "loss") & (curves["split"] == "val")]
    assert sorted(zip(curves["optimizer"], curves["seed"], curves["trial"], strict=True)) == [
        (name, seed, best[name]["trial"]) for name in optimizers for seed in (0, 1)
    ]


# Searches that fail.


@pytest.mark.parametrize(("number", "cohort", "trials"), [(1, 1, 12), (3, 1, 18), (2, 4, 28)])
def test_a_search_whose_trials_all_fail_is_given_up_and_a_resumed_one_gets_as_many_again(
    number: int, cohort: int, trials: int, run_of: Callable[[Config], Run]
) -> None:
    asked = config(trials=trials, concurrent=number, cohort=cohort)
    run, before = run_of(asked), 0

    def of_one(job: Job) -> Any:
        return "failed" if job.optimizer == "one" else "complete"

    for _ in range(2):
        plan = finish(asked, run, Workers(number, of_one))
        assert plan.abandoned_searches() == ["one"]
        tried = numbers(run, "one")
        assert tried == list(range(len(tried)))
        assert before + ABANDONED_AFTER <= len(tried) < before + ABANDONED_AFTER + number * cohort
        assert len(numbers(run, "two")) == trials
        assert {row["optimizer"] for row in run.seed_rows()} == {"two"}
        before = len(tried)
        assert_database_agrees(run, asked)
    plan = finish(asked, run, Workers(number))
    assert plan.abandoned_searches() == [] and numbers(run, "one") == list(range(trials))
    assert run.best()["optimizers"]["one"]["n_failed"] == before


@pytest.mark.parametrize("fine", range(ABANDONED_AFTER))
def test_one_success_among_the_first_keeps_a_search_going(fine: int, run_of: Callable[[Config], Run]) -> None:
    asked = config(trials=8)
    run = run_of(asked)
    plan = finish(asked, run, Workers(becomes=lambda job: "complete" if job.trial == fine else "failed"))
    assert plan.abandoned_searches() == [] and len(run.trial_rows()) == 16


# What others left in study.db.


@pytest.mark.parametrize("cut_off_after", [4, 5, 8])
def test_trials_that_another_program_left_running_fail_and_cost_nothing(
    cut_off_after: int, run_of: Callable[[Config], Run]
) -> None:
    asked = config(trials=6)
    run = run_of(asked)
    plan = planned(asked, run)
    assert not Workers().do(plan, random.Random(0), cut_off_after)
    assert plan.search is not None
    for study in plan.search.studies.values():
        study.database.close()
    abandon(plan)
    other = optuna.load_study(study_name="blobs/one", storage=run.study_url)
    aliens = [other.ask({"lr": optuna.distributions.FloatDistribution(0.0, 1.0)}).number for _ in range(2)]
    finish(asked, run, Workers())
    assert len(numbers(run, "one")) == 6 and not set(aliens) & set(numbers(run, "one"))
    assert numbers(run, "two") == list(range(6))
    found = stored(run.study_url)
    assert [trial.state for trial in found if trial.number in aliens] == [TrialState.FAIL] * 2
    assert len(found) == 8
    assert_database_agrees(run, asked)


# Values and their types.


def test_hyperparameters_come_back_with_their_types(run_of: Callable[[Config], Run]) -> None:
    asked = config({"two": WITH_KIND}, sampler="random", trials=24)
    run, workers = run_of(asked), Workers()
    finish(asked, run, workers)
    best, tried = run.best(), {job.trial: job.hp for job in workers.given if job.phase == "search"}
    assert {repr(hp["kind"]) for hp in tried.values()} == set(map(repr, KINDS))
    plan = planned(asked, run)
    assert repr(run.best()) == repr(best)
    assert plan.next_jobs() == []
    assert plan.close() == []
    (run.path / "study.db").unlink()
    finish(asked, run, Workers())
    assert {trial.number: repr(trial.params) for trial in stored(run.study_url, "two")} == {
        number: repr(hp) for number, hp in tried.items()
    }


def test_a_finished_run_that_is_resumed_changes_nothing(run_of: Callable[[Config], Run]) -> None:
    asked = config(sampler="tpe")
    run = run_of(asked)
    finish(asked, run, Workers(becomes=of_any_state))
    before, database = texts(run), stored(run.study_url)
    workers = Workers()
    finish(asked, run, workers)
    assert workers.given == [] and texts(run) == before and stored(run.study_url) == database

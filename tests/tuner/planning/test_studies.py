"""Several studies of each optimizer: each is as a search of its own, with a winner and evaluation seeds of its own."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.edited_runs import as_before_studies
from tests.support.examples import examples
from tests.support.run_configs import OPTIMIZERS, SEED, AtOnce, ended, run_all, run_config, stored, study_config
from tests.support.workers import Workers, abandon, finish, of_any_state, planned, texts
from tuner.config.schema import Config
from tuner.jobs import Job, checkpoint_name
from tuner.planning.cohorts import CohortSizes
from tuner.planning.looking import Looking
from tuner.planning.phases import Search
from tuner.planning.samplers import sampling_seed
from tuner.planning.study import OptimizerStudy
from tuner.store.run import Run

RunOf = Callable[[Config], Run]


def config(studies: int = 3, **changes: Any) -> Config:
    return run_config(OPTIMIZERS, studies=studies, **{"trials": 7, "cohort": 1} | changes)


# What a study draws.


def drawn(optimizer: str = "one", study: int = 0, **settings: Any) -> list[dict[str, Any]]:
    asked = study_config(**{"sampler": "tpe", "studies": 5} | settings)
    storage = optuna.storages.InMemoryStorage
    made = OptimizerStudy(asked, optimizer, study, storage, 2, AtOnce())
    return [job.hp for job in run_all(made, [ended(float(number)) for number in range(4)])]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_a_study_draws_as_the_same_study_of_another_optimizer_with_its_space(sampler: str) -> None:
    for study in (0, 2):
        assert drawn("one", study, sampler=sampler) == drawn("two", study, sampler=sampler)


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_no_two_studies_and_no_two_tasks_share_a_draw(sampler: str) -> None:
    rows = [hp for study in range(5) for hp in drawn(study=study, sampler=sampler)]
    rows += drawn(task="moons", sampler=sampler)
    assert len({hp["lr"] for hp in rows}) == len({hp["beta"] for hp in rows}) == len(rows)


def test_a_study_draws_as_study_0_of_a_later_search_seed() -> None:
    assert drawn(study=3) == drawn(seed=SEED + 3)


def test_seeds_of_sampling_are_those_of_the_name_and_the_search_seed() -> None:
    names = ["blobs", "moons", "", "blobs ", "tâche", "a" * 500]
    seeds = {sampling_seed(name, seed) for name in names for seed in (0, 1, SEED, 2**32 - 1, 2**32 + 998)}
    assert len(seeds) == 5 * len(names) and all(0 <= seed < 2**32 for seed in seeds)
    assert sampling_seed("blobs", 0) == sampling_seed("blobs", 0)


# That each learns from its own results only.


def of_study(run: Run, study: int, table: str) -> list[dict[str, str]]:
    rows = run.trial_rows() if table == "trials" else run.seed_rows()
    return [{key: row[key] for key in row if key != "study"} for row in rows if row["study"] == str(study)]


@pytest.mark.parametrize("sampler", ["tpe", "qmc"])
def test_a_study_is_to_the_bit_a_run_of_its_own_with_its_search_seed(sampler: str, run_of: RunOf) -> None:
    """One training run at a time, and TPE has learnt of two trials at least."""
    together = run_of(config(sampler=sampler, trials=8))
    finish(config(sampler=sampler, trials=8), together, Workers(becomes=of_any_state))
    for study in (1, 2):
        asked = config(1, sampler=sampler, trials=8, seed=SEED + study, seeds=[10_000 * study, 10_000 * study + 1])
        alone = run_of(asked)
        finish(asked, alone, Workers(becomes=of_any_state))
        for table in ("trials", "seeds"):
            assert of_study(together, study, table) == of_study(alone, 0, table)
        for name, entry in together.best()["optimizers"].items():
            (expected,) = alone.best()["optimizers"][name]["studies"]
            assert entry["studies"][study] == expected | {"study": study}
        for name in OPTIMIZERS:
            found, expected = stored(together.study_url, name, study), stored(alone.study_url, name)
            assert [(t.params, t.values, t.state) for t in found] == [(t.params, t.values, t.state) for t in expected]


# What is retrained.


def test_each_winner_is_retrained_with_its_own_hyperparameters_over_seeds_of_its_study(run_of: RunOf) -> None:
    asked, workers = config(trials=3, seeds=[4, 2]), Workers()
    run = run_of(asked)
    finish(asked, run, workers)
    jobs = [job for job in workers.given if job.phase == "retrain"]
    assert sorted((job.optimizer, job.study, job.seed) for job in jobs) == [
        (name, study, 10_000 * study + seed) for name in OPTIMIZERS for study in range(3) for seed in (2, 4)
    ]
    for name, entry in run.best()["optimizers"].items():
        rows = [row for row in run.trial_rows() if row["optimizer"] == name]
        for study, winner in enumerate(entry["studies"]):
            (best,) = [job.hp for job in jobs if (job.optimizer, job.seed) == (name, 10_000 * study + 4)]
            values = {float(row["value"]): row for row in rows if row["study"] == str(study)}
            row = values[min(values)]
            assert winner["value"] == min(values) and winner["trial"] == int(row["trial"])
            assert {f"hp.{key}": str(value) for key, value in best.items()} == {
                key: row[key] for key in row if key.startswith("hp.")
            }
        assert entry["value"] == min(winner["value"] for winner in entry["studies"])
        assert entry["n_trials"] == 3 * 3
    curves = run.curves().query("phase == 'retrain'")
    assert {(o, s, e) for o, s, e in zip(curves["optimizer"], curves["study"], curves["seed"], strict=True)} == {
        (job.optimizer, job.study, job.seed) for job in jobs
    }


def test_a_study_without_a_valid_trial_is_not_retrained_and_the_others_are(run_of: RunOf) -> None:
    def becomes(job: Job) -> Any:
        return "diverged" if (job.phase, job.optimizer, job.study) == ("search", "two", 1) else "complete"

    asked, workers = config(trials=2), Workers(becomes=becomes)
    run = run_of(asked)
    finish(asked, run, workers)
    retrained = {(job.optimizer, job.study) for job in workers.given if job.phase == "retrain"}
    assert retrained == {("one", 0), ("one", 1), ("one", 2), ("two", 0), ("two", 2)}
    best = run.best()["optimizers"]["two"]
    assert [entry["hp"] is None for entry in best["studies"]] == [False, True, False]
    assert best["hp"] is not None and best["n_diverged"] == 2


@pytest.mark.parametrize(("broken", "trials", "retrained"), [({1}, 21, {"0", "2"}), ({0, 1, 2}, 5, set())])
def test_searches_are_given_up_where_all_studies_fail(
    run_of: RunOf, broken: set[int], trials: int, retrained: set[str]
) -> None:
    def becomes(job: Job) -> Any:
        return "failed" if job.optimizer == "one" and job.study in broken else "complete"

    asked, workers = config(trials=7), Workers(becomes=becomes)
    run = run_of(asked)
    plan = finish(asked, run, workers)
    assert plan.abandoned_searches() == (["one"] if trials < 21 else [])
    assert sum(row["optimizer"] == "one" for row in run.trial_rows()) == trials
    assert {row["study"] for row in run.seed_rows() if row["optimizer"] == "one"} == retrained


# Cut off and resumed; grown.


def test_a_run_of_several_studies_cut_off_again_and_again_ends_as_if_undisturbed(run_of: RunOf) -> None:
    asked = config(sampler="tpe")
    undisturbed, run, chance, times = run_of(asked), run_of(asked), random.Random(5), 0
    finish(asked, undisturbed, Workers(becomes=of_any_state))
    while not Workers(becomes=of_any_state).do(plan := planned(asked, run), chance, chance.randint(5, 30)):
        abandon(plan)
        times += 1
    assert plan.close() == [] and times > 3
    assert texts(run) == texts(undisturbed)


def test_several_at_once_each_trial_of_each_study_is_there_once(run_of: RunOf) -> None:
    asked, chance = config(trials=6, concurrent=3, cohort=4), random.Random(3)
    run, workers, times = run_of(asked), Workers(3, of_any_state), 0
    begun: dict[tuple[str, int, int], dict[str, Any]] = {}
    while not workers.do(plan := planned(asked, run), chance, chance.randint(1, 12)):
        abandon(plan)
        times += 1
    assert plan.close() == [] and times > 3
    for job in workers.given:
        if job.phase == "search":
            assert repr(begun.setdefault((job.optimizer, job.study, job.trial), job.hp)) == repr(job.hp)
    keys = [(name, study, trial) for name in OPTIMIZERS for study in range(3) for trial in range(6)]
    assert sorted((r["optimizer"], int(r["study"]), int(r["trial"])) for r in run.trial_rows()) == keys
    assert sorted(begun) == keys
    for name in OPTIMIZERS:
        for study in range(3):
            assert [trial.number for trial in stored(run.study_url, name, study)] == list(range(6))
    seeds = [(row["optimizer"], int(row["study"]), int(row["seed"])) for row in run.seed_rows()]
    assert len(set(seeds)) == len(seeds) and sorted(seeds) == seeds


def test_more_studies_are_searched_and_those_there_are_stay(run_of: RunOf) -> None:
    one, three = config(1, sampler="tpe"), config(3, sampler="tpe")
    run, at_once, workers = run_of(one), run_of(three), Workers()
    finish(one, run, Workers())
    before = texts(run)
    finish(three, run, workers)
    finish(three, at_once, Workers())
    assert {job.study for job in workers.given} == {1, 2}
    assert texts(run)["trials.csv"].startswith(before["trials.csv"])
    assert set(before["seeds.csv"].splitlines()) <= set(texts(run)["seeds.csv"].splitlines())
    assert sorted(texts(run)["trials.csv"].splitlines()) == sorted(texts(at_once)["trials.csv"].splitlines())
    for name in ("best.json", "seeds.csv"):
        assert texts(run)[name] == texts(at_once)[name]


def test_a_better_winner_of_one_study_leaves_the_retraining_of_the_others(run_of: RunOf) -> None:
    short, long = config(trials=3), config(trials=4)
    run, workers = run_of(short), Workers()
    finish(short, run, Workers())
    for job in run.seed_rows():
        run.weights.write(job["optimizer"], int(job["seed"]), b"old")
    before = {name: entry["studies"] for name, entry in run.best()["optimizers"].items()}
    finish(long, run, workers)
    after = {name: entry["studies"] for name, entry in run.best()["optimizers"].items()}
    changed = {(n, s) for n in OPTIMIZERS for s in range(3) if before[n][s]["hp"] != after[n][s]["hp"]}
    assert 0 < len(changed) < 6
    again = [job for job in workers.given if job.phase == "retrain"]
    assert {(job.optimizer, job.study) for job in again} == changed and len(again) == 2 * len(changed)
    for row in run.seed_rows():
        kept = run.weights.read(row["optimizer"], int(row["seed"])) == b"old"
        assert kept == ((row["optimizer"], int(row["study"])) not in changed)
    assert len(run.seed_rows()) == 12


# Runs made before there were studies.


@pytest.mark.parametrize("events", [1, 2, 9, 31])
def test_a_run_that_an_older_version_left_goes_on_as_one(events: int, run_of: RunOf) -> None:
    """Cut off before, in and after its search: texts are those of an undisturbed run, and curves too."""
    asked = config(1, sampler="tpe")
    undisturbed, run = run_of(asked), run_of(asked)
    finish(asked, undisturbed, Workers(becomes=of_any_state))
    plan = planned(asked, run)
    assert not Workers(becomes=of_any_state).do(plan, random.Random(1), events)
    abandon(plan)
    as_before_studies(run)
    run = Run(run.path)
    assert run.config() == asked
    finish(run.config(), run, Workers(becomes=of_any_state))
    assert texts(run) == texts(undisturbed)
    keys = ["optimizer", "phase", "trial", "seed", "metric", "split"]
    curves = [of.curves().sort_values(keys, ignore_index=True) for of in (run, undisturbed)]
    assert curves[0].equals(curves[1])


def test_a_finished_run_of_an_older_version_grows_more_studies(run_of: RunOf) -> None:
    one, three = config(1, trials=2), config(3, trials=2)
    run, at_once = run_of(one), run_of(three)
    finish(one, run, Workers())
    as_before_studies(run)
    assert not any("study" in line.partition("\n")[0] for line in texts(run).values())
    finish(three, run, Workers())
    finish(three, at_once, Workers())
    assert sorted(texts(run)["trials.csv"].splitlines()) == sorted(texts(at_once)["trials.csv"].splitlines())
    for name in ("best.json", "seeds.csv"):
        assert texts(run)[name] == texts(at_once)[name]


def test_a_table_of_an_older_version_with_nothing_but_its_header_is_begun_anew(run_of: RunOf) -> None:
    """As a first trial leaves it whose line was cut off."""
    asked = config(1, trials=2)
    run = run_of(asked)
    (run.path / "trials.csv").write_text("task,optimizer,trial,state,value,seed,steps,seconds,cohort,code,error\nblo")
    finish(asked, run, Workers())
    assert len(run.trial_rows()) == 4


def test_checkpoints_of_study_0_have_the_names_of_older_versions_and_no_two_jobs_share_one() -> None:
    names = {
        (phase, study, number): checkpoint_name([Job(phase, "adam", number, number + 10_000 * study, {}, study)])
        for phase in ("search", "retrain") for study in range(4) for number in range(4)
    }  # fmt: skip
    assert names["search", 0, 3] == "adam-trial-3" and names["retrain", 0, 2] == "adam-seed-2"
    assert names["search", 2, 3] == "adam-study-2-trial-3" and names["retrain", 2, 3] == "adam-seed-20003"
    assert len(set(names.values())) == len(names)


# Cohorts.


def test_a_cohort_is_of_all_studies_of_an_optimizer(run_of: RunOf) -> None:
    asked = config(studies=4, trials=16, cohort="auto")
    times = {"one": {1: 1.0, 16: 0.1}, "two": {1: 1.0}}
    run = run_of(asked)
    looking = Looking(asked, None, run.path)
    search = Search(asked, run, optuna.storages.InMemoryStorage, CohortSizes(asked, times, 8), looking)
    first, second = search.next_jobs(), search.next_jobs()
    assert [(job.study, job.trial) for job in first] == [(study, trial) for trial in range(4) for study in range(4)]
    assert {job.optimizer for job in first} == {"one"} and [str(job) for job in second] == ["two trial 0"]


@examples(60)
@given(
    studies=st.integers(1, 6), trials=st.integers(1, 60), workers=st.integers(1, 12), seed=st.integers(0, 99),
    times=st.dictionaries(st.integers(2, 90), st.floats(1e-3, 1.0), max_size=4),
)  # fmt: skip
def test_a_study_learns_from_the_most_of_its_results_however_many_workers_there_are(
    studies: int, trials: int, workers: int, seed: int, times: dict[int, float]
) -> None:
    """No study waits for more than a quarter of its budget, beside what is drawn at random and what workers who take
    one trial each make it."""
    asked = run_config({"one": OPTIMIZERS["one"]}, studies=studies, trials=trials, concurrent=workers, sampler="tpe")
    sizes = CohortSizes(asked, {"one": {1: 1.0, **times}}, 1)
    search = Search.__new__(Search)
    search.config, search.sizes = asked, sizes
    search.looking = Looking(asked, None, Path())
    search.run = type("Unwritten", (), {"append_asked": lambda *args: None})()  # type: ignore[assignment]
    search.studies = {("one", number): Counted(number, trials) for number in range(studies)}  # type: ignore[misc]
    chance, running, most = random.Random(seed), [], 0
    while True:
        while len(running) < workers and (jobs := search.next_jobs()):
            running.append(jobs)
            still_open = max(1, sum(study.asks for study in search.studies.values()))
            most = max(trials // 4, 5, -(-workers // still_open))
            assert all(study.running <= most for study in search.studies.values())
        if not running:
            break
        for job in running.pop(chance.randrange(len(running))):
            search.studies["one", job.study].tell(job, None)  # type: ignore[arg-type]
    assert all(study.asked == trials for study in search.studies.values())


class Counted:
    """A study of which only the numbers matter."""

    def __init__(self, number: int, total: int) -> None:
        self.optimizer, self.number, self.total, self.asked, self.running = "one", number, total, 0, 0

    @property
    def asks(self) -> bool:
        return self.asked < self.total

    def ask(self) -> Job:
        self.asked += 1
        self.running += 1
        return Job("search", "one", self.asked - 1, 0, {}, self.number)

    def tell(self, job: Job, outcome: object) -> None:
        self.running -= 1

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from tests.support.run_configs import (
    MIXED,
    SEED,
    AtOnce,
    blank_database,
    copied_url,
    ended,
    run_all,
    stored,
    study_config,
)
from tuner.config.boundary import at_boundary
from tuner.config.space import Dimension
from tuner.planning.samplers import draw_seed, sampling_seed
from tuner.planning.study import OptimizerStudy
from tuner.store.optuna_space import distribution

DEFAULTS = [{"lr": 1e-3, "beta": 0.9}, {"lr": 0.5, "beta": 0.9}, {"lr": 1e-2, "beta": 0.0}]  # the second is outside

Make = Callable[..., OptimizerStudy]


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blank_database(tmp_path_factory.mktemp("blank"))


@pytest.fixture
def url(blank: Path, tmp_path: Path) -> str:
    return copied_url(blank, tmp_path)


@pytest.fixture
def make(url: str) -> Make:
    storage = optuna.storages.RDBStorage(url)

    def make(optimizer: str = "one", number: int = 0, startup: int = 1, **settings: Any) -> OptimizerStudy:
        return OptimizerStudy(study_config(**settings), optimizer, number, lambda: storage, startup, AtOnce())

    return make


def in_memory(number: int = 0, startup: int = 1, **settings: Any) -> OptimizerStudy:
    storage = optuna.storages.InMemoryStorage
    return OptimizerStudy(study_config(**settings), "one", number, storage, startup, AtOnce())


# Asking.


def test_published_defaults_within_the_space_come_first_in_their_order(make: Make) -> None:
    jobs = run_all(make(defaults=DEFAULTS), [ended(1.0)] * 3)
    assert [job.hp for job in jobs[:2]] == [{"lr": 1e-3, "beta": 0.9}, {"lr": 1e-2, "beta": 0.0}]
    assert jobs[2].hp not in [job.hp for job in jobs[:2]]


def test_defaults_beyond_the_number_of_trials_are_left_out(make: Make, url: str) -> None:
    study = make(trials=1, defaults=DEFAULTS)
    job = study.ask()
    assert job.hp == DEFAULTS[0] and not study.asks
    study.tell(job, ended(1.0))
    study.database.close()
    assert [trial.params for trial in stored(url)] == [DEFAULTS[0]]


def test_a_default_that_says_nothing_of_a_dimension_leaves_it_to_the_sampler(make: Make) -> None:
    hp = make(defaults=[{"lr": 1e-3}]).ask().hp
    assert hp["lr"] == 1e-3
    assert 0 <= hp["beta"] <= 1


def test_a_job_is_a_trial_of_the_search_with_the_search_seed(make: Make) -> None:
    study = make("two")
    for number in range(2):
        job = study.ask()
        assert (job.phase, job.optimizer, job.trial, job.seed) == ("search", "two", number, SEED)


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_values_lie_in_the_space_and_have_its_types(sampler: str) -> None:
    jobs = run_all(in_memory(sampler=sampler, space=MIXED, trials=10), [ended(float(i % 5)) for i in range(10)])
    for hp in (job.hp for job in jobs):
        assert list(hp) == list(MIXED)
        assert type(hp["lr"]) is float and 1e-5 <= hp["lr"] <= 0.1
        assert type(hp["width"]) is int and 1 <= hp["width"] <= 64
        assert type(hp["depth"]) is int and 1 <= hp["depth"] <= 4
        assert hp["kind"] in ("a", "b", "c")
    assert len({job.hp["lr"] for job in jobs}) == 10
    assert len({job.hp["kind"] for job in jobs}) > 1


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])  # gp would import torch
def test_the_same_seed_and_answers_give_the_same_suggestions(make: Make, sampler: str) -> None:
    answers = [ended(random.Random(i).random(), "diverged" if i == 2 else "complete") for i in range(8)]
    one, two = (run_all(make(name, sampler=sampler, trials=8), answers) for name in ("one", "two"))
    assert [job.hp for job in one] == [job.hp for job in two]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_what_is_drawn_depends_on_the_seed_and_on_how_many_came_before(sampler: str) -> None:
    """At random: the next of the stream of a plain sampler with a seed made of the task's name and the search seed."""
    study = in_memory(sampler=sampler, trials=4, startup=4)
    plain = optuna.create_study(sampler=optuna.samplers.RandomSampler(sampling_seed("blobs", SEED)))
    for job in run_all(study, [ended(1.0)] * 4):
        assert plain.ask({name: distribution(dim) for name, dim in study.spec.space.items()}).params == job.hp
    assert len({draw_seed(seed, asked) for seed in range(30) for asked in range(30)}) == 900


def test_tpe_learns_from_the_answers() -> None:
    """After the random start it stays near the good end, where random search does not."""
    study = in_memory(sampler="tpe", space={"x": {"low": 0.0, "high": 1.0}}, trials=20)
    asked = []
    for _ in range(20):
        job = study.ask()
        asked.append(job.hp["x"])
        study.tell(job, ended(job.hp["x"]))
    assert sum(x < 0.3 for x in asked[10:]) > 6


def test_studies_of_two_optimizers_do_not_mix(make: Make, url: str) -> None:
    one, two = make("one"), make("two")
    run_all(one, [ended(1.0), ended(2.0)])
    run_all(two, [ended(3.0)])
    assert [trial.value for trial in stored(url, "one")] == [1.0, 2.0]
    assert [trial.value for trial in stored(url, "two")] == [3.0]
    assert (one.done, two.done) == (2, 1)
    assert one.best is not None and one.best[1] == 1.0


# Telling.


@pytest.mark.parametrize(
    ("state", "recorded", "value"),
    [
        ("complete", TrialState.COMPLETE, 0.5),
        ("diverged", TrialState.COMPLETE, 0.5),
        ("failed", TrialState.FAIL, None),
        ("stopped", TrialState.PRUNED, 0.5),
    ],
)
def test_a_trial_is_recorded_with_its_state(
    make: Make, url: str, state: str, recorded: TrialState, value: float | None
) -> None:
    run_all(make(), [ended(0.5, state)])
    (trial,) = stored(url)
    assert (trial.state, trial.value) == (recorded, value)
    assert trial.user_attrs["state"] == state


def test_a_stopped_trial_reports_its_value_at_its_step(make: Make, url: str) -> None:
    run_all(make(), [ended(0.5, "stopped")])
    assert stored(url)[0].intermediate_values == {3: 0.5}


def test_counts_say_what_became_of_the_trials(make: Make) -> None:
    study = make(trials=6)
    states = ["diverged", "failed", "complete", "stopped", "diverged"]
    run_all(study, [ended(1.0, state) for state in states])
    study.ask()
    assert study.counts == {"complete": 1, "diverged": 2, "failed": 1, "stopped": 1}
    assert (study.asked, study.done, study.running, study.total) == (6, 5, 1, 6)


def test_trials_may_end_in_any_order(make: Make, url: str) -> None:
    study = make()
    jobs = [study.ask() for _ in range(4)]
    for job in (jobs[2], jobs[0], jobs[3], jobs[1]):
        study.tell(job, ended(float(job.trial)))
    study.database.write()
    assert [trial.value for trial in stored(url)] == [0.0, 1.0, 2.0, 3.0]
    assert [trial.params for trial in stored(url)] == [job.hp for job in jobs]


def test_several_are_asked_for_before_the_first_result_and_differ(make: Make) -> None:
    study = make(trials=5, sampler="tpe")
    jobs = [study.ask() for _ in range(5)]
    assert [job.trial for job in jobs] == [0, 1, 2, 3, 4]
    assert (study.asked, study.running) == (5, 5) and not study.asks
    assert len({str(job.hp) for job in jobs}) == 5
    for job in jobs[3:]:
        study.tell(job, ended(1.0))
    assert (study.done, study.running) == (2, 3)


def test_the_best_of_a_cohort_is_found(make: Make) -> None:
    study = make(trials=4)
    jobs = [study.ask() for _ in range(4)]
    for job, value in zip(jobs, [3.0, 1.0, 0.5, 2.0], strict=True):
        study.tell(job, ended(value))
    assert study.best == (jobs[2], 0.5)


@pytest.mark.parametrize("startup", [1, 6])
def test_startup_trials_are_those_of_the_random_sampler(startup: int) -> None:
    """One after the other, with answers that TPE would learn from."""
    space, trials = {"x": {"low": 0.0, "high": 1.0}}, 8
    drawn = [job.hp["x"] for job in run_all(in_memory(space=space, trials=trials), [ended(1.0)] * trials)]
    study, asked = in_memory(sampler="tpe", startup=startup, space=space, trials=trials), []
    for _ in range(trials):
        asked.append(study.ask())
        study.tell(asked[-1], ended(asked[-1].hp["x"]))
    same = [job.hp["x"] == x for job, x in zip(asked, drawn, strict=True)]
    assert all(same[:startup]) and not any(same[startup:])


# The best.


@pytest.mark.parametrize(("mode", "best"), [("min", 1), ("max", 0)])
def test_the_best_is_that_of_the_complete_trials(make: Make, mode: str, best: int) -> None:
    study = make(mode=mode, trials=7)
    better = -9.0 if mode == "min" else 9.0
    outcomes = [ended(3.0), ended(1.0), ended(2.0), ended(better, "diverged"), ended(better, "stopped"),
                ended(better, "failed")]  # fmt: skip
    jobs = run_all(study, outcomes)
    study.ask()
    summary = study.summary()
    assert study.best == (jobs[best], outcomes[best].metrics["val_loss"])
    assert summary == {
        "study": 0, "seed": SEED,
        "hp": jobs[best].hp, "value": outcomes[best].metrics["val_loss"], "trial": best, "n_trials": 6, "n_diverged": 1,
        "n_failed": 1, "at_boundary": summary["at_boundary"],
    }  # fmt: skip


def test_of_equals_the_first_is_best(make: Make) -> None:
    study = make()
    jobs = run_all(study, [ended(1.0), ended(1.0)])
    assert study.best == (jobs[0], 1.0)


def test_without_a_valid_trial_there_is_no_best(make: Make) -> None:
    study = make()
    run_all(study, [ended(1.0, "diverged"), ended(1.0, "failed"), ended(1.0, "stopped")])
    assert study.best is None
    assert study.summary() == {
        "study": 0, "seed": SEED,
        "hp": None, "value": None, "trial": None, "n_trials": 3, "n_diverged": 1, "n_failed": 1, "at_boundary": [],
    }  # fmt: skip


# The space.


@pytest.mark.parametrize("share", [0.0, 0.049, 0.951, 1.0])
@pytest.mark.parametrize("log", [False, True])
def test_the_outer_twentieth_of_a_range_is_at_the_boundary(log: bool, share: float) -> None:
    assert at_boundary(*placed(share, log)) == ["x"]


@pytest.mark.parametrize("share", [0.051, 0.5, 0.949])
@pytest.mark.parametrize("log", [False, True])
def test_the_rest_of_a_range_is_not_at_the_boundary(log: bool, share: float) -> None:
    assert at_boundary(*placed(share, log)) == []


def placed(share: float, log: bool) -> tuple[dict[str, Dimension], dict[str, Any]]:
    low, high = 1e-4, 10.0
    value = math.exp(math.log(low) + share * (math.log(high) - math.log(low))) if log else low + share * (high - low)
    return {"x": Dimension(low=low, high=high, log=log)}, {"x": min(max(value, low), high)}


def test_each_hyperparameter_at_its_boundary_is_named_but_no_choice() -> None:
    space = {"a": Dimension(low=0, high=1), "b": Dimension(choices=[1, 2]), "c": Dimension(low=1, high=9, integer=True),
             "d": Dimension(low=0, high=1)}  # fmt: skip
    assert at_boundary(space, {"a": 0.01, "b": 1, "c": 9, "d": 0.5}) == ["a", "c"]


@pytest.mark.parametrize(
    ("dim", "expected"),
    [
        (Dimension(low=0, high=1), FloatDistribution(0.0, 1.0)),
        (Dimension(low=1e-5, high=1, log=True), FloatDistribution(1e-5, 1.0, log=True)),
        (Dimension(low=-3, high=4, integer=True), IntDistribution(-3, 4)),
        (Dimension(low=1, high=1e6, integer=True, log=True), IntDistribution(1, 1000000, log=True)),
        (Dimension(choices=["a", 2, 0.5, True]), CategoricalDistribution(["a", 2, 0.5, True])),
    ],
)
def test_a_dimension_has_optunas_distribution(dim: Dimension, expected: object) -> None:
    assert distribution(dim) == expected


# Draws that tasks share.


def draws(task: str, how: str, sampler: str = "random", number: int = 0) -> list[dict[str, Any]]:
    """What is tried of one study, with a loss that is the task's own."""
    asked = study_config(trials=6, sampler=sampler, task=task, studies=2)
    asked = asked.model_copy(update={"search": asked.search.model_copy(update={"draws": how})})
    study = OptimizerStudy(asked, "one", number, optuna.storages.InMemoryStorage, 1, AtOnce())
    return [job.hp for job in run_all(study, [ended(len(task) * place) for place in range(6)])]


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_shared_draws_are_the_same_on_every_task_and_other_than_a_tasks_own(sampler: str) -> None:
    shared = [draws(task, "shared", sampler) for task in ("blobs", "spirals")]
    own = [draws(task, "own", sampler) for task in ("blobs", "spirals")]
    assert shared[0] == shared[1]
    tables = [shared[0], *own]
    assert all(
        first[place] != second[place] for first, second in itertools.combinations(tables, 2) for place in range(6)
    )


def test_shared_draws_of_another_study_are_others() -> None:
    assert not [hp for hp in draws("blobs", "shared") if hp in draws("blobs", "shared", number=1)]


def test_shared_draws_stay_the_same_where_a_search_goes_on() -> None:
    """As a trial's draw is a function of the search seed and its number."""
    first = draws("blobs", "shared")
    asked = study_config(trials=6, sampler="random", task="spirals")
    asked = asked.model_copy(update={"search": asked.search.model_copy(update={"draws": "shared"})})
    study = OptimizerStudy(asked, "one", 0, optuna.storages.InMemoryStorage, 1, AtOnce())
    assert [job.hp for job in run_all(study, [ended(1.0)] * 3)] == first[:3]

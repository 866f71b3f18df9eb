"""What trains as one stack: sizes by hand from given times, and what must never be exceeded whatever was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.planning.cohorts import CohortSizes, MemberSeconds, to_measure


@cache
def base(optimizers: tuple[str, ...]) -> Config:
    return resolve({"task.name": "mnist1d", "search.optimizers": list(optimizers)}, [])


def config(
    trials: int = 100,
    workers: int = 2,
    cohort: int | str = "auto",
    scheduler: str = "fifo",
    optimizers: tuple[str, ...] = ("adam",),
) -> Config:
    plain = base(optimizers)
    search = plain.search.model_copy(update={"trials": trials, "studies": 1, "scheduler": scheduler})
    resources = plain.resources.model_copy(update={"max_concurrent": workers, "cohort": cohort})
    return plain.model_copy(update={"search": search, "resources": resources})


def chosen(times: Mapping[int, float] | None, seeds: int = 10, **asked: Any) -> tuple[int, int]:
    """In the search and in the retraining."""
    sizes = CohortSizes(config(**asked), {} if times is None else {"adam": times}, seeds)
    return sizes.search["adam"], sizes.retrain["adam"]


LADDER = {1: 1.0, 8: 0.3, 12: 0.25, 32: 0.1, 128: 0.05}


# By hand.


@pytest.mark.parametrize(
    ("trials", "workers", "search"),
    [(100, 1, 12), (100, 2, 12), (64, 2, 8), (60, 2, 8), (59, 2, 1), (128, 1, 32), (127, 1, 12), (512, 4, 32),
     (10**4, 1, 128), (1, 1, 1), (3, 64, 1)],
)  # fmt: skip
def test_the_fastest_size_that_a_quarter_of_the_budget_allows_each_worker(
    trials: int, workers: int, search: int
) -> None:
    assert chosen(LADDER, trials=trials, workers=workers)[0] == search


def test_the_workers_on_a_study_are_its_share_of_all() -> None:
    both: dict[str, Any] = {"optimizers": ("adam", "sgd")}
    assert chosen(LADDER, trials=128, workers=4, **both)[0] == 12  # 2 on each, 16 at most
    assert chosen(LADDER, trials=128, workers=2, **both)[0] == 32
    assert chosen(LADDER, trials=128, workers=1, **both)[0] == 32
    assert chosen(LADDER, trials=128, workers=3, **both)[0] == 12  # 2 at times


@pytest.mark.parametrize(("seeds", "retrain"), [(1, 1), (7, 1), (8, 8), (11, 8), (12, 12), (40, 32), (500, 128)])
def test_a_retraining_takes_all_seeds_that_are_fastest_together(seeds: int, retrain: int) -> None:
    assert chosen(LADDER, seeds)[1] == retrain


def test_larger_is_not_always_faster() -> None:
    times = {1: 1.0, 8: 0.5, 20: 0.2, 32: 0.4}
    assert chosen(times, 32, trials=10**4) == (20, 20)
    assert chosen(times, 19, trials=4 * 19, workers=1) == (8, 8)


def test_of_equally_fast_sizes_the_largest_is_taken() -> None:
    """Two timings of the same are never equal."""
    assert chosen({1: 1.0, 8: 0.2, 32: 0.21}, 32, trials=10**4) == (32, 32)
    assert chosen({1: 1.0, 8: 0.2, 32: 0.25}, 32, trials=10**4) == (8, 8)


@pytest.mark.parametrize(("share", "size"), [(0.89, 8), (0.9, 8), (0.91, 1), (1.5, 1)])
def test_a_stack_must_save_a_tenth(share: float, size: int) -> None:
    assert chosen({1: 2.0, 8: 2.0 * share}) == (size, size)


@pytest.mark.parametrize("times", [None, {1: 1.0}])
def test_without_a_measured_stack_auto_is_one_at_a_time(times: Mapping[int, float] | None) -> None:
    assert chosen(times, trials=10**4) == (1, 1)


@pytest.mark.parametrize("asked", [1, 2, 7, 500])
@pytest.mark.parametrize("times", [None, LADDER, {1: 1.0, 8: 9.0}])
def test_a_size_that_was_asked_for_is_taken(times: Mapping[int, float] | None, asked: int) -> None:
    """Even where it is slower; there are no more than trials and seeds."""
    assert chosen(times, seeds=2, trials=4, cohort=asked) == (min(asked, 4), min(asked, 2))


def test_a_size_that_was_asked_for_is_not_that_of_an_optimizer_that_does_not_stack() -> None:
    assert chosen({1: 1.0}, cohort=8) == (1, 1)


def test_asha_decides_trial_by_trial() -> None:
    assert chosen(LADDER, trials=10**4, scheduler="asha") == (1, 1)
    assert chosen(LADDER, trials=10**4, scheduler="asha", cohort=1) == (1, 1)


def test_each_optimizer_has_its_own_size() -> None:
    times = {"adam": LADDER, "sgd": {1: 1.0}, "muon": {1: 1.0, 8: 0.5}}
    asked = config(trials=1000, optimizers=("adam", "sgd", "muon", "ssvp"))  # nothing is known of ssvp
    sizes = CohortSizes(asked, times, 12)
    assert sizes.search == {"adam": 128, "sgd": 1, "muon": 8, "ssvp": 1}
    assert sizes.retrain == {"adam": 12, "sgd": 1, "muon": 8, "ssvp": 1}


def test_what_was_chosen_and_why_is_plain_json() -> None:
    found = CohortSizes(config(), {"adam": {1: 1.0, 8: 0.25}}, 10).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert found == {"search": {"adam": 8}, "retrain": {"adam": 8}, "member_step_s": {"adam": {"1": 1.0, "8": 0.25}}}


# Asking.


def asked_in_turn(sizes: CohortSizes, trials: int, **alone: bool) -> list[int]:
    """The sizes in which a study's trials are asked for, one cohort after the other."""
    asked: list[int] = []
    while sum(asked) < trials:
        asked.append(min(sizes.to_ask("adam", [sum(asked)], **alone), trials - sum(asked)))
    return asked


def test_startup_trials_are_as_many_as_are_asked_for_before_the_first_result() -> None:
    assert CohortSizes(config(100, 1), {"adam": LADDER}, 1).startup("adam") == 12
    assert CohortSizes(config(100, 2), {"adam": LADDER}, 1).startup("adam") == 24
    assert CohortSizes(config(100, 2, cohort=30), {}, 1).startup("adam") == 33  # never more than a third
    assert CohortSizes(config(100, 1), {}, 1).startup("adam") == 5
    assert CohortSizes(config(2, 1), {"adam": LADDER}, 1).startup("adam") == 5


def test_startup_trials_are_asked_at_once_where_a_stack_of_them_is_fastest() -> None:
    times = {1: 1.0, 3: 0.5, 5: 0.3}
    assert asked_in_turn(CohortSizes(config(10, 1), {"adam": times}, 1), 10) == [5] + [1] * 5  # a quarter of 10 is 2
    assert asked_in_turn(CohortSizes(config(10, 2), {"adam": times}, 1), 10) == [3] + [1] * 7
    assert asked_in_turn(CohortSizes(config(10, 1), {"adam": {1: 1.0}}, 1), 10) == [1] * 10


def test_after_the_start_the_size_is_the_same() -> None:
    assert asked_in_turn(CohortSizes(config(100, 1), {"adam": LADDER}, 1), 100) == [12] * 8 + [4]


@pytest.mark.parametrize(
    ("trials", "workers", "expected"),
    [
        (100, 2, [13, 12] * 4), (100, 3, [9, 9, 7] * 4), (20, 2, [3, 2] * 4), (20, 4, [1] * 20), (64, 2, [8] * 8),
        (102, 2, [13, 12] * 4 + [2]),
    ],
)  # fmt: skip
def test_workers_share_a_quarter_of_the_budget_to_the_last_trial(
    trials: int, workers: int, expected: list[int]
) -> None:
    """Each takes the next cohort when its last has ended, in turns; the last of them has the odd rest."""
    share = largest_share(trials, workers)
    sizes = CohortSizes(config(trials, workers), {"adam": {1: 1.0, share: 0.2}}, 1)
    taken: list[int] = []
    under_way: list[int] = []
    while sum(taken) < trials:
        if len(under_way) == workers:
            under_way.pop(0)
        under_way.append(sizes.to_ask("adam", [sum(taken)], sum(under_way)))
        taken.append(min(under_way[-1], trials - sum(taken)))
        assert sum(under_way) <= trials // 4
    assert taken == expected


def test_a_size_that_was_asked_for_is_never_changed() -> None:
    sizes = CohortSizes(config(10, 4, cohort=3), {"adam": LADDER}, 1)
    assert [sizes.to_ask("adam", [asked], alone=alone) for asked in (0, 3, 9) for alone in (False, True)] == [3] * 6


def test_the_last_trials_are_shared_out_among_all_workers_but_not_into_crumbs() -> None:
    sizes = CohortSizes(config(400, 2), {"adam": {1: 1.0, 8: 0.3, 50: 0.1}}, 1)
    assert asked_in_turn(sizes, 400) == [50] * 8
    assert asked_in_turn(sizes, 400, alone=True) == [50] * 7 + [25, 13, 8, 4]


def largest_share(trials: int, workers: int) -> int:
    """Of a quarter, so that something is left for the last worker."""
    most = trials // 4
    return max([n for n in range(1, most + 1) if n < most / workers + 1 and n * (workers - 1) < most] or [1])


def test_no_crumb_is_left_for_the_last_worker() -> None:
    sizes = CohortSizes(config(100, 2), {"adam": {1: 1.0, 8: 0.3, 13: 0.2}}, 1)
    assert [sizes.to_ask("adam", [asked], alone=True) for asked in (74, 79, 80, 86)] == [13, 13, 10, 7]


measured = st.dictionaries(st.integers(2, 300), st.floats(1e-6, 10.0), max_size=6)


@examples(200)
@given(
    times=measured, alone=st.floats(1e-6, 10.0), trials=st.integers(1, 500), workers=st.integers(1, 32),
    optimizers=st.integers(1, 3), seeds=st.integers(1, 60),
)  # fmt: skip
def test_auto_never_takes_more_than_it_may(
    times: dict[int, float], alone: float, trials: int, workers: int, optimizers: int, seeds: int
) -> None:
    names = ("adam", "sgd", "muon")[:optimizers]
    asked, times = config(trials, workers, optimizers=names), {1: alone, **times}
    every: MemberSeconds = dict.fromkeys(names, times)
    sizes = CohortSizes(asked, every, seeds)
    on_study = -(-workers // optimizers)

    assert sizes.search["adam"] in times and sizes.retrain["adam"] in times
    share = largest_share(trials, on_study)
    for size, most in ((sizes.search["adam"], share), (sizes.retrain["adam"], seeds)):
        assert size <= most
        assert size == 1 or times[size] <= 0.9 * alone
        assert all(times[size] <= 1.2 * other or other > 0.75 * alone for s, other in times.items() if s <= most)

    at_start = max(share, -(-5 // on_study))
    for last in (False, True):
        for number in {0, 1, 3, *range(0, trials, 1 + trials // 20), trials - 1}:
            size = sizes.to_ask("adam", [number], alone=last)
            assert 1 <= size <= at_start
            assert size <= share or number + size <= sizes.startup("adam")
    assert 5 <= sizes.startup("adam") <= max(5, trials / 3)


@examples(100)
@given(trials=st.integers(1, 2000), workers=st.integers(1, 32), seeds=st.integers(1, 200))
def test_what_is_measured_is_what_may_be_taken(trials: int, workers: int, seeds: int) -> None:
    found = to_measure(config(trials, workers), seeds)
    assert found == sorted(set(found)) and all(size > 1 for size in found)
    quarter = largest_share(trials, workers)
    start = quarter if quarter * workers >= 5 else -(-5 // workers)
    largest = max(quarter, start, seeds)
    assert max(found, default=1) == largest
    assert {8 * 4**power for power in range(8) if 8 * 4**power <= largest} <= set(found)
    assert {size for size in (quarter, start, seeds) if size > 1} <= set(found)  # the sizes most wanted


@pytest.mark.parametrize(
    ("asked", "seeds", "sizes"),
    [
        ({"trials": 100, "workers": 2}, 10, [8, 10, 13]),
        ({"trials": 100, "workers": 2}, 20, [8, 13, 20]),
        ({"trials": 1000, "workers": 1}, 10, [8, 10, 32, 128, 250]),
        ({"trials": 4, "workers": 8}, 1, []),
        ({"trials": 4, "workers": 2}, 1, [3]),  # of the five that start a study
        ({"trials": 100, "cohort": 1}, 10, []),
        ({"trials": 100, "cohort": 30}, 10, [30]),
        ({"trials": 100, "scheduler": "asha"}, 10, []),
    ],
)
def test_sizes_to_measure(asked: dict[str, Any], seeds: int, sizes: list[int]) -> None:
    assert to_measure(config(**asked), seeds) == sizes


@pytest.mark.parametrize(
    ("trials", "said"), [(12, "adam 5 trials, 1 seed"), (3, "adam 3 trials, 1 seed"), (400, "adam 100 trials, 1 seed")]
)
def test_the_largest_cohorts_are_said_those_drawn_at_random_too(trials: int, said: str) -> None:
    """A search of 12 asks 3 at a time, but its first five trials, drawn at random, at once."""
    times = {1: 1.0, 5: 0.2, 100: 0.1}
    sizes = CohortSizes(config(trials=trials, workers=1), {"adam": times}, 2)
    studied = min(sizes.to_ask("adam", [0]), trials)
    assert sizes.sentences() == [f"cohorts, each trained as one stacked model, of up to: {said}"]
    assert f" {studied} trials" in said


def test_without_cohorts_nothing_is_said_of_them() -> None:
    assert CohortSizes(config(), {"adam": {1: 1.0}}, 10).sentences() == []

"""One configuration for all tasks, or one for each: which is chosen, and what it scores."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from tuner.analysis.rulesets import best_shared, median_over_studies, median_times, tuned_per_task

INF, NAN = math.inf, math.nan
SCORES = pd.DataFrame(
    {"t": [1.0, 0.0, 0.6, 0.5], "u": [0.0, 1.0, 0.7, 0.5], "v": [0.1, 0.2, 0.3, 0.9]}, index=list("abcd")
)


def test_tuned_per_task_every_task_has_its_best() -> None:
    assert tuned_per_task(SCORES).to_dict("index") == {
        "t": {"chosen": "a", "score": 1.0},
        "u": {"chosen": "b", "score": 1.0},
        "v": {"chosen": "d", "score": 0.9},
    }


def test_the_best_shared_one_is_chosen_without_the_task_that_it_is_scored_on() -> None:
    """Means of the others: for t 0.05, 0.6, 0.5, 0.7; for u 0.55, 0.1, 0.45, 0.7; for v 0.5, 0.5, 0.65, 0.5."""
    assert best_shared(SCORES).to_dict("index") == {
        "t": {"chosen": "d", "score": 0.5},
        "u": {"chosen": "d", "score": 0.5},
        "v": {"chosen": "c", "score": 0.3},
    }


def test_a_shared_one_is_never_better_than_a_tuned_one_and_does_not_see_its_task() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = pd.DataFrame(rng.random((7, 4)))
        assert (best_shared(scores)["score"] <= tuned_per_task(scores)["score"]).all()
        spoiled = scores.assign(**{"2": -scores[2]}).drop(columns=2).rename(columns={"2": 2})
        assert best_shared(spoiled).loc[2, "chosen"] == best_shared(scores).loc[2, "chosen"]


def test_of_one_task_or_no_configuration_nothing_is_chosen() -> None:
    for nothing in (best_shared(SCORES[["t"]]), tuned_per_task(SCORES.iloc[:0]), tuned_per_task(NAN * SCORES)):
        assert nothing["chosen"].isna().all()
        assert nothing["score"].isna().all()


def test_studies_choose_by_themselves_and_their_median_counts() -> None:
    studies = pd.concat({0: SCORES, 1: SCORES.iloc[:3], 2: SCORES.iloc[2:]}, names=["study", "configuration"])
    # Of t: d in the first, c of a (0.05), b (0.6), c (0.5) is b in the second, d of c (0.5), d (0.7) in the third.
    assert median_over_studies(studies, best_shared)["t"] == np.median([0.5, 0.0, 0.5])
    assert median_over_studies(studies, tuned_per_task).tolist() == [1.0, 1.0, 0.9]


def test_times_are_those_of_the_chosen_on_each_task() -> None:
    values = pd.DataFrame({"t": [5.0, 9.0, 1.0, INF], "u": [7.0, 2.0, 4.0, 3.0], "v": [NAN] * 4}, index=list("abcd"))
    times, scores = (pd.concat({0: table}, names=["study", "configuration"]) for table in (values, SCORES))
    assert median_times(times, scores, tuned_per_task).tolist() == pytest.approx([5, 2, NAN], nan_ok=True)
    assert median_times(times, scores, best_shared).tolist() == pytest.approx([INF, 3, NAN], nan_ok=True)
    assert median_times(times, scores.iloc[:0], tuned_per_task).isna().all()
    assert median_times(times.iloc[:0], scores, tuned_per_task).isna().all()


def test_the_median_over_studies_is_infinite_where_most_did_not_get_there() -> None:
    scores = pd.concat(dict.fromkeys(range(3), SCORES), names=["study", "configuration"])
    times = scores.assign(t=[1.0, *[0.0] * 3, INF, *[0.0] * 3, INF, *[0.0] * 3], u=4.0, v=[*[INF] * 4, *[2.0] * 8])
    assert median_times(times, scores, tuned_per_task).tolist() == [INF, 4, 2]

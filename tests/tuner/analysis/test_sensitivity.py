"""Sensitivity to the learning rate, and to being tuned task by task."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tuner.analysis.sensitivity import BINS, in_common, normalised, over_lr, sensitivity, share_near_best

INF, NAN = math.inf, math.nan
LOW, HIGH = 1e-6, 1.0


def trials(lr: Any, value: Any, state: Any = "complete") -> pd.DataFrame:
    return pd.DataFrame({"hp.lr": lr, "value": value}).assign(state=state)


def in_stretch(*stretches: float) -> list[float]:
    """Learning rates in the middle of stretches of the range."""
    return [LOW * (HIGH / LOW) ** ((stretch + 0.5) / BINS) for stretch in stretches]


def test_the_curve_is_the_lower_envelope_over_equal_stretches_of_the_logarithm() -> None:
    curve = over_lr(trials(in_stretch(0, 0, 5, 11), [3.0, 2.0, 1.0, 7.0]), LOW, HIGH)
    assert len(curve) == BINS
    assert (curve["high"] / curve["low"]).tolist() == pytest.approx([10 ** (6 / BINS)] * BINS)
    assert curve["n"].tolist() == [2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    assert curve["best"].tolist() == pytest.approx([2, *[NAN] * 4, 1, *[NAN] * 5, 7], nan_ok=True)


def test_the_ends_of_the_range_belong_to_it_and_what_is_beyond_does_not() -> None:
    curve = over_lr(trials([LOW, HIGH, 2 * HIGH, LOW / 2, NAN], [1.0] * 5), LOW, HIGH)
    assert curve["n"].tolist() == [1, *[0] * (BINS - 2), 1]


def test_diverged_trials_are_the_worst_and_failed_ones_do_not_count() -> None:
    """A diverged trial's value is the task's bound, which may be lower than what others end with."""
    states = ["diverged", "diverged", "complete", "failed", "stopped", "complete"]
    curve = over_lr(trials(in_stretch(1, 2, 2, 3, 4, 5), [0.5, 0.5, 9.0, 0.1, 0.1, INF], states), LOW, HIGH)
    assert curve["best"].tolist()[:6] == pytest.approx([NAN, INF, 9, NAN, NAN, INF], nan_ok=True)


def parabola(offset: float = 1.0, size: float = 1.0) -> pd.DataFrame:
    """(x - 1/2)^2 at many x, the place in the range, with 1/4 at both ends, taken as what an untrained network has."""
    x = np.linspace(0, 1, 24_001)
    return trials(LOW * (HIGH / LOW) ** x, offset + size * (x - 0.5) ** 2)


@pytest.mark.parametrize(("offset", "size"), [(1.0, 1.0), (0.0, 1e-9), (-0.9, 3.0)])
def test_the_share_of_a_parabola_is_known_and_has_no_unit(offset: float, size: float) -> None:
    """Within 5 % of the way is |x - 1/2| <= 0.11: of stretches of 1/12 the two on either side of the middle begin at 0
    and at 0.083."""
    assert share_near_best(over_lr(parabola(offset, size), LOW, HIGH), offset + size / 4) == 4 / BINS


def test_the_share_is_of_the_stretches_that_have_trials() -> None:
    curve = over_lr(trials(in_stretch(0, 3, 7, 9), [1.0, 1.04, 1.06, 5.0]), LOW, HIGH)
    assert share_near_best(curve, 2.0) == 2 / 4


@pytest.mark.parametrize("values", [[], [3.0, 2.0], [INF, INF]])
def test_of_an_optimizer_that_learned_nothing_no_share_is_said(values: list[float]) -> None:
    curve = over_lr(trials(in_stretch(*range(len(values))), values), LOW, HIGH)
    assert math.isnan(share_near_best(curve, 2.0))
    assert math.isnan(share_near_best(curve, NAN))


# Scores.


def scored(values: list[float], untrained: float, state: Any = "complete") -> list[float]:
    table = pd.DataFrame({"task": "t", "optimizer": "a", "value": values}).assign(state=state)
    return list(normalised(table, {"t": untrained})["score"])


def test_scores_go_from_the_95th_percentile_to_the_5th() -> None:
    """Of 0, 1, ..., 20 these are 19 and 1."""
    assert scored([float(n) for n in range(21)], 100) == pytest.approx([(19 - n) / 18 for n in range(21)])


def test_scores_are_over_all_optimizers_and_of_each_task_alone() -> None:
    one = pd.DataFrame({"task": "t", "optimizer": ["a", "b", "c"] * 7, "state": "complete", "value": range(21)})
    both = pd.concat([one, one.assign(task="u", value=1e6 * one["value"])])
    found = normalised(both, {"t": 100, "u": 1e9})["score"].tolist()
    assert found == pytest.approx([(19 - n) / 18 for n in range(21)] * 2)


def test_what_diverged_or_got_worse_counts_as_untrained() -> None:
    states = ["complete"] * 19 + ["diverged", "complete"]
    values = [float(n) for n in range(19)] + [0.0, 1e9]
    as_untrained = [float(n) for n in range(19)] + [20.0, 20.0]  # percentiles 1 and 20
    assert scored(values, 20, states) == pytest.approx([(20 - n) / 19 for n in as_untrained])


def test_trials_that_are_all_alike_or_have_not_ended_have_no_score() -> None:
    assert scored([1.0, 1.0], 5) == pytest.approx([NAN, NAN], nan_ok=True)
    assert scored([1.0, 2.0], 5, ["failed", "stopped"]) == []
    assert scored([], 5) == []


def test_where_an_untrained_network_is_not_known_the_worst_that_ended_stands_for_it() -> None:
    states = ["complete"] * 20 + ["diverged"]
    as_worst = [float(n) for n in range(20)] + [19.0]  # percentiles 1 and 19
    found = scored([float(n) for n in range(20)] + [0.0], NAN, states)
    assert found == pytest.approx([(19 - n) / 18 for n in as_worst])
    assert scored([1.0, 1.0], NAN, "diverged") == pytest.approx([NAN, NAN], nan_ok=True)


# Configurations in common.


def test_configurations_in_common_are_found_by_equal_hyperparameters_within_a_study() -> None:
    in_both = [("t", 0, 0.1, 1, 0.5), ("u", 0, 0.1, 1, 0.7), ("u", 0, 0.1, 1, 0.9)]  # twice in u
    of_other_studies = [("t", 0, 0.2, 1, 0.5), ("u", 1, 0.2, 1, 0.5)]
    of_other_momentum = [("t", 1, 0.3, 1, 0.5), ("u", 1, 0.3, 2, 0.5)]
    rows = in_both + of_other_studies + of_other_momentum
    table = pd.DataFrame(rows, columns=["task", "study", "hp.lr", "hp.momentum", "score"])
    found = in_common(table, ["lr", "momentum"], ["t", "u"])
    assert found.to_dict("index") == {(0, 0.1, 1): {"t": 0.5, "u": pytest.approx(0.8)}}
    assert list(found) == ["t", "u"]
    assert in_common(table, ["lr", "momentum"], ["t", "u", "v"]).empty  # v has no trial
    assert in_common(table.iloc[:0], ["lr", "eps"], ["t"]).empty


def test_choices_are_equal_by_what_they_say() -> None:
    """One task's table may have read as a number what another's has as a text."""
    table = pd.DataFrame({"task": ["t", "u"], "study": 0, "hp.kind": [1, "1"], "score": [0.25, 0.5]})
    assert in_common(table, ["kind"], ["t", "u"]).to_numpy().tolist() == [[0.25, 0.5]]


def test_sensitivity_is_the_mean_of_the_best_less_the_best_of_the_means() -> None:
    scores = pd.DataFrame({"t": [1.0, 0.0, 0.6], "u": [0.0, 1.0, 0.7]})
    assert sensitivity(scores) == pytest.approx((1 + 1) / 2 - (0.6 + 0.7) / 2)
    assert sensitivity(scores[["t"]]) == 0
    assert sensitivity(pd.DataFrame({"t": [0.2, 0.9], "u": [0.1, 0.3]})) == pytest.approx(0)
    assert math.isnan(sensitivity(scores.iloc[:0]))

"""Tuning curves: against opda, its README's numbers and exact chances; the coverage of bands; leads; studies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from opda.nonparametric import EmpiricalDistribution
from scipy import stats

from tuner.analysis.distribution_band import bounds_of_order_statistics, chance_within
from tuner.analysis.stats import Mode
from tuner.analysis.tuning_curves import Lead, known_to, leads, median_best, tuning_curves

INF, NAN = math.inf, math.nan
# The new model's accuracies in opda's README, and the baseline's.
NEW = [
    0.8420, 0.9292, 0.8172, 0.8264, 0.8851, 0.8765, 0.8824, 0.9221, 0.9456, 0.7533, 0.8141, 0.9061,
    0.8986, 0.8287, 0.8645, 0.8495, 0.8134, 0.8456, 0.9034, 0.7861, 0.8336, 0.9036, 0.7796, 0.9449,
    0.8216, 0.7520, 0.9089, 0.7890, 0.9198, 0.9428, 0.8140, 0.7734,
]  # fmt: skip
OLD = [
    0.7440, 0.7710, 0.8774, 0.8924, 0.8074, 0.7173, 0.7890, 0.7449, 0.8278, 0.7951, 0.7216, 0.8069,
    0.7849, 0.8332, 0.7702, 0.7364, 0.7306, 0.8272, 0.8555, 0.8801, 0.8046, 0.7496, 0.7950, 0.7012,
    0.7097, 0.7017, 0.8720, 0.7758, 0.7038, 0.8567, 0.7086, 0.7487,
]  # fmt: skip


def trials(values: dict[str, list[list[float]]], state: str = "complete") -> pd.DataFrame:
    """Of each optimizer its studies' values, in the order of the trials' numbers; infinite ones diverged."""
    rows = [
        (name, study, trial, value if math.isfinite(value) else 99.0, state if math.isfinite(value) else "diverged")
        for name, studies in values.items() for study, own in enumerate(studies) for trial, value in enumerate(own)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["optimizer", "study", "trial", "value", "state"])


# The band of a distribution function.


@pytest.mark.parametrize(("n", "distance"), [(1, 0.7), (2, 0.5), (5, 0.4), (20, 0.3), (100, 0.13), (500, 0.05)])
def test_the_chance_of_kolmogorovs_band_is_his(n: int, distance: float) -> None:
    places = np.arange(1, n + 1) / n
    low, high = np.clip(places - distance, 0, 1), np.clip(places - 1 / n + distance, 0, 1)
    assert chance_within(low, high) == pytest.approx(stats.kstwo.cdf(distance, n), rel=1e-7)


def test_the_chance_that_two_draws_lie_between_bounds_is_an_area() -> None:
    """Of 0.1 <= smaller <= 0.5, 0.3 <= larger <= 0.8: twice the area below the diagonal."""
    area = 0.4 * 0.5 - 0.2**2 / 2  # without the triangle in which the first is larger
    assert chance_within(np.array([0.1, 0.3]), np.array([0.5, 0.8])) == pytest.approx(2 * area)
    assert chance_within(np.array([0.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(1)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("n", [1, 2, 10, 32, 200])
def test_bounds_hold_together_with_their_chance_and_are_equal_tails(n: int, confidence: float) -> None:
    low, high = bounds_of_order_statistics(n, confidence)
    assert chance_within(low, high) == pytest.approx(confidence, abs=1e-6)
    beta = stats.beta(np.arange(1, n + 1), np.arange(n, 0, -1))
    np.testing.assert_allclose(beta.cdf(low), beta.sf(high), rtol=1e-6)
    np.testing.assert_allclose(beta.cdf(low), beta.cdf(low)[0], rtol=1e-6)


# The median of the best of n.


def opda_curves(values: list[float], mode: Mode, confidence: float, n: np.ndarray) -> list[np.ndarray]:
    """opda finds the level by simulation: its bounds have an error, too."""
    bands = EmpiricalDistribution.confidence_bands(
        np.array(values), confidence, method="ld_equal_tailed", generator=np.random.default_rng(0), n_jobs=1
    )
    return [band.quantile_tuning_curve(n, minimize=mode == "min") for band in bands]


def test_the_numbers_of_opdas_readme_come_out() -> None:
    assert median_best(np.array(NEW), "max")["value"].tolist()[:5] == [0.8456, 0.9034, 0.9089, 0.9198, 0.9221]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("values", [NEW, OLD])
def test_curve_and_band_are_opdas(values: list[float], mode: Mode) -> None:
    found = median_best(np.array(values), mode, 0.8)
    above, middle, below = opda_curves(values, mode, 0.8, found["n"].to_numpy())
    assert found["value"].tolist() == middle.tolist()
    agree = (found["high"] == above) & (found["low"] == below)
    assert agree.mean() > 0.9  # a bound near a share may fall to either side of it
    beside = {pair for at in range(31) for pair in [(np.sort(values)[at], np.sort(values)[at + 1])]}
    for own, theirs in [*zip(found["low"], below, strict=True), *zip(found["high"], above, strict=True)]:
        assert own == theirs or tuple(sorted((own, theirs))) in beside


def test_less_is_better_is_more_is_better_of_the_negative() -> None:
    values = np.random.default_rng(0).normal(size=41)  # odd: at no n is there a choice between two
    low, high = median_best(values, "min"), median_best(-values, "max")
    assert (low["value"] == -high["value"]).all()
    assert (low["low"] == -high["high"]).all() and (low["high"] == -high["low"]).all()


def test_diverged_trials_are_the_worst() -> None:
    found = median_best(np.array([INF, INF, INF, 1.0, 2.0]), "min")
    assert found["value"].tolist() == [INF, 2, 2, 1, 1]  # the quantiles 1/2, 0.29, 0.21, 0.16, 0.13
    assert (found["low"] <= found["value"]).all() and (found["high"] >= found["value"]).all()


def test_how_good_the_best_of_many_may_be_is_not_known() -> None:
    table = median_best(np.random.default_rng(0).normal(size=100), "min")
    last = known_to(table, "min")
    # To begin with the bound of the smallest of a hundred.
    assert 1 - 0.5 ** (1 / last) > bounds_of_order_statistics(100, 0.95)[1][0] > 1 - 0.5 ** (1 / (last + 1))
    assert np.isneginf(table["low"][last:]).all() and np.isfinite(table["high"]).all()
    assert known_to(table.assign(low=0.0), "min") == 100
    assert known_to(table.assign(low=-INF), "min") == 0


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_band_covers_the_whole_curve(mode: Mode) -> None:
    """Of normal values, 95 % within the binomial's 0.1 % tails; the curve touches the band at few places only, so that
    it may cover somewhat more."""
    rng, many, m = np.random.default_rng(1), 1000, 25
    n = np.arange(1, m + 1)
    truth = stats.norm.ppf(1 - 0.5 ** (1 / n) if mode == "min" else 0.5 ** (1 / n))
    tables = [median_best(rng.normal(size=m), mode) for _ in range(many)]
    covered = sum(((t["low"] <= truth) & (truth <= t["high"])).all() for t in tables)
    assert covered >= stats.binom.ppf(0.001, many, 0.95)
    assert covered < many


# Which is better.


def both(one: list[float], other: list[float], mode: Mode, confidence: float) -> pd.DataFrame:
    return tuning_curves(trials({"new": [one], "old": [other]}), ["random"], mode, confidence).table


def test_the_new_model_of_opdas_readme_is_better_from_three_trials_to_four() -> None:
    """At 80 % each, where its figure has bands that do not touch."""
    table = both(NEW, OLD, "max", 0.6)
    ends = table.pivot(index="n", columns="optimizer")
    better = ends["low"]["new"] > ends["high"]["old"]
    assert leads(table, "new", "old", "max") == leads(table, "old", "new", "max") == [Lead("new", 3, 4)]
    assert better[better].index.tolist() == [3, 4]
    assert known_to(table[table["optimizer"] == "old"], "max") == 4
    negative = both([-x for x in NEW[:31]], [-x for x in OLD[:31]], "min", 0.6)
    assert leads(negative, "new", "old", "min") == leads(both(NEW[:31], OLD[:31], "max", 0.6), "new", "old", "max")


def test_curves_that_cross_have_two_leads() -> None:
    """One is good at once and never better, the other either bad or very good."""
    rng = np.random.default_rng(0)
    steady, bold = rng.normal(1, 0.01, 200), np.where(np.arange(200) % 4, 5, 0) + rng.normal(0, 0.01, 200)
    found = leads(both(steady.tolist(), bold.tolist(), "min", 0.95), "new", "old", "min")
    assert [lead.optimizer for lead in found] == ["new", "old"]
    assert found[0].first == 1 and found[0].last < found[1].first


def test_twins_seldom_have_a_lead() -> None:
    rng, many = np.random.default_rng(3), 200
    wrong = sum(bool(leads(both(*rng.normal(size=(2, 30)).tolist(), "min", 0.95), "new", "old", "min"))
                for _ in range(many))  # fmt: skip
    assert wrong <= stats.binom.ppf(0.999, many, 0.05)


def test_no_lead_where_bands_touch() -> None:
    table = pd.DataFrame({"optimizer": ["a", "a", "b", "b"], "n": [1, 2, 1, 2], "value": 0.0,
                          "low": [0.0, 0.0, 1.0, 1.5], "high": [1.0, 1.0, 2.0, 2.0]})  # fmt: skip
    assert leads(table, "a", "b", "min") == [Lead("a", 2, 2)]
    assert leads(table, "a", "b", "max") == [Lead("b", 2, 2)]


# Tables of trials.


def test_trials_of_random_searches_are_one_sample_of_their_studies() -> None:
    values = np.random.default_rng(0).normal(size=(2, 10)).tolist()
    found = tuning_curves(trials({"adam": values}), ["random"], "min", 0.9)
    assert (found.kind, found.reason) == ("median", "")
    pd.testing.assert_frame_equal(found.table[["n", "value", "low", "high"]],
                                  median_best(np.ravel(values), "min", 0.9))  # fmt: skip


def test_bands_hold_for_all_optimizers_at_once() -> None:
    values = np.random.default_rng(0).normal(size=20)
    two = tuning_curves(trials({"a": [values.tolist()], "b": [values.tolist()]}), ["random"], "min", 0.9).table
    for name in "ab":
        own = two[two["optimizer"] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(own[["n", "value", "low", "high"]], median_best(values, "min", 0.95))


def test_points_that_were_given_are_no_draws() -> None:
    table = trials({"a": [[0.0, 3, 1, 2, 5]], "b": [[4.0, 3, 1, 2, 5]]})
    found = tuning_curves(table, ["random"], "min", enqueued={"a": 1}).table
    assert found[found["optimizer"] == "a"]["value"].min() == 1
    assert found.groupby("optimizer").size().to_dict() == {"a": 4, "b": 5}


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc"])
def test_trials_of_a_sampler_that_learns_do_not_qualify(sampler: str) -> None:
    values = [[5.0, 3, 4, 1], [4.0, 4, 2, 2], [6.0, 2, 2, 2]]
    found = tuning_curves(trials({"adam": values}), [sampler], "min")
    assert (found.kind, found.reason) == ("mean", f"trials of the sampler {sampler} are not independent draws")
    paths = np.array([[5, 3, 3, 1], [4, 4, 2, 2], [6, 2, 2, 2]], float)
    assert found.table["value"].tolist() == pytest.approx(paths.mean(axis=0).tolist())
    for i in range(4):
        ends = stats.ttest_1samp(paths[:, i], 0).confidence_interval(0.95)
        assert found.table.loc[i, ["low", "high"]].tolist() == pytest.approx(list(ends))
    highest = tuning_curves(trials({"adam": [[-x for x in own] for own in values]}), [sampler], "max").table
    assert (-highest["value"]).tolist() == found.table["value"].tolist()


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_so_far_goes_by_the_numbers_of_the_trials(mode: Mode) -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=(3, 40)).tolist()
    table = trials({"b": [values[0]], "a": [values[1]], "c": [values[2]]}).sample(frac=1, random_state=1)
    best = min if mode == "min" else max
    for name, own in tuning_curves(table, ["tpe"], mode).table.groupby("optimizer"):
        drawn = values["bac".index(str(name))]
        assert own["value"].tolist() == [best(drawn[: n + 1]) for n in range(40)]


def test_failed_and_stopped_trials_are_trials_without_a_value() -> None:
    table = trials({"adam": [[3.0, 1.0, 2.0, 0.0]]})
    table["state"] = ["failed", "stopped", "complete", "complete"]
    assert tuning_curves(table, ["tpe"], "min").table["value"].tolist() == pytest.approx([NAN, NAN, 2, 0], nan_ok=True)


def test_a_mean_begins_where_each_study_is_valid_and_ends_where_the_first_one_does() -> None:
    found = tuning_curves(trials({"adam": [[INF, 2, 1], [4, 3, 2, 1], [5, INF, 3]]}), ["tpe"], "min").table
    assert found["n"].tolist() == [1, 2, 3]
    assert found["value"].tolist() == pytest.approx([NAN, 10 / 3, 2], nan_ok=True)
    assert found[["low", "high"]].isna().all(axis=1).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("studies", "kind", "reason"),
    [
        (1, "single", "of one study nothing says how its curve varies"),
        (2, "mean", "an interval of 2 studies says nothing, at least 3 are needed"),
    ],
)
def test_of_few_studies_there_is_no_interval(studies: int, kind: str, reason: str) -> None:
    found = tuning_curves(trials({"adam": [[3.0, 4, 1], [5.0, 2, 2]][:studies]}), ["tpe"], "min")
    assert (found.kind, found.reason) == (kind, f"trials of the sampler tpe are not independent draws; {reason}")
    assert found.table["value"].tolist() == [[3, 3, 1], [4, 2.5, 1.5]][studies - 1]
    assert found.table[["low", "high"]].isna().all(axis=None)


def test_the_median_of_trials_that_a_scheduler_stopped_is_not_known() -> None:
    table = trials({"adam": [[3.0, 4, 1]]})
    table.loc[1, "state"] = "stopped"
    found = tuning_curves(table, ["random"], "min")
    assert found.kind == "single" and "stopped" in found.reason
    assert found.table["value"].tolist() == [3, 3, 1]


@pytest.mark.parametrize("samplers", [["random"], ["tpe"], ["random", "tpe"]])
def test_of_no_trials_nothing_is_said(samplers: list[str]) -> None:
    found: Any = tuning_curves(trials({}), samplers, "min").table
    assert found.empty and list(found) == ["optimizer", "n", "value", "low", "high"]
    assert tuning_curves(trials({"adam": [[INF, INF]]}), samplers, "min").table["low"].isin([NAN, -INF, INF]).all()

"""Studies as the unit: pairs by study and seed, verdicts by the D_r, what several searches of one optimizer come to."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from tuner.analysis import paired
from tuner.analysis.rules import Rules
from tuner.analysis.stats import contrasts

Values = dict[str, dict[int, list[float]]]


def table(values: Values) -> pd.DataFrame:
    """Values by optimizer and study; a seed is of one study only."""
    rows = [
        {"optimizer": name, "study": study, "seed": 100 * study + place, "value": value}
        for name, studies in values.items()
        for study, own in studies.items()
        for place, value in enumerate(own)
    ]
    return pd.DataFrame(rows, columns=["optimizer", "study", "seed", "value"])


def only(values: Values, rules: Rules | None = None) -> dict[str, Any]:
    (row,) = contrasts(table(values), "base", "min", rules or Rules()).to_dict("records")
    return {str(key): value for key, value in row.items()}


def drawn(studies: int, seeds: int, effect: float = 0.0, seed: int = 0) -> Values:
    rng = np.random.default_rng(seed)
    return {
        name: {r: (shift + rng.normal() + rng.normal(0, 0.5, seeds)).tolist() for r in range(studies)}
        for name, shift in (("one", effect), ("base", 0.0))
    }


@pytest.mark.parametrize("studies", [3, 5, 8])
def test_tests_and_intervals_are_of_the_studies_mean_differences(studies: int) -> None:
    values = drawn(studies, 4, effect=-1.0)
    d = np.array([np.mean(np.subtract(values["one"][r], values["base"][r])) for r in range(studies)])

    row = only(values, Rules(margin=2.0))

    assert (row["unit"], row["about"], row["n"], row["seeds"]) == ("study", "optimizers", studies, 4 * studies)
    test = scipy_stats.ttest_1samp(d, 0)
    assert row["p_t"] == row["p"] == pytest.approx(test.pvalue)
    for low, high in (("t_low", "t_high"), ("low", "high")):
        assert (row[low], row[high]) == pytest.approx(test.confidence_interval(0.95))
    assert row["d_z"] == pytest.approx(d.mean() / d.std(ddof=1))
    assert (row["wins"], row["losses"]) == ((d < 0).sum(), (d > 0).sum())
    flips = np.array([np.dot(signs, d) for signs in product([-1, 1], repeat=studies)])
    assert row["p_sign_flip"] == pytest.approx(np.mean(np.abs(flips) >= abs(d.sum()) - 1e-12))
    assert row["p_wilcoxon"] == pytest.approx(scipy_stats.wilcoxon(d, method="exact").pvalue)
    assert row["p_tost"] == pytest.approx(paired.tost(d, 2.0))


def test_seeds_without_a_partner_do_not_count_in_their_studys_mean() -> None:
    values: Values = {"base": {0: [1.0, 2.0], 1: [3.0], 2: [4.0, 9.0]}, "one": {0: [1.5], 1: [3.7], 2: [5.0, 9.6]}}
    row = only(values)
    assert (row["n"], row["seeds"], row["n_unpaired"]) == (3, 4, 1)
    assert row["mean_difference"] == pytest.approx((0.5 + 0.7 + 0.8) / 3)
    assert row["baseline_mean"] == pytest.approx((1 + 3 + 6.5) / 3)


def test_of_two_studies_nothing_is_tested() -> None:
    row = only(drawn(2, 10, effect=-50.0))
    assert (row["unit"], row["about"], row["n"]) == ("study", "configurations", 2)
    assert (row["verdict"], row["reason"]) == ("inconclusive", "2 studies in common; at least 3 are needed")
    assert all(math.isnan(row[key]) for key in ("p", "p_t", "low", "high", "t_low", "t_high", "d_z"))


def test_of_one_study_in_common_seeds_are_the_unit_and_the_answer_is_about_configurations() -> None:
    values = drawn(3, 6, effect=-1.0)
    alone = {name: {1: studies[1]} for name, studies in values.items()}
    some = {"one": {1: values["one"][1], 5: [1.0]}, "base": values["base"]}
    row, other = only(alone), only(some)
    assert (row["unit"], row["about"], row["n"], row["seeds"]) == ("seed", "configurations", 6, 6)
    assert row["p"] == pytest.approx(scipy_stats.ttest_rel(values["one"][1], values["base"][1]).pvalue)
    assert (other["n"], other["p"]) == (row["n"], row["p"])
    assert other["n_unpaired"] == 13


def test_a_study_in_which_a_run_diverged_is_last_and_no_part_of_a_mean() -> None:
    values = drawn(6, 3, effect=-5.0)
    values["one"][2][1] = math.inf
    values["base"][4] = [math.inf] * 3
    row = only(values)
    assert (row["n"], row["n_diverged"], row["diverged"], row["baseline_diverged"]) == (6, 2, 1, 1)
    assert row["test"] == "wilcoxon"
    assert all(math.isnan(row[key]) for key in ("mean", "baseline_mean", "mean_difference", "p_t", "p_tost"))
    assert (row["wins"], row["losses"]) == (5, 1)
    d = np.array([np.mean(np.subtract(values["one"][r], values["base"][r])) for r in range(6)])
    assert row["p"] == paired.wilcoxon(d)


def test_both_diverged_in_every_study() -> None:
    lost: Values = {name: {r: [1.0, math.inf] for r in range(3)} for name in ("one", "base")}
    assert only(lost)["reason"] == "both diverged in every study"


# Searches of one optimizer, with known luck.


def claims(studies: int, ratio: float, seed: int, effect: float = 0.0, families: int = 1500) -> float:
    """How often a t-test over studies finds a difference; the luck of a search has ``ratio`` times the variance of a
    seed's, of which each study has four."""
    rng = np.random.default_rng(seed)
    luck = rng.normal(0, ratio**0.5, (families, 2, studies))
    means = luck + rng.normal(0, 0.5, (families, 2, studies))
    d = means[:, 0] - means[:, 1] + effect
    return float(np.mean([paired.t_test(each) <= 0.05 for each in d]))


@pytest.mark.parametrize("ratio", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("studies", [3, 5, 10])
def test_the_level_holds_however_much_of_the_variance_is_the_searchs(studies: int, ratio: float) -> None:
    n = 1500
    rate = claims(studies, ratio, seed=studies)
    assert scipy_stats.binom.ppf(0.001, n, 0.05) / n <= rate <= scipy_stats.binom.ppf(0.999, n, 0.05) / n


@pytest.mark.parametrize(("studies", "ratio", "effect"), [(3, 0.0, 2.0), (5, 1.0, 2.0), (10, 10.0, 4.0)])
def test_the_power_is_that_of_the_noncentral_t(studies: int, ratio: float, effect: float) -> None:
    n = 1500
    power = paired.power(studies, 0.05, effect / (2 * (ratio + 0.25)) ** 0.5)
    rate = claims(studies, ratio, seed=9, effect=effect)
    assert scipy_stats.binom.ppf(0.001, n, power) / n <= rate <= scipy_stats.binom.ppf(0.999, n, power) / n


def test_over_seeds_of_one_search_each_the_same_luck_is_called_a_difference() -> None:
    """What studies are for: of pairs of searches of one optimizer, most are "better" or "worse"."""
    rng = np.random.default_rng(3)
    d = rng.normal(0, 2**0.5, (300, 1)) + rng.normal(0, 2**0.5, (300, 10))
    assert np.mean([paired.t_test(each) <= 0.05 for each in d]) > 0.4

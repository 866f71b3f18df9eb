"""The split of variance into search and seed: against statsmodels' MixedLM, textbook formulas, and simulation."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tuner.analysis.variance import VarianceSplit, split_variance

NAN = math.nan
POINTS = ("search_variance", "seed_variance", "share")
ENDS = [f"{name}_{end}" for name in ("search", "seed", "share") for end in ("low", "high")]


def runs(counts: list[int], search_sd: float, rng: np.random.Generator, seed_sd: float = 1.0) -> pd.DataFrame:
    study = np.repeat(np.arange(len(counts)), counts)
    luck = rng.normal(0, search_sd, len(counts))
    return pd.DataFrame({"study": study, "value": 3 + luck[study] + rng.normal(0, seed_sd, len(study))})


def of(*studies: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        [(i, value) for i, values in enumerate(studies) for value in values], columns=["study", "value"]
    )


def silent(split: VarianceSplit, *names: str) -> bool:
    return all(math.isnan(getattr(split, name)) for name in names)


@pytest.mark.parametrize(
    ("counts", "search_sd"),
    [([4] * 5, 1.0), ([2] * 12, 2.0), ([5, 4, 1, 3, 6, 2], 1.0), ([2, 9, 3, 3], 3.0), ([7, 1, 1, 2, 8, 5, 3], 0.7)],
)
def test_the_components_are_those_of_statsmodels(counts: list[int], search_sd: float) -> None:
    from statsmodels.regression.mixed_linear_model import MixedLM

    table = runs(counts, search_sd, np.random.default_rng(sum(counts)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = MixedLM(table["value"], np.ones(len(table)), groups=table["study"]).fit(reml=True, gtol=1e-12)
    split = split_variance(table)
    assert split.search_variance > 0.05  # or there would be nothing to compare
    assert split.search_variance == pytest.approx(float(np.squeeze(fit.cov_re)), rel=2e-4)
    assert split.seed_variance == pytest.approx(fit.scale, rel=2e-4)


def test_balanced_studies_by_hand() -> None:
    """Means 1, 2 and 6, whose variance is 7; 2 within each study."""
    split = split_variance(of([0, 2], [1, 3], [5, 7]))
    between, within = 2 * 7.0, 2.0
    assert (split.studies, split.seeds, split.reason) == (3, 2, "")
    assert split.search_variance == pytest.approx((between - within) / 2)
    assert split.seed_variance == pytest.approx(within)
    assert split.share == pytest.approx(6 / 8)
    f = between / within
    low, high = (f / stats.f.ppf(q, 2, 3) for q in (0.975, 0.025))
    assert split.share_low == max(0, (low - 1) / (low + 1))
    assert split.share_high == pytest.approx((high - 1) / (high + 1))
    assert [split.seed_low, split.seed_high] == pytest.approx([6 / stats.chi2.ppf(q, 3) for q in (0.975, 0.025)])
    # Williams (1962).
    williams = 2 * (between - within * stats.f.ppf(0.025, 2, 3)) / (2 * stats.chi2.ppf(0.025, 2))
    assert [split.search_low, split.search_high] == pytest.approx([0, williams])


def test_studies_closer_than_their_seeds_have_no_search_variance() -> None:
    split = split_variance(of([0, 2], [0, 2], [2, 0]))
    assert (split.search_variance, split.share, split.share_low, split.search_low) == (0, 0, 0, 0)
    assert split.seed_variance == pytest.approx(6 / 5)  # of all six runs, as one sample


def test_an_unbalanced_table_that_is_nearly_balanced_has_nearly_its_intervals() -> None:
    rng = np.random.default_rng(5)
    table = runs([40] * 6, 1.0, rng)
    whole, less = split_variance(table), split_variance(table.drop(index=[3]))
    for name in (*POINTS, *ENDS):
        assert getattr(less, name) == pytest.approx(getattr(whole, name), rel=0.03), name


def test_values_shift_and_scale_as_variances_do() -> None:
    table = runs([3, 4, 2, 5], 1.0, np.random.default_rng(2))
    split, other = split_variance(table), split_variance(table.assign(value=1e6 * table["value"]))
    for name in (*POINTS, *ENDS):
        factor = 1 if name.startswith("share") else 1e12
        assert getattr(other, name) == pytest.approx(factor * getattr(split, name), rel=1e-6), name
    moved = split_variance(table.assign(value=table["value"] + 100))
    assert moved.share == pytest.approx(split.share, rel=1e-6)


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_the_share_is_known_where_the_squares_are_no_numbers(unit: float) -> None:
    table = runs([3] * 4, 2.0, np.random.default_rng(4))
    split, other = split_variance(table), split_variance(table.assign(value=unit * table["value"]))
    assert other.share == pytest.approx(split.share)
    assert [other.share_low, other.share_high] == pytest.approx([split.share_low, split.share_high])


def test_an_interval_of_less_confidence_is_shorter_and_holds_the_estimate() -> None:
    table = runs([4] * 8, 1.0, np.random.default_rng(3))
    wide, narrow = split_variance(table), split_variance(table, 0.5)
    for name, point in (("search", "search_variance"), ("seed", "seed_variance"), ("share", "share")):
        ends = [getattr(split, f"{name}_{end}") for split, end in
                ((wide, "low"), (narrow, "low"), (narrow, "high"), (wide, "high"))]  # fmt: skip
        assert ends == sorted(ends) and ends[0] < ends[1]
        assert ends[0] < getattr(wide, point) < ends[3]


def test_more_seeds_take_away_the_seeds_part_only() -> None:
    split = VarianceSplit(5, 4, search_variance=3.0, seed_variance=8.0)
    assert [split.study_variance(n) for n in (1, 4, 8)] == [11, 5, 4]


def test_of_two_studies_there_are_estimates_without_intervals() -> None:
    split = split_variance(of([0, 2], [9, 11]))
    assert split.share == pytest.approx(39.5 / 41.5)  # mean squares 81 and 2: (81 - 2) / 2 and 2
    assert silent(split, *ENDS)
    assert split.reason == "intervals of 2 studies say nothing; at least 3 are needed"


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (of(), "no studies; search luck shows between studies"),
        (of([1, 2, 3]), "1 study; search luck shows between studies"),
        (of([1], [2], [3]), "one seed in each study; search and seed cannot be told apart"),
        (of([1, 2], [2, 3], [math.inf, 3]), "a run diverged, and has no value"),
        (of([1, 1], [2, 2], [3, 3]), "seeds make no difference within a study"),
        (of([0.1 + 0.2, 0.3], [0.3, 0.3], [0.3, 0.3]), "seeds make no difference within a study"),
    ],
)
def test_where_nothing_can_be_said_nothing_is(table: pd.DataFrame, reason: str) -> None:
    split = split_variance(table)
    assert split.reason == reason
    assert silent(split, *POINTS, *ENDS)


def test_a_run_without_a_value_is_missing() -> None:
    table = of([1, 2, 4], [3, 5], [7, 8])
    assert split_variance(of([1, 2, NAN, 4], [3, NAN, 5], [7, 8], [NAN])) == split_variance(table)
    assert split_variance(table).seeds == pytest.approx(3 / (1 / 3 + 1 / 2 + 1 / 2))


# Coverage. Of 95 %, within the binomial's 0.1 % tails where exact; Burdick and Eickman's, and what is cut off at zero,
# may cover more.

MANY = 400


@pytest.mark.parametrize("counts", [[3] * 5, [2, 5, 1, 4]], ids=["balanced", "unbalanced"])
@pytest.mark.parametrize("search_sd", [0.3, 1.0, 3.0])
def test_intervals_cover_what_they_say(counts: list[int], search_sd: float) -> None:
    rng = np.random.default_rng(len(counts))
    truth = {"search": search_sd**2, "seed": 1.0, "share": search_sd**2 / (search_sd**2 + 1)}
    covered = dict.fromkeys(truth, 0)
    for _ in range(MANY):
        split = split_variance(runs(counts, search_sd, rng))
        for name, value in truth.items():
            covered[name] += getattr(split, f"{name}_low") <= value <= getattr(split, f"{name}_high")
    least, most = stats.binom.ppf([0.001, 0.999], MANY, 0.95)
    assert least <= covered["seed"] <= most
    assert least <= covered["share"] <= most
    assert covered["search"] >= least


@pytest.mark.filterwarnings("error")
def test_no_search_variance_is_0_where_the_squares_are_no_numbers() -> None:
    split = split_variance(
        pd.DataFrame({"study": [0, 0, 1, 1, 2, 2], "value": [1e200, 2e200, 1.2e200, 2.2e200, 1e200, 2.3e200]})
    )
    assert (split.search_variance, split.share) == (0.0, 0.0)
    assert split.seed_variance == split.search_high == np.inf

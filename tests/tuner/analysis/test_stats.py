"""Tests and intervals of paired differences against hand calculations, published examples, brute force and others."""

from __future__ import annotations

import math
from itertools import product
from statistics import NormalDist
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from tests.support.examples import examples
from tuner.analysis import paired, stats
from tuner.analysis.rules import Rules

Array = NDArray[np.float64]

# Student (1908): hours of sleep gained with either of two drugs.
SLEEP = (
    np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]),
    np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]),
)
# Fisher (1935): Darwin's 15 pairs of maize, crossed minus self-fertilised, in eighths of an inch.
MAIZE = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], float)
# Hollander and Wolfe (1973): depression scale factors of 9 patients, before and after.
DEPRESSION = (
    np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]),
    np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]),
)


def drawn(n: int, seed: int = 0, shift: float = 0.4) -> Array:
    return np.random.default_rng(seed).normal(shift, 1, n)


def all_signs(n: int) -> Array:
    """(2^n, n)."""
    return np.array(list(product([1.0, -1.0], repeat=n)))


def flips_as_far(d: Array) -> float:
    """The share of all signs that give a sum at least as far from zero; exact for whole numbers."""
    sums = all_signs(len(d)) @ np.abs(d)
    return float((np.abs(sums) >= abs(d.sum())).mean())


def signed_ranks(d: Array) -> Array:
    """Of what is not zero, twice over, so that they are whole numbers."""
    d = d[d != 0]
    size = np.abs(d)
    return np.sign(d) * np.array([(size < x).sum() * 2 + (size == x).sum() + 1 for x in size], float)


# p-values.


def test_the_t_test_of_students_sleep() -> None:
    x, y = SLEEP
    row = stats.contrast(x, y, "max", Rules())

    assert row["mean_difference"] == pytest.approx(-1.58)
    assert row["p_t"] == pytest.approx(0.002833, abs=1e-6)
    assert (row["t_low"], row["t_high"]) == pytest.approx((-2.4598858, -0.7001142), abs=1e-7)
    assert row["sd_difference"] == pytest.approx(1.2299955)
    assert row["d_z"] == pytest.approx(-1.58 / 1.2299955)
    assert row["d_z"] == pytest.approx(-4.0621277 / math.sqrt(10))  # t / sqrt(n)
    assert (row["wins"], row["ties"], row["losses"]) == (0, 1, 9)
    assert row["p_better"] == 0.05  # half of the tie


def test_fishers_count_of_darwins_maize() -> None:
    # 863 of the 32,768 signs give 314 eighths or more.
    assert paired.sign_flip(MAIZE) == pytest.approx(2 * 863 / 2**15, abs=1e-12)
    assert paired.t_test(MAIZE) == pytest.approx(0.0497, abs=5e-5)


def test_wilcoxons_test_of_depression() -> None:
    x, y = DEPRESSION
    assert paired.wilcoxon(x - y) == pytest.approx(20 / 2**9)  # signed ranks add up to 40 of 45


@pytest.mark.parametrize("n", [3, 4, 5, 10, 20, 45])
def test_the_t_test_is_that_of_scipy_on_pairs(n: int) -> None:
    x, y = drawn(n, seed=n), drawn(n, seed=n + 100, shift=0)
    theirs = scipy_stats.ttest_rel(x, y)

    assert paired.t_test(x - y) == pytest.approx(theirs.pvalue)
    for confidence in (0.8, 0.95, 0.99):
        expected = theirs.confidence_interval(confidence)
        assert paired.t_interval(x - y, confidence) == pytest.approx((expected.low, expected.high))


WHOLE = [
    [1, 2, 3], [1, 1, -1], [3, -1, 4, 1, -5, 9], [0, 0, 0, 2, 5], [7, 7, 7, 7, -7, 8], [1, -1, 2, -2, 3],
    [10, 1, 1, 1, 1, 1, -3, 4], [5, 4, 3, 2, 1, -6, 7, 8, 9, 10], [0, 1, 0, -1, 0, 0, 0, 6],
]  # fmt: skip


@pytest.mark.parametrize("differences", WHOLE)
def test_the_sign_flip_test_counts_all_signs(differences: list[int]) -> None:
    d = np.array(differences, float)

    assert paired.sign_flip(d) == pytest.approx(flips_as_far(d), abs=1e-12)
    theirs = scipy_stats.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert paired.sign_flip(d) == pytest.approx(theirs.pvalue, abs=1e-12)


@pytest.mark.parametrize("differences", WHOLE)
def test_wilcoxons_test_counts_all_signs_of_ranks(differences: list[int]) -> None:
    d = np.array(differences, float)

    assert paired.wilcoxon(d) == pytest.approx(flips_as_far(signed_ranks(d)), abs=1e-12)


@examples(60)
@given(st.lists(st.integers(-30, 30), min_size=3, max_size=10).filter(lambda d: len(set(d)) > 1))
def test_the_sign_flip_test_counts_all_signs_of_any_differences(differences: list[int]) -> None:
    d = np.array(differences, float)
    assert paired.sign_flip(d) == pytest.approx(flips_as_far(d), abs=1e-12)
    assert paired.sign_flip(d / 10) == pytest.approx(flips_as_far(d), abs=1e-12)  # tenths are rounded


def whole_sums(d: list[int]) -> dict[int, int]:
    """How many of all signs give each sum."""
    counts = {0: 1}
    for x in d:
        more: dict[int, int] = {}
        for total, count in counts.items():
            for sign in (1, -1):
                more[total + sign * x] = more.get(total + sign * x, 0) + count
        counts = more
    return counts


@pytest.mark.parametrize("n", [20, 29, 30, 31, 50])
def test_the_sign_flip_test_of_many_differences(n: int) -> None:
    d = [int(x) for x in np.random.default_rng(n).integers(-60, 100, n)]
    exact = sum(count for total, count in whole_sums(d).items() if abs(total) >= abs(sum(d))) / 2**n

    within = 0 if n <= paired.MOST_EXACT else 5 * math.sqrt(2 * exact / paired.RESAMPLES)
    assert paired.sign_flip(np.array(d, float)) == pytest.approx(exact, abs=1e-12 + within)


@pytest.mark.parametrize("n", [5, 12, 20, 50])
def test_wilcoxons_test_is_that_of_scipy_without_ties(n: int) -> None:
    d = drawn(n, seed=n)
    assert paired.wilcoxon(d) == pytest.approx(scipy_stats.wilcoxon(d, method="exact").pvalue)


def test_wilcoxons_test_of_many_differences_is_nearly_normal() -> None:
    d = drawn(80, seed=3, shift=0.25)
    n, w = len(d), np.abs(signed_ranks(d)[d > 0]).sum() / 2
    z = (w - n * (n + 1) / 4) / math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    assert paired.wilcoxon(d) == pytest.approx(2 * NormalDist().cdf(-abs(z)), rel=0.05)


def test_wilcoxons_test_is_exact_where_most_seeds_are_tied() -> None:
    d = np.array([0.0] * 9 + [1, 2, 3, 4, 5])
    assert paired.wilcoxon(d) == pytest.approx(2 / 2**5)  # five signs cannot say more
    ties = np.array([1.0, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -2, -2, 2])
    assert paired.wilcoxon(ties) == pytest.approx(flips_as_far(signed_ranks(ties)), abs=1e-12)


def test_differences_that_only_rounding_tells_apart_are_tied() -> None:
    # In units of 0.001 all but one are 5 or -5; as floats they are five different numbers.
    x, y = np.array([820, 811, 806, 809, 817, 828]), np.array([815, 806, 801, 814, 812, 821])
    exact = flips_as_far(signed_ranks((x - y).astype(float)))
    row = stats.contrast(x / 1000, y / 1000, "max", Rules())
    assert row["p_wilcoxon"] == pytest.approx(exact, abs=1e-12)


# Intervals.


def efron(d: Array, draws: NDArray[np.intp], confidence: float) -> tuple[float, float]:
    """The bias-corrected and accelerated percentiles of the mean (Efron 1987), from resamples' rows."""
    normal, n = NormalDist(), len(d)
    means = np.sort(d[draws].mean(axis=1))
    bias = normal.inv_cdf(((means < d.mean()).mean() + (means <= d.mean()).mean()) / 2)
    influence = np.array([d.mean() - np.delete(d, i).mean() for i in range(n)])
    acceleration = -(((-influence) ** 3).sum()) / (6 * (influence**2).sum() ** 1.5)

    def end(level: float) -> float:
        z = bias + normal.inv_cdf(level)
        return float(np.quantile(means, normal.cdf(bias + z / (1 - acceleration * z))))

    return end((1 - confidence) / 2), end((1 + confidence) / 2)


@pytest.mark.parametrize("n", [5, 10, 20, 40])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_bootstrap_interval_is_efrons(n: int, confidence: float) -> None:
    d = np.random.default_rng(n).exponential(size=n)
    own = paired.bca_interval(d, confidence)

    draws = np.random.default_rng(0).integers(0, n, (paired.RESAMPLES, n))
    assert own == pytest.approx(efron(d, draws, confidence), rel=1e-9)
    other_draws = np.random.default_rng(1).integers(0, n, (40_000, n))
    assert own == pytest.approx(efron(d, other_draws, confidence), abs=0.06 * d.std())


def test_the_bootstrap_interval_is_that_of_scipy_on_other_resamples() -> None:
    d = np.random.default_rng(7).exponential(size=15)
    theirs = scipy_stats.bootstrap((d,), np.mean, n_resamples=40_000, rng=5).confidence_interval
    assert paired.bca_interval(d, 0.95) == pytest.approx((theirs.low, theirs.high), abs=0.06)


def test_the_bootstrap_interval_leans_where_differences_do() -> None:
    d = np.random.default_rng(2).exponential(size=30)
    low, high = paired.bca_interval(d, 0.95)
    assert high - d.mean() > d.mean() - low
    assert paired.bca_interval(-d, 0.95) == pytest.approx((-high, -low))


@pytest.mark.parametrize("d", [[0, 0, 1], [0, 0, 0, 0, 0, 0, 1], [1, -1, 1, -1]])
def test_the_bootstrap_interval_lies_between_the_ends(d: list[float]) -> None:
    low, high = paired.bca_interval(np.array(d, float), 0.95)
    assert min(d) <= low <= np.mean(d) <= high <= max(d)


@pytest.mark.parametrize(
    ("n", "confidence", "place"),
    # Places from either end, of published tables (Dixon and Massey 1983, table A-25).
    [(5, 0.95, 0), (6, 0.95, 1), (8, 0.95, 1), (9, 0.95, 2), (10, 0.95, 2), (20, 0.95, 6), (30, 0.95, 10),
     (7, 0.99, 0), (8, 0.99, 1), (20, 0.99, 4)],
)  # fmt: skip
def test_the_interval_of_a_median_lies_between_order_statistics(n: int, confidence: float, place: int) -> None:
    x = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    expected = (place, n + 1 - place) if place else (math.nan, math.nan)
    assert paired.median_interval(x, confidence) == pytest.approx(expected, nan_ok=True)
    if place:
        covered = 1 - 2 * sum(math.comb(n, k) for k in range(place)) / 2**n
        assert covered >= confidence > 1 - 2 * sum(math.comb(n, k) for k in range(place + 1)) / 2**n


def test_the_interval_of_a_median_may_have_no_end() -> None:
    x = np.array([1.0, 2, 3, 4, 5, math.inf])
    assert paired.median_interval(x, 0.95) == (1, math.inf)
    assert paired.median_interval(-x, 0.95) == (-math.inf, -1)
    assert all(math.isnan(end) for end in paired.median_interval(x[:0], 0.95))


def test_the_bootstrap_interval_is_given_where_it_covers_what_it_says() -> None:
    for n, enough in ((19, False), (20, True)):
        row = stats.contrast(drawn(n), drawn(n, seed=1, shift=0), "min", Rules())
        assert math.isfinite(row["bca_low"]) == math.isfinite(row["bca_high"]) == enough


# Equivalence, corrections, power.


@pytest.mark.parametrize("margin", [0.1, 0.6, 1.0, 3.0])
@pytest.mark.parametrize("n", [3, 10, 20])
def test_equivalence_is_that_of_two_one_sided_tests(n: int, margin: float) -> None:
    x, y = drawn(n, seed=n, shift=0.2), drawn(n, seed=n + 50, shift=0)
    d = x - y
    error = d.std(ddof=1) / math.sqrt(n)
    by_hand = max(scipy_stats.t.sf((d.mean() + margin) / error, n - 1),
                  scipy_stats.t.cdf((d.mean() - margin) / error, n - 1))  # fmt: skip

    assert paired.tost(d, margin) == pytest.approx(by_hand)
    assert paired.tost(d, margin) == pytest.approx(float(ttost_paired(x, y, -margin, margin)[0]))
    low, high = paired.t_interval(d, 0.9)
    assert (paired.tost(d, margin) <= 0.05) == (-margin <= low and high <= margin)


def test_holm_by_hand() -> None:
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04, which is not below the one before.
    assert paired.holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm(np.array([0.6, 0.5, 0.9])) == pytest.approx([1, 1, 1])
    assert paired.holm(np.array([0.2])) == pytest.approx([0.2])
    assert len(paired.holm(np.array([]))) == 0


PS = st.lists(st.floats(0, 1) | st.sampled_from([0.01, 0.05]), min_size=1, max_size=12)


@examples(50)
@given(PS, st.lists(st.integers(0, 12), max_size=4))
def test_holm_is_that_of_statsmodels_and_nan_does_not_count(p: list[float], gaps: list[int]) -> None:
    with patch("gc.collect"):  # which statsmodels calls each time, for 0.1 s
        expected = multipletests(p, method="holm")[1].tolist() if len(p) > 1 else p
    with_gaps, expected_gaps = list(p), list(expected)
    for gap in gaps:
        with_gaps.insert(gap, math.nan)
        expected_gaps.insert(gap, math.nan)
    assert paired.holm(np.array(with_gaps)) == pytest.approx(expected_gaps, nan_ok=True)


@examples(80)
@given(PS, st.floats(0, 1))
def test_another_contrast_makes_no_corrected_p_smaller(p: list[float], another: float) -> None:
    alone, together = paired.holm(np.array(p)), paired.holm(np.array([*p, another]))
    assert (together[:-1] >= alone).all()
    assert (alone >= p).all()
    order = np.argsort(p)
    assert (np.diff(alone[order]) >= 0).all()


@pytest.mark.parametrize("n", [3, 5, 10, 20, 44])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("effect", [0.0, 0.5, 1.0])
def test_power_is_that_of_statsmodels(n: int, alpha: float, effect: float) -> None:
    theirs = TTestPower().power(effect, n, alpha, alternative="two-sided")
    assert paired.power(n, alpha, effect) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(("n", "alpha"), [(30, 0.001), (45, 0.01), (50, 0.01)])
def test_power_is_always_a_number(n: int, alpha: float) -> None:
    assert paired.power(n, alpha) == pytest.approx(TTestPower().power(1.0, n, alpha), rel=1e-6)


def test_power_is_the_share_of_simulated_differences() -> None:
    n, m = 5, 40_000
    d = np.random.default_rng(0).normal(1, 1, (m, n))
    found = (scipy_stats.ttest_1samp(d, 0, axis=1).pvalue <= 0.05).mean()
    assert paired.power(n, 0.05) == pytest.approx(found, abs=4 * math.sqrt(0.25 / m))
    assert paired.power(2, 0.05) == paired.power(0, 0.05) == 0


def test_values_described() -> None:
    # Mean 4, squares of deviations 9 + 1 + 0 + 16 = 26, over 3; t(3) at 97.5 % is 3.182446.
    found = stats.describe(np.array([1.0, math.nan, 3, 4, 8]), 0.95)
    sd = math.sqrt(26 / 3)
    half = 3.182446305 * sd / 2
    expected = {"n": 4, "mean": 4, "sd": sd, "low": 4 - half, "high": 4 + half, "median": 3.5,
                "median_low": math.nan, "median_high": math.nan}  # fmt: skip
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("values", "expected"), [([], (0, None, None)), ([math.nan], (0, None, None)), ([2.0], (1, 2.0, None)),
                             ([2.0, 2.0, 2.0], (3, 2.0, 0.0))],
)  # fmt: skip
def test_few_values_described(values: list[float], expected: tuple[int, float | None, float | None]) -> None:
    found = stats.describe(np.array(values, float), 0.95)
    shown = tuple(None if math.isnan(found[key]) else found[key] for key in ("mean", "sd"))
    assert (found["n"], *shown) == expected
    assert math.isnan(found["low"]) and math.isnan(found["high"])

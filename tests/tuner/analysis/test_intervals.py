"""Intervals agree with the tests beside which they stand, and with the verdicts of a corrected family."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from tuner.analysis import intervals, paired
from tuner.analysis.family import correct
from tuner.analysis.rules import TESTS, Rules, Test
from tuner.analysis.stats import contrasts, decided, raw

Array = NDArray[np.float64]


def table(d: Array) -> pd.DataFrame:
    """Optimizers whose differences to the baseline are these, (m, n)."""
    own = [(f"o{i}", seed, value) for i, row in enumerate(d) for seed, value in enumerate(row)]
    base = [("base", seed, 0.0) for seed in range(d.shape[1])]
    return pd.DataFrame([*own, *base], columns=["optimizer", "seed", "value"]).assign(study=0)


@pytest.mark.parametrize("test", list(TESTS))
@pytest.mark.parametrize("n", [5, 8, 12])
def test_an_interval_leaves_out_zero_where_and_only_where_its_test_finds_a_difference(test: Test, n: int) -> None:
    rng = np.random.default_rng(n)
    found = pd.concat(
        contrasts(table(rng.normal(shift, 1, (3, n))), "base", "min", Rules(test, margin=0.7))
        for shift in (0.0, 0.4, 0.8, 1.2) for _ in range(4)
    )  # fmt: skip
    outside = (found["low"] > 0) | (found["high"] < 0)
    claimed = found["verdict"].str.startswith(("better", "worse"))
    assert (outside == claimed).all()
    assert (outside == (found["p"] <= 0.05)).all()
    if n >= 8:
        assert outside.any() and not outside.all()


@pytest.mark.parametrize("test", ["wilcoxon", "sign_flip"])
def test_an_interval_ends_where_its_test_begins_to_reject(test: Test) -> None:
    d = np.random.default_rng(1).normal(0.5, 1, 9)
    low, high = intervals.interval(d, test, 0.05)
    p = intervals.TESTS[test]
    for end, outward in ((low, -1), (high, 1)):
        assert p(d - (end - outward * 1e-6)) > 0.05
        assert p(d - (end + outward * 1e-6)) <= 0.05
    if test == "wilcoxon":  # the ends are among the means of two
        means = np.add.outer(d, d) / 2
        assert np.abs(means - low).min() < 1e-9 and np.abs(means - high).min() < 1e-9


def test_where_no_shift_could_be_rejected_there_is_no_end() -> None:
    d = np.array([1.0, 2.0, 3.0, 5.0])  # 2 / 2^4 is above the level
    for test in ("wilcoxon", "sign_flip"):
        assert intervals.interval(d, test, 0.05) == (-math.inf, math.inf)
    assert all(math.isnan(end) for end in intervals.interval(d[:2], "wilcoxon", 0.05))


def test_of_runs_that_diverged_the_interval_agrees_with_ranks() -> None:
    d = np.array([math.inf, 1.0, 2.0, 2.5, 3.0, 4.5, 6.0, 7.0])
    low, high = intervals.interval(d, "wilcoxon", 0.05)
    assert low > 0 and paired.wilcoxon(d) <= 0.05
    assert high > 4.5


def test_of_a_family_each_interval_is_at_the_level_that_its_contrast_was_decided_at() -> None:
    d = np.random.default_rng(2).normal([[0.2], [0.9], [2.0], [3.0]], 1, (4, 9))
    found = contrasts(table(d), "base", "min", Rules())
    p = [scipy_stats.ttest_1samp(own, 0).pvalue for own in d]
    assert found["p"].to_numpy() == pytest.approx(multipletests(p, method="holm")[1])
    assert found["p"].to_numpy() == pytest.approx(found["p_t_holm"].to_numpy())
    assert found["family"].tolist() == [4] * 4
    assert sorted(found["p"])[2] <= 0.05 < sorted(found["p"])[3]
    assert sorted(found["level"]) == pytest.approx([0.05 / 4, 0.05 / 3, 0.05 / 2, 0.05])
    for own, level, low, high in zip(d, found["level"], found["low"], found["high"], strict=True):
        assert (low, high) == pytest.approx(scipy_stats.ttest_1samp(own, 0).confidence_interval(1 - level))


def test_equivalence_is_in_the_family() -> None:
    d = np.random.default_rng(2).normal([[0.1], [0.2], [3.0]], 0.6, (3, 6))
    found = contrasts(table(d), "base", "min", Rules(margin=1.0))
    expected = correct(found["p_t"].to_numpy(), found["p_tost"].to_numpy(), 0.05)
    assert found["p_equivalent"].to_numpy() == pytest.approx(expected.equivalence)
    assert found["p"].to_numpy() == pytest.approx(expected.difference)
    assert (found["p_equivalent"] > found["p_tost"]).all()
    assert ((found["verdict"] == "equivalent") == (found["p_equivalent"] <= 0.05)).all()


def test_a_claim_over_more_contrasts_is_corrected_for_all_of_them() -> None:
    d = np.random.default_rng(2).normal(0.9, 1, (2, 9))
    rules = Rules()
    found = contrasts(table(d), "base", "min", rules)
    p, equivalence = raw(found, rules)
    whole = correct(np.append(p, [0.5] * 8), np.append(equivalence, [np.nan] * 8), 0.05)
    first, rest = whole.parts([2, 8])
    wider = decided(found, "min", rules, first)
    assert sorted(wider["p"]) == pytest.approx([10 * min(p), 9 * max(p)])
    assert (wider["low"] < found["low"]).all() and (wider["high"] > found["high"]).all()
    assert rest.difference.tolist() == [1.0] * 8

"""One family: wrong claims, and intervals that miss, are at most as many as the level says; both always agree."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from tuner.analysis import paired, simultaneous
from tuner.analysis.rules import TESTS, Rules, Test
from tuner.analysis.stats import contrasts, decided

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
    low, high = simultaneous.interval(d, test, 0.05)
    p = simultaneous.TESTS[test]
    for end, outward in ((low, -1), (high, 1)):
        assert p(d - (end - outward * 1e-6)) > 0.05
        assert p(d - (end + outward * 1e-6)) <= 0.05
    if test == "wilcoxon":  # the ends are among the means of two
        means = np.add.outer(d, d) / 2
        assert np.abs(means - low).min() < 1e-9 and np.abs(means - high).min() < 1e-9


def test_where_no_shift_could_be_rejected_there_is_no_end() -> None:
    d = np.array([1.0, 2.0, 3.0, 5.0])  # 2 / 2^4 is above the level
    for test in ("wilcoxon", "sign_flip"):
        assert simultaneous.interval(d, test, 0.05) == (-math.inf, math.inf)
    assert all(math.isnan(end) for end in simultaneous.interval(d[:2], "wilcoxon", 0.05))


def test_of_runs_that_diverged_the_interval_agrees_with_ranks() -> None:
    d = np.array([math.inf, 1.0, 2.0, 2.5, 3.0, 4.5, 6.0, 7.0])
    low, high = simultaneous.interval(d, "wilcoxon", 0.05)
    assert low > 0 and paired.wilcoxon(d) <= 0.05
    assert high > 4.5


def test_each_contrast_has_an_equal_share_of_the_level() -> None:
    d = np.random.default_rng(2).normal(0.6, 1, (4, 9))
    found = contrasts(table(d), "base", "min", Rules(margin=1.5))
    raw = [scipy_stats.ttest_1samp(own, 0).pvalue for own in d]
    assert found["p"].to_numpy() == pytest.approx(multipletests(raw, method="bonferroni")[1])
    assert found["p_t_holm"].to_numpy() == pytest.approx(multipletests(raw, method="holm")[1])
    assert found["p_equivalent"].to_numpy() == pytest.approx(np.minimum(1, 4 * found["p_tost"]))
    assert found["family"].tolist() == [4] * 4
    for own, low, high in zip(d, found["low"], found["high"], strict=True):
        assert (low, high) == pytest.approx(scipy_stats.ttest_1samp(own, 0).confidence_interval(1 - 0.05 / 4))


def test_a_claim_over_more_contrasts_is_corrected_for_all_of_them() -> None:
    d = np.random.default_rng(2).normal(0.9, 1, (2, 9))
    found = contrasts(table(d), "base", "min", Rules(margin=1.5))
    wider = decided(found, "min", Rules(margin=1.5), family=10)
    assert wider["p"].to_numpy() == pytest.approx(np.minimum(1, 5 * found["p"]))
    assert (wider["low"] < found["low"]).all() and (wider["high"] > found["high"]).all()
    assert (wider["family"] == 10).all()


def most(n: int, share: float = 0.05) -> float:
    return float(scipy_stats.binom.ppf(0.999, n, share) / n)


TRUTHS = {
    "no difference": (0.0, 0.0, 0.0),
    "one far away": (9.0, 0.0, 0.0),
    "as large as the margin": (1.0, -1.0, 1.0),
    "all of them": (1.0, 0.0, 9.0),
    "the other way": (-9.0, 1.0, 0.0),
}


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("n", [5, 12])
def test_wrong_claims_and_intervals_that_miss_are_within_the_level(truth: str, n: int) -> None:
    """Of families of three contrasts with one baseline: a claim of a difference where there is none or of the other
    sign, or of equivalence where the difference is as large as the margin; an interval that does not cover."""
    families, alpha, margin = 2000, 0.05, 1.0
    effects = np.array(TRUTHS[truth])
    rng = np.random.default_rng(n)
    noise = rng.normal(0, 0.5, (families, 4, n))
    d = noise[:, :3] - noise[:, 3:] + effects[:, None]
    mean, error = d.mean(axis=2), d.std(axis=2, ddof=1) / n**0.5
    half = scipy_stats.t.ppf(1 - alpha / 6, n - 1) * error
    missed = np.abs(mean - effects) > half
    claimed = np.abs(mean) > half
    equivalent = ~claimed & (np.abs(mean) + scipy_stats.t.ppf(1 - alpha / 3, n - 1) * error <= margin)
    wrong = (claimed & (np.sign(mean) != np.sign(effects))) | (equivalent & (np.abs(effects) >= margin))
    assert missed.any(axis=1).mean() <= most(families)
    assert wrong.any(axis=1).mean() <= most(families)
    for own in range(3):  # what is simulated is what is done
        found = contrasts(table(d[own]), "base", "min", Rules(margin=margin))
        assert (found["p"] <= alpha).tolist() == claimed[own].tolist()
        assert (found["verdict"] == "equivalent").tolist() == equivalent[own].tolist()


def test_with_steps_as_holms_the_level_would_not_hold() -> None:
    """Why there are none. One contrast is as far off as the margin, which its test of equivalence may miss; where its
    difference is found, Holm would test the other, of no difference, at the whole level."""
    rng, families = np.random.default_rng(5), 40_000
    margin = 3.5
    t = rng.normal(0, 1, (families, 2)) + np.array([margin, 0.0])
    halves, whole = scipy_stats.norm.ppf(1 - 0.025 / 2), scipy_stats.norm.ppf(1 - 0.05 / 2)
    first = np.abs(t[:, 0]) > halves
    second = np.abs(t[:, 1]) > np.where(first, whole, halves)
    equivalent = ~first & (t[:, 0] < margin - scipy_stats.norm.ppf(1 - 0.025))
    assert (second | equivalent).mean() > 0.06
    assert ((np.abs(t[:, 1]) > halves) | equivalent).mean() <= most(families)

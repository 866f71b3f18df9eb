"""An e-process: its published form, its bounds, and how often it is ever large without an effect."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from tuner.analysis import e_process
from tuner.analysis.paired import tost


def test_values() -> None:
    found = e_process.e_value(np.array([2.0, 3.5, 5.0]), np.array([10, 20, 6]))
    assert found == pytest.approx([1.555241, 23.362774, 16.205227], abs=1e-6)


@pytest.mark.parametrize(("t", "n", "tau"), [(2.0, 10, 1.0), (-1.3, 4, 0.5)])
def test_is_the_mixture_of_likelihood_ratios(t: float, n: int, tau: float) -> None:
    """Of noncentral against central t, over a normal effect."""
    central = stats.t.pdf(t, n - 1)
    mixture, _ = integrate.quad(
        lambda effect: stats.nct.pdf(t, n - 1, effect * math.sqrt(n)) * stats.norm.pdf(effect, 0, tau),
        -9,
        9,
        points=[0],
    )
    assert float(e_process.e_value(np.array(t), np.array(n), tau)) == pytest.approx(mixture / central, rel=1e-6)


def test_bound_is_where_the_e_value_is_one_over_alpha() -> None:
    for n in (6, 20, 400):
        t = e_process.bound(0.05, n)
        assert float(e_process.e_value(np.array(t), np.array(n))) == pytest.approx(20)
    assert e_process.bound(0.05, 4) == math.inf


def test_statistics_are_students_of_the_first_differences() -> None:
    d = np.random.default_rng(1).normal(1e3, 1, 12)
    t, n = e_process.t_statistics(d)
    assert list(n) == list(range(3, 13))
    assert t == pytest.approx([stats.ttest_1samp(d[: int(k)], 0).statistic for k in n], rel=1e-9)


def test_all_differences_count_and_not_the_best_of_their_beginnings() -> None:
    d = np.concatenate([np.random.default_rng(2).normal(2, 0.5, 8), np.full(14, -1.0)])
    assert e_process.p_value(d[:8]) < 0.01 and e_process.p_value(d) == 1.0
    assert e_process.signs(d[:8]) < 0.05 and e_process.signs(d) == 1.0
    even = np.concatenate([np.random.default_rng(6).normal(0, 0.1, 20), np.full(10, 1.0)])
    assert e_process.tost(even[:20], 0.2) < 0.01 and e_process.tost(even, 0.2) == 1.0
    assert math.isnan(e_process.p_value(np.ones(8)))
    assert math.isnan(e_process.p_value(d[:2]))


def test_ever_large_as_rarely_as_said() -> None:
    """Of 2,000 courses of 200 differences without an effect, looked at after each."""
    x = np.random.default_rng(3).standard_normal((2_000, 200))
    p = [np.nanmin(1 / e_process.e_value(*e_process.t_statistics(d))) for d in x]
    most = stats.binom.ppf(0.999, 2_000, 0.05) / 2_000
    assert 0.01 < np.mean(np.array(p) <= 0.05) <= most
    wild = np.random.default_rng(4).standard_cauchy((500, 40))
    signs = [min(e_process.signs(d[:n]) for n in range(3, 41)) for d in wild]
    assert 0.004 < np.mean(np.array(signs) <= 0.05) <= stats.binom.ppf(0.999, 500, 0.05) / 500


def test_equivalence() -> None:
    d = np.random.default_rng(5).normal(0, 0.1, 30)
    assert tost(d, 0.5) < e_process.tost(d, 0.5) < 1e-6
    assert e_process.tost(d + 1, 0.5) == 1.0
    assert math.isnan(e_process.tost(d, 0.0))


def test_signs_are_a_mixture_over_the_chance_of_a_positive_one() -> None:
    """2^n times the beta function: of eight wins 2^8 / 9."""
    assert e_process.signs(np.full(8, -math.inf)) == pytest.approx(9 / 2**8)

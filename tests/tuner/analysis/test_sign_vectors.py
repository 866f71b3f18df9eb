"""A sequential test of sign vectors: exact over all of them, at every level and at all looks together."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tuner.analysis import paired, sign_vectors
from tuner.analysis.sequential import Course
from tuner.analysis.spending import Looks


def course(d: np.ndarray, looks: Looks, done: int | None = None) -> Course:
    return Course(d, np.arange(len(d)), len(d) if done is None else done, looks, 0.05, "study")


def smallest(d: np.ndarray, looks: Looks, test: str) -> float:
    """The p-value of that look which says the most."""
    return float(np.nanmin([getattr(course(d, looks, done), test)() for done in looks.units]))


def test_one_look_is_the_sign_flip_test() -> None:
    """Its p-value, rounded up to one of the levels."""
    d = np.random.default_rng(0).normal(0.5, 1, 10)
    levels = [k / 512 for k in range(1, 513)]
    found = sign_vectors.p_value([d], np.arange(10), 10, levels, [[level] for level in levels])
    assert found == pytest.approx(paired.sign_flip(d))


@pytest.mark.parametrize("test", ["sign_flip", "wilcoxon"])
def test_all_signs_of_a_course_together_keep_the_level(test: str) -> None:
    """Every sign is given to the same sizes once: rejections by any look are counted, not simulated."""
    sizes = np.random.default_rng(1).standard_exponential(9) ** 2
    plan = Looks((5, 7, 9), "pocock")
    p = np.array([smallest(sizes * signs, plan, test) for signs in itertools.product([1, -1], repeat=9)])
    for level in (0.01, 0.03, 0.05, 0.1, 0.4):
        assert 0.3 * level < (p <= level).mean() <= level + 1e-12


@pytest.mark.parametrize(
    "plan",
    [
        Looks((3, 6, 10), "pocock"),
        Looks((3, 5, 7, 9)),
        Looks((4, 6, 8), "obrien_fleming"),
        Looks((6, 8, 9), "pocock"),
    ],
)
def test_no_level_is_ever_exceeded(plan: Looks) -> None:
    """Of sizes 1 to n and each sign vector, by any look, at the levels of one contrast and of each in a family of
    four."""
    n = plan.units[-1]
    every = [np.arange(1.0, n + 1) * (1.0, *signs) for signs in itertools.product([1.0, -1.0], repeat=n - 1)]
    p = np.array([smallest(d, plan, "wilcoxon") for d in every])
    for level in (0.01, 0.0125, 0.05 / 3, 0.025, 0.05, 0.1, 0.2):
        assert (p <= level).mean() <= level * (1 + 1e-12)


def test_a_look_does_not_depend_on_what_came_later() -> None:
    d, plan = np.random.default_rng(2).standard_t(2, 24) + 0.8, Looks((6, 12, 18, 24))
    p = [course(d[:n], plan).sign_flip() for n in plan.units]
    assert p[-1] < 0.05 < p[0]
    assert [course(d, plan, done=n).sign_flip() for n in plan.units] == p


@pytest.mark.parametrize("test", ["sign_flip", "wilcoxon"])
def test_what_was_far_at_an_earlier_look_counts_by_what_it_is_at_the_last(test: str) -> None:
    d, plan = np.concatenate([np.arange(1.0, 8), -np.arange(2.0, 8)]), Looks((7, 13), "pocock")
    assert getattr(course(d, plan, done=7), test)() <= 0.05
    assert getattr(course(d, plan), test)() > 0.5


def test_more_vectors_than_can_be_looked_at_are_drawn() -> None:
    """Of 20 units; against all 2^20."""
    d = np.random.default_rng(3).normal(0.4, 1, 20)
    levels = [k / 1000 for k in range(1, 1001)]
    found = sign_vectors.p_value([d], np.arange(20), 20, levels, [[level] for level in levels])
    expected = paired.sign_flip(d)
    assert found == pytest.approx(expected, abs=0.001 + 4 * (expected / sign_vectors.RANDOM) ** 0.5)


def test_diverged_runs_have_ranks() -> None:
    d = np.array([np.inf, 2.0, np.inf, 1.0, 3.0, np.inf, 4.0, 0.5, 0.0, 6.0])
    plan = Looks((5, 10), "pocock")
    assert course(d, plan).wilcoxon() <= 0.05
    assert np.isnan(course(d, plan).sign_flip())

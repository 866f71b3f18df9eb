"""Verdicts on optimizers have their level and power, and those on one search each do not have theirs, where the luck of
search and seed is known: as benchmarks/verdict_level.py measures it, of fewer contrasts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.verdict_level import ALPHA, RATIOS, SEEDS, STUDIES, differences, over_seeds, over_studies, significant
from tuner.analysis import paired

MANY = 2000


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("studies", STUDIES)
def test_studies_have_their_level_whatever_the_luck_of_the_search(studies: int, ratio: float) -> None:
    rate = over_studies(np.random.default_rng(studies), MANY, studies, ratio, 0.0)
    assert rate.calculated == pytest.approx(ALPHA)
    assert rate.share <= stats.binom.ppf(0.999, MANY, ALPHA) / MANY


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("studies", STUDIES)
def test_studies_have_the_power_that_is_calculated(studies: int, ratio: float) -> None:
    """An effect of one and a half standard deviations of the studies' differences."""
    rate = over_studies(np.random.default_rng(studies), MANY, studies, ratio, 1.5)
    assert rate.calculated > 0.2
    assert rate.as_calculated


@pytest.mark.parametrize(("ratio", "level"), [(0, 0.05), (1, 0.51), (10, 0.82)])
def test_seeds_of_one_study_each_do_not_have_their_level(ratio: float, level: float) -> None:
    rate = over_seeds(np.random.default_rng(0), MANY, ratio)
    assert rate.calculated == pytest.approx(level, abs=0.01)
    assert rate.as_calculated


def test_what_is_significant_is_so_by_the_test_that_decides() -> None:
    samples = np.random.default_rng(0).normal(0.8, 1, (60, 5))
    found = significant(samples)
    assert 0 < found < 60
    assert found == sum(paired.t_test(sample) <= ALPHA for sample in samples)


def test_differences_vary_by_search_and_seed_as_they_are_said_to() -> None:
    runs = differences(np.random.default_rng(0), (20_000, 3, SEEDS), 10)
    assert runs.mean(axis=2).var() == pytest.approx(2 * (10 + 1 / SEEDS), rel=0.03)
    assert runs.var(axis=2, ddof=1).mean() == pytest.approx(2, rel=0.03)

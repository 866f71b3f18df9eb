from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tuner.analysis.family import correct

NAN = float("nan")


def test_without_margins_it_is_holms_procedure() -> None:
    rng = np.random.default_rng(0)
    for m in (1, 2, 5, 9):
        p = rng.random(m) ** 3
        found = correct(p, np.full(m, NAN), 0.05)
        assert found.difference == pytest.approx(multipletests(p, method="holm")[1])
        assert np.isnan(found.equivalence).all()


def test_of_one_contrast_neither_hypothesis_is_corrected() -> None:
    found = correct(np.array([0.03]), np.array([0.2]), 0.05)
    assert (found.difference, found.equivalence, found.level) == ([0.03], [0.2], [0.05])


def test_a_contrast_counts_as_long_as_one_of_its_hypotheses_is_open() -> None:
    # In order .001 (first's difference), .004 (second's equivalence), .01 (first's equivalence), .2, .3, .9.
    found = correct(np.array([0.001, 0.2, 0.3]), np.array([0.01, 0.004, 0.9]), 0.05)
    assert found.difference == pytest.approx([3 * 0.001, 2 * 0.2, 0.4])  # the first is done with, then never below
    assert found.equivalence == pytest.approx([3 * 0.01, 3 * 0.004, 0.9])
    assert found.level == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2])


def test_what_is_not_tested_is_not_of_the_family() -> None:
    found = correct(np.array([NAN, 0.01, 0.04]), np.array([NAN, NAN, NAN]), 0.05)
    assert found.difference == pytest.approx([NAN, 0.02, 0.04], nan_ok=True)
    assert found.level == pytest.approx([0.05, 0.025, 0.05])
    assert correct(np.array([]), np.array([]), 0.05).difference.shape == (0,)


@pytest.mark.parametrize("effects", [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 3), (1, 1, 1)])
def test_errors_of_the_whole_family_are_within_the_level(effects: tuple[float, ...]) -> None:
    """True differences in margins: at 0 the one null is true, at 1 or beyond the other, whose worst case is 1."""
    rng, n, margin, repeats = np.random.default_rng(7), 8, 1.0, 1500
    d = rng.normal(np.array(effects)[:, None] * margin, 1.2, (repeats, len(effects), n))
    mean, se = d.mean(-1), d.std(-1, ddof=1) / n**0.5
    p = 2 * stats.t.sf(abs(mean) / se, n - 1)
    tost = stats.t.sf((margin - abs(mean)) / se, n - 1)
    wrong = 0
    for differences, equivalences in zip(p, tost, strict=True):
        found = correct(differences, equivalences, 0.05)
        null = np.array(effects) == 0
        wrong += bool((found.difference[null] <= 0.05).any() or (found.equivalence[~null] <= 0.05).any())
    assert wrong / repeats <= 0.05 + 3 * (0.05 * 0.95 / repeats) ** 0.5


def test_an_interval_at_the_level_agrees_with_the_decision() -> None:
    grid = (0.001, 0.012, 0.02, 0.04, 0.3)
    for p in product(grid, repeat=3):
        for equivalence in ((NAN, NAN, NAN), (0.9, 0.011, 0.4)):
            found = correct(np.array(p), np.array(equivalence), 0.05)
            assert ((np.array(p) <= found.level) == (found.difference <= 0.05)).all(), (p, equivalence)

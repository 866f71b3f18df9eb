"""How much would decide: against statsmodels' power, against simulation, and against the search for the fewest."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from tuner.analysis import design, paired
from tuner.analysis.design import POWER


@pytest.mark.parametrize(("difference", "sd", "alpha"), [(1.0, 1.0, 0.05), (0.3, 1.0, 0.05), (-2.0, 1.0, 0.05 / 7)])
def test_the_fewest_that_find_a_difference(difference: float, sd: float, alpha: float) -> None:
    wanted = TTestPower().solve_power(abs(difference) / sd, power=POWER, alpha=alpha)
    assert design.for_difference(difference, sd, alpha) == int(np.ceil(wanted))


def test_what_cannot_be_planned_is_not() -> None:
    assert design.for_difference(0.0, 1.0, 0.05) is None
    assert design.for_difference(1.0, 0.0, 0.05) is None
    assert design.for_difference(1e-3, 1.0, 0.05) is None  # a thousand are too few
    assert design.for_equivalence(1.0, 1.0, 0.1, 0.05) is None
    assert design.for_difference(100.0, 1.0, 0.05) == 3


@pytest.mark.parametrize(("n", "difference"), [(4, 0.0), (10, 0.3), (25, -0.5)])
def test_the_power_of_equivalence_is_what_simulation_finds(n: int, difference: float) -> None:
    d = np.random.default_rng(n).normal(difference, 1, (20_000, n))
    error = d.std(axis=1, ddof=1) / n**0.5
    from scipy import stats

    found = np.abs(d.mean(axis=1)) + stats.t.ppf(0.95, n - 1) * error <= 1.0
    assert design.tost_power(n, 0.05, difference, 1.0, 1.0) == pytest.approx(found.mean(), abs=0.015)


def test_the_fewest_that_find_equivalence() -> None:
    n = design.for_equivalence(0.1, 1.0, 1.0, 0.05)
    assert n is not None
    powers = [design.tost_power(each, 0.05, 0.1, 1.0, 1.0) for each in (n - 1, n)]
    assert powers[0] < POWER <= powers[1]


def test_the_cheapest_weighs_searches_against_seeds() -> None:
    def studies_for(seeds: int, search: float, seed: float) -> int | None:
        return design.for_difference(1.0, (search + seed / seeds) ** 0.5, 0.05)

    dear_seed = design.cheapest(lambda seeds: studies_for(seeds, 0.5, 8.0), search_cost=100)
    dear_luck = design.cheapest(lambda seeds: studies_for(seeds, 3.0, 0.01), search_cost=1)
    assert dear_seed.seeds > 5
    assert dear_luck.seeds == 1
    for found, search, seed, cost in ((dear_seed, 0.5, 8.0, 100), (dear_luck, 3.0, 0.01, 1)):
        costs = {m: (studies_for(m, search, seed) or 10**6) * (cost + m) for m in range(1, design.MOST_SEEDS + 1)}
        assert costs[int(found.seeds)] == min(costs.values())
    assert design.cheapest(lambda seeds: None, 1).units is None


def test_the_power_of_a_difference_is_the_noncentral_ts() -> None:
    assert paired.power(12, 0.01, 0.9) == pytest.approx(TTestPower().power(0.9, 12, 0.01))

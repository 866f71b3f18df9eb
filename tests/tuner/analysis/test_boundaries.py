"""Boundaries: the constants of the books, to their digits, and chances that simulation agrees with."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from tuner.analysis.boundaries import TLaw, ZLaw, boundaries, crossing, t_of
from tuner.analysis.spending import Looks, Spending, spent

OBRIEN_FLEMING = {2: 1.9774, 3: 2.0040, 4: 2.0243, 5: 2.0401, 6: 2.0528, 7: 2.0633, 8: 2.0722, 9: 2.0798, 10: 2.0865}
POCOCK = {2: 2.1783, 3: 2.2895, 4: 2.3613, 5: 2.4132, 6: 2.4532, 7: 2.4855, 8: 2.5123, 9: 2.5352, 10: 2.5550}
LAN_DEMETS = {
    2: [2.9626, 1.9686],
    3: [3.7103, 2.5114, 1.9930],
    4: [4.3326, 2.9631, 2.3590, 2.0141],
    5: [4.8769, 3.3570, 2.6803, 2.2898, 2.0310],
}


def equal(looks: int) -> ZLaw:
    return ZLaw(tuple(k / looks for k in range(1, looks + 1)))


def t_bounds(
    counts: list[int], spending: Spending = "kim_demets", alpha: float = 0.05, two_sided: bool = True
) -> list[float]:
    plan = Looks(tuple(counts), spending)
    spend = [plan.spent(alpha, look, two_sided=two_sided) for look in range(len(counts))]
    return [t_of(u, n) for u, n in zip(boundaries(TLaw(plan.units), spend, two_sided=two_sided), counts, strict=True)]


@pytest.mark.parametrize("looks", OBRIEN_FLEMING)
def test_classical_constants(looks: int) -> None:
    """Of O'Brien and Fleming (1979) and Pocock (1977), as Jennison and Turnbull (2000) have them."""
    law = equal(looks)
    falling = [math.sqrt(looks / k) for k in range(1, looks + 1)]
    assert crossing(law, [OBRIEN_FLEMING[looks] * f for f in falling]) == pytest.approx(0.05, abs=1.2e-5)
    assert crossing(law, [POCOCK[looks]] * looks) == pytest.approx(0.05, abs=1.2e-5)


@pytest.mark.parametrize("looks", [2, 10])
def test_classical_constants_to_their_digits(looks: int) -> None:
    law, falling = equal(looks), [math.sqrt(looks / k) for k in range(1, looks + 1)]
    found = brentq(lambda c: crossing(law, [c * f for f in falling]) - 0.05, 1.9, 2.2, xtol=1e-6)
    assert round(found, 4) == OBRIEN_FLEMING[looks]
    assert round(brentq(lambda c: crossing(law, [c] * looks) - 0.05, 2, 3, xtol=1e-6), 4) == POCOCK[looks]


@pytest.mark.parametrize("looks", LAN_DEMETS)
def test_boundaries_of_known_variance(looks: int) -> None:
    law = equal(looks)
    found = boundaries(law, [spent("obrien_fleming", 0.05, share) for share in law.shares])
    assert found == pytest.approx(LAN_DEMETS[looks], abs=6e-5)
    assert crossing(law, found) == pytest.approx(0.05, abs=1e-8)


def test_what_is_spent() -> None:
    assert [round(spent("obrien_fleming", 0.05, t), 6) for t in (0.4, 0.6, 0.8)] == [0.000788, 0.007616, 0.024424]
    found = [round(spent("pocock", 0.05, t), 6) for t in (0.2, 0.4, 0.6, 0.8, 1)]
    assert found == [0.01477, 0.026157, 0.035426, 0.043242, 0.05]
    assert [spent("kim_demets", 0.05, t, 3) for t in (0.5, 1)] == [0.05 / 8, 0.05]
    plan = Looks((5, 10), "obrien_fleming")
    assert plan.spent(0.05, 0, two_sided=False) == spent("obrien_fleming", 0.1, 0.5) / 2


def test_boundaries_of_t() -> None:
    """The first is Student's own quantile; the others are those of a simulation of 4 million courses."""
    first, *others = t_bounds([5, 10, 15, 20], "obrien_fleming")
    assert first == pytest.approx(stats.t.isf(spent("obrien_fleming", 0.05, 0.25) / 2, 4), rel=1e-6)
    assert [round(c, 2) for c in others] == [4.02, 2.69, 2.18]
    assert t_bounds([5, 10, 15, 20]) == pytest.approx([6.36, 3.26, 2.63, 2.29], abs=0.008)


def test_with_one_look_they_are_students() -> None:
    assert t_bounds([7]) == pytest.approx([stats.t.isf(0.025, 6)], rel=1e-7)
    assert t_bounds([7], two_sided=False) == pytest.approx([stats.t.isf(0.05, 6)], rel=1e-7)


def test_with_many_differences_they_are_those_of_known_variance() -> None:
    found, share = t_bounds([400, 800]), [0.0125, 0.05]
    assert found == pytest.approx(boundaries(equal(2), share), rel=5e-3)


@pytest.mark.parametrize("counts", [[3, 4, 5], [3, 4, 20], [5, 10, 15, 20], [3, 5, 6, 9, 10, 11, 12], [4, 40]])
@pytest.mark.parametrize("two_sided", [True, False])
def test_stops_as_often_as_it_may(counts: list[int], two_sided: bool) -> None:
    """Chances at each look against 100,000 simulated courses."""
    plan, n = Looks(tuple(counts), "pocock"), 100_000
    bounds = t_bounds(counts, "pocock", two_sided=two_sided)
    x = np.random.default_rng(7).standard_normal((n, counts[-1]))
    stopped = np.zeros(n, dtype=bool)
    for look, (count, bound) in enumerate(zip(counts, bounds, strict=True)):
        t = x[:, :count].mean(axis=1) / x[:, :count].std(axis=1, ddof=1) * math.sqrt(count)
        stopped |= (np.abs(t) if two_sided else t) >= bound
        expected = plan.spent(0.05, look, two_sided=two_sided)
        assert stopped.mean() == pytest.approx(expected, abs=3.5 * math.sqrt(expected / n))


def test_what_stops_at_a_level_stops_at_higher_ones() -> None:
    for spending in ("kim_demets", "obrien_fleming", "pocock"):
        tables = np.array([t_bounds([3, 6, 9, 12], spending, level) for level in (0.001, 0.01, 0.05, 0.2, 0.6, 0.95)])
        tables = np.where(np.isinf(tables), 1e9, tables)
        assert (np.diff(tables, axis=0) <= 0).all()


def test_a_look_that_may_spend_nothing_does_not_stop() -> None:
    found = boundaries(TLaw((3, 6, 8, 12)), [0.0, 0.01, 0.01, 0.05])
    assert t_of(found[0], 3) == t_of(found[2], 8) == math.inf
    assert (found[1], found[3]) == pytest.approx(boundaries(TLaw((6, 12)), [0.01, 0.05]))

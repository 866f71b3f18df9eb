"""How often a verdict is wrong, or right, under simulation: contrasts as they are made, without their bootstrap.

Rates of an exact test are asserted within the binomial's 0.1 % tails at its level, so a wrong level of 0.07 in place of
0.05 is seen in 2,000 contrasts; draws are seeded, so that a test passes always or never.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from tuner.analysis import paired
from tuner.analysis.family import correct
from tuner.analysis.rules import TESTS, Rules
from tuner.analysis.stats import contrast, contrasts, verdict

Array = NDArray[np.float64]
Rates = dict[str, dict[str, float]]

ALPHA = 0.05
TAIL = 0.001
FAMILY = 5


@pytest.fixture(autouse=True)
def _without_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which decide nothing, see ``test_intervals_decide_nothing``, and take most of the time."""
    for name in ("bca_interval", "t_interval"):
        monkeypatch.setattr(paired, name, lambda d, confidence: (np.nan, np.nan))


def most(n: int, share: float = ALPHA) -> float:
    """The largest rate that n independent events of this chance come to but in 0.1 % of cases."""
    return float(scipy_stats.binom.ppf(1 - TAIL, n, share) / n)


def least(n: int, share: float) -> float:
    return float(scipy_stats.binom.ppf(TAIL, n, share) / n)


def judged(x: Array, y: Array, margin: float | None = None) -> Iterator[dict[str, tuple[str, float]]]:
    """The verdicts and p-values of families (families, members, n) against their baselines, by primary test."""
    for members, baseline in zip(x, y, strict=True):
        rows = [
            contrast(own, baseline, "min", Rules(margin=margin)) | {"unit": "seed", "n": len(own)} for own in members
        ]
        found: dict[str, Any] = {test: [] for test in TESTS}
        tost = np.array([row["p_tost"] for row in rows])
        for test in TESTS:
            corrected = correct(np.array([row[f"p_{test}"] for row in rows]), tost, ALPHA)
            for row, p, equivalent, own in zip(rows, corrected.difference, corrected.equivalence, members, strict=True):
                shift = row["shift"] if test != "wilcoxon" else rank_sign(own - baseline)
                seen = row | {"p": p, "p_equivalent": equivalent, "shift": shift}
                found[test].append(verdict(seen, "min", Rules())[0])
        yield found


def rank_sign(d: Array) -> float:
    return float(np.sign((np.sign(d) * scipy_stats.rankdata(np.abs(d))).sum()))


def rates(d: Array, margin: float | None = None) -> Rates:
    """Of single contrasts with these differences (m, n): the share of each verdict, by primary test."""
    found = list(judged(d[:, None, :], np.zeros_like(d), margin))
    return {test: {word: sum(each[test] == [word] for each in found) / len(d)
                   for word in ("better", "worse", "equivalent", "inconclusive")} for test in TESTS}  # fmt: skip


def claimed(of: dict[str, float]) -> float:
    return of["better"] + of["worse"]


def normal(m: int, n: int, seed: int, shift: float = 0.0) -> Array:
    return np.random.default_rng(seed).normal(shift, 1, (m, n))


def families(m: int, n: int, seed: int, effects: float = 0.0) -> tuple[Array, Array]:
    """Optimizers and their baseline: what a seed does to all of them, plus noise, so that differences have a standard
    deviation of 1."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 3, (m, 1, n))
    noise = rng.normal(0, 0.5**0.5, (m, FAMILY + 1, n))
    runs = common + noise
    return runs[:, :FAMILY] + effects, runs[:, FAMILY]


def test_intervals_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    x, y = families(3, 8, seed=1, effects=-0.8)
    for members, baseline in zip(x, y, strict=True):
        values = pd.DataFrame(
            [{"optimizer": name, "study": 0, "seed": seed, "value": value}
             for name, own in zip("abcdef", [*members, baseline], strict=True) for seed, value in enumerate(own)]
        )  # fmt: skip
        for test in TESTS:
            with monkeypatch.context() as whole:
                whole.undo()
                found = contrasts(values, "f", "min", Rules(test, margin=0.9))["verdict"].tolist()  # type: ignore[arg-type]
            assert found == next(iter(judged(members[None], baseline[None], 0.9)))[test]


# No true difference.


def test_of_single_contrasts_without_a_difference_one_in_twenty_is_called_one() -> None:
    m, n = 2000, 10
    found = rates(normal(m, n, seed=2))
    for test in TESTS:
        assert claimed(found[test]) <= most(m)
    assert claimed(found["t"]) >= least(m, ALPHA)  # exact, so not less either
    assert claimed(found["sign_flip"]) >= least(m, 50 / 2**n)  # multiples of 2 / 2^10 just below the level
    assert claimed(found["wilcoxon"]) >= least(m, 0.048828125)  # ranks add up to at most 8 of 55


def test_of_families_without_a_difference_one_in_twenty_has_a_verdict() -> None:
    """Holm holds the level of a whole task; so of 2,000 contrasts far less than 5 % are called better or worse."""
    m = 2000 // FAMILY
    found = list(judged(*families(m, 20, seed=3)))
    for test in TESTS:
        words = [word for family in found for word in family[test]]
        assert len(words) == 2000
        assert sum(word in ("better", "worse") for word in words) <= ALPHA * len(words)
        assert sum(any(word in ("better", "worse") for word in family[test]) for family in found) / m <= most(m)


# Runs of both optimizers are drawn from one distribution, so that their differences are symmetric whatever it is.
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]
EXCHANGEABLE: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(size=shape) - rng.normal(size=shape),
    "t3": lambda rng, shape: rng.standard_t(3, shape) - rng.standard_t(3, shape),
    "log-normal": lambda rng, shape: rng.lognormal(size=shape) - rng.lognormal(size=shape),
    "accuracies of few samples": lambda rng, shape: (rng.binomial(50, 0.9, shape) - rng.binomial(50, 0.9, shape)) / 50,
    "some diverge": lambda rng, shape: (
        np.where(rng.random(shape) < 0.1, 10.0, rng.normal(size=shape))
        - np.where(rng.random(shape) < 0.1, 10.0, rng.normal(size=shape))
    ),
}


@pytest.mark.parametrize("n", [3, 5, 20])
@pytest.mark.parametrize("distribution", ["t3", "log-normal"])
def test_runs_of_one_distribution_are_not_called_better(distribution: str, n: int) -> None:
    m = 250
    d = EXCHANGEABLE[distribution](np.random.default_rng(n), (m, n))
    found = rates(d)
    for test in TESTS:
        assert claimed(found[test]) <= most(m)
    if n < 6:  # 2 / 2^5 is above the level
        assert claimed(found["sign_flip"]) == claimed(found["wilcoxon"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10, 20])
@pytest.mark.parametrize("distribution", EXCHANGEABLE)
def test_runs_of_one_distribution_are_not_called_better_in_2000(distribution: str, n: int) -> None:
    m = 2000 if distribution != "accuracies of few samples" else 500
    found = rates(EXCHANGEABLE[distribution](np.random.default_rng(n + 100), (m, n)))
    for test in TESTS:
        assert claimed(found[test]) <= most(m)


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, 20])
def test_of_differences_that_are_skewed_the_t_test_says_a_little_too_much(n: int) -> None:
    """Exponential differences of mean zero: means are equal, distributions are not. The t-test's level rises to about a
    tenth then; ranks and signs test symmetry, which does not hold."""
    m = 2000
    found = rates(np.random.default_rng(n).exponential(size=(m, n)) - 1)
    assert claimed(found["t"]) <= 0.12


# A true difference.


def test_an_effect_of_one_standard_deviation_is_found_over_20_seeds() -> None:
    m, n = 600, 20
    found = rates(normal(m, n, seed=4, shift=-1.0))
    for test in TESTS:
        assert found[test]["better"] >= 0.95
        assert found[test]["worse"] == 0
    power = paired.power(n, ALPHA)
    assert least(m, power) <= claimed(found["t"]) <= most(m, power)


def test_in_families_of_five_such_effects_are_found_too() -> None:
    """All five effects there: Holm's last factors are small, so that nearly as many are found as of single ones."""
    found = list(judged(*families(60, 20, seed=5, effects=-1.0)))
    for test in TESTS:
        words = [word for family in found for word in family[test]]
        assert sum(word == "better" for word in words) >= 0.95 * len(words)
        assert "worse" not in words


# Equivalence.


@pytest.mark.parametrize(("m", "n"), [(400, 3), (400, 5), (800, 20)])
def test_a_difference_as_large_as_the_margin_is_seldom_called_equivalent(m: int, n: int) -> None:
    margin = 0.7
    d = np.concatenate([normal(m // 2, n, seed=6 + n, shift=margin), normal(m // 2, n, seed=7 + n, shift=-margin)])
    found = rates(d, margin)
    for test in TESTS:
        assert found[test]["equivalent"] <= most(m)


def test_no_difference_is_called_equivalent_where_seeds_suffice() -> None:
    # The 90 % interval, t(19) standard errors to either side of the mean, lies within a margin of sqrt(20) of them.
    m, n = 300, 20
    found = rates(normal(m, n, seed=9), margin=1.0)
    inside = 2 * scipy_stats.norm.cdf(n**0.5 - scipy_stats.t.ppf(0.95, n - 1)) - 1
    assert found["t"]["equivalent"] >= least(m, inside - ALPHA)  # those that are significant come first
    assert claimed(found["t"]) <= most(m)

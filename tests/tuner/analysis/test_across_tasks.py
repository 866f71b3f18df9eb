from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations, pairwise, product
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tuner.analysis import paired
from tuner.analysis.across_tasks import (
    algoperf_score,
    cliques,
    friedman,
    performance_profile,
    ranks,
    wilcoxon_holm,
)

INF, NAN = math.inf, math.nan


def table(rows: list[list[float]], columns: str = "abcdef") -> pd.DataFrame:
    tasks = pd.Index([f"task{i}" for i in range(len(rows))], name="task")
    width = len(rows[0]) if rows else len(columns)
    return pd.DataFrame(rows, index=tasks, columns=list(columns[:width]), dtype=float)


# Performance profiles.

# Times over the fastest: 1, 2, never; 3, 1, 4; nobody; 1, not run, 1.
TIMES = table([[10, 20, INF], [30, 10, 40], [INF, INF, INF], [5, NAN, 5]])


def test_a_profile_is_the_share_of_tasks_solved_within_tau_times_the_fastest() -> None:
    profile = performance_profile(TIMES, [0.5, 1, 2, 2.9, 3, 4, 1e9])
    expected = {0.5: (0, 0, 0), 1: (2, 1, 1), 2: (2, 2, 1), 2.9: (2, 2, 1), 3: (3, 2, 1), 4: (3, 2, 2), 1e9: (3, 2, 2)}
    assert profile.index.name == "tau"
    assert {tau: tuple(4 * row) for tau, row in zip(profile.index, profile.to_numpy(), strict=True)} == expected


def test_the_algoperf_score_is_the_mean_of_the_profile_up_to_tau_max() -> None:
    # Of a task with ratio r the profile's integral from 1 to 4 is 4 - r: (3 + 1 + 0 + 3) / (3 x 4) for a.
    assert algoperf_score(TIMES).to_dict() == pytest.approx({"a": 7 / 12, "b": 5 / 12, "c": 3 / 12})
    # Up to 2: (1 + 0 + 0 + 1) / 4, (0 + 1) / 4, 1 / 4.
    assert algoperf_score(TIMES, 2).to_dict() == pytest.approx({"a": 2 / 4, "b": 1 / 4, "c": 1 / 4})


def integral(times: list[list[float]], column: int, tau_max: int) -> Fraction:
    """Of the profile, between the places where it jumps."""
    solved = [[Fraction(t) if math.isfinite(t) else None for t in row] for row in times]
    ratios = []
    for row in solved:
        reached = [t for t in row if t is not None]
        own = row[column]
        if own is not None:
            ratios.append(own / min(reached))
    jumps = sorted({Fraction(1), Fraction(tau_max), *(r for r in ratios if r <= tau_max)})
    areas = [(b - a) * Fraction(sum(r <= a for r in ratios), len(times)) for a, b in pairwise(jumps)]
    return sum(areas, Fraction(0)) / (tau_max - 1)


@examples(50)
@given(st.lists(st.lists(st.integers(1, 40) | st.just(INF), min_size=3, max_size=3), min_size=1, max_size=8))
def test_the_algoperf_score_equals_the_integral_in_fractions(times: list[list[float]]) -> None:
    scores = algoperf_score(table(times))
    assert scores.tolist() == pytest.approx([float(integral(times, column, 4)) for column in range(3)], abs=1e-12)


def test_whoever_takes_no_time_is_the_fastest_and_no_factor_is_enough_for_others() -> None:
    times = table([[0, 0, 1]])
    assert performance_profile(times, [1, 1e6]).to_numpy().tolist() == [[1, 1, 0], [1, 1, 0]]
    assert algoperf_score(times).tolist() == [1, 1, 0]
    assert algoperf_score(table([[1e-300, 1e300]])).tolist() == [1, 0]


def test_a_single_optimizer_is_the_fastest_wherever_it_gets() -> None:
    assert algoperf_score(table([[7], [INF]])).tolist() == [0.5]


def test_of_no_task_nothing_is_said() -> None:
    none = table([], "ab")
    assert performance_profile(none, [1, 2]).isna().all(axis=None)
    assert performance_profile(none, [1, 2]).shape == (2, 2)
    assert algoperf_score(none).isna().all()


@pytest.mark.parametrize("tau_max", [1.0, 0.0, NAN])
def test_a_profile_up_to_the_fastest_has_no_mean(tau_max: float) -> None:
    with pytest.raises(ValueError, match="tau_max must be above 1"):
        algoperf_score(TIMES, tau_max)


def test_negative_times_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        performance_profile(table([[1, -1]]), [1])


# Ranks. Demsar (2006), table 6: AUC of four decision trees on 14 data sets, its ranks and their means. The third and
# fourth on the last but one, equal as printed, are told apart as its ranks do.

AUC = [
    [0.763, 0.768, 0.771, 0.798],
    [0.599, 0.591, 0.590, 0.569],
    [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657],
    [0.882, 0.888, 0.886, 0.898],
    [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685],
    [0.583, 0.583, 0.563, 0.625],
    [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000],
    [0.940, 0.962, 0.965, 0.962],
    [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9751, 0.975],
    [0.957, 0.978, 0.946, 0.970],
]
DEMSAR = -table(AUC)  # lower is better


def test_ranks_are_those_of_the_published_example() -> None:
    found = ranks(DEMSAR)
    assert found.iloc[0].tolist() == [4, 3, 2, 1]
    assert found.iloc[5].tolist() == [1, 2.5, 4, 2.5]
    assert found.iloc[9].tolist() == [2.5, 2.5, 2.5, 2.5]
    assert found.mean().round(3).tolist() == [3.143, 2.0, 2.893, 1.964]
    assert found.attrs["left_out"] == []


def test_tasks_that_lack_an_optimizer_are_left_out_and_named() -> None:
    found = ranks(table([[1, 2, 3], [1, NAN, 3], [2, 2, 1]]))
    assert found.to_numpy().tolist() == [[1, 2, 3], [2.5, 2.5, 1]]
    assert found.attrs["left_out"] == ["task1"]
    assert ranks(table([[1, NAN]])).empty


def test_the_friedman_statistic_is_that_of_the_published_example() -> None:
    # 9.28 there, without a correction for ties; that is one minus the sum of t (t^2 - 1) over n k (k^2 - 1): three
    # pairs and a group of four.
    found = friedman(DEMSAR)
    assert found is not None
    ties = Fraction(3 * 6 + 60, 14 * 4 * 15)
    uncorrected = found[0] * float(1 - ties)
    assert round(uncorrected, 2) == 9.28
    # Its equation 6, with the mean ranks of n = 14 tasks and k = 4 optimizers, and after Iman and Davenport (1980) F.
    means = ranks(DEMSAR).mean()
    assert 12 * 14 / (4 * 5) * float((means**2).sum() - 4 * 5**2 / 4) == pytest.approx(uncorrected)
    assert round(13 * uncorrected / (14 * 3 - uncorrected), 2) == 3.69


def test_the_friedman_statistic_and_p_value_equal_the_formula_in_fractions() -> None:
    # Rank sums 7, 7 and 10 of n = 4 and k = 3; of two degrees of freedom the tail of chi-squared is exp(-x / 2).
    means = table([[1, 2, 3], [10, 20, 30], [2, 1, 3], [0.3, 0.2, 0.1]])
    statistic = Fraction(12, 4 * 3 * 4) * (49 + 49 + 100) - 3 * 4 * 4
    assert friedman(means) == pytest.approx((float(statistic), math.exp(-statistic / 2)))


def test_friedman_is_over_the_tasks_that_have_every_optimizer() -> None:
    whole = table([[1, 2, 3], [10, 20, 30], [2, 1, 3]])
    assert friedman(pd.concat([whole, pd.DataFrame([[1, NAN, 2]], columns=list("abc"))])) == friedman(whole)


@pytest.mark.parametrize(
    "rows",
    [
        [[1, 2], [2, 3], [3, 4]],  # two optimizers
        [[1, 2, 3]],  # one task
        [[1, 2, 3], [1, 2, NAN]],  # one that has them all
        [[1, 1, 1], [2, 2, 2]],  # all tied
        [[1]],
    ],
)
def test_friedman_is_silent_where_it_says_nothing(rows: list[list[float]]) -> None:
    assert friedman(table(rows)) is None


def test_means_that_only_rounding_tells_apart_tie() -> None:
    a, b = np.mean([0.1, 0.2, 0.3]), np.mean([0.3, 0.2, 0.1])
    assert a != b
    assert ranks(table([[a, b, 1]])).to_numpy().tolist() == [[1.5, 1.5, 3]]
    assert friedman(table([[a, b, b], [b, b, a]])) is None  # all tied


def test_an_optimizer_that_diverged_is_last() -> None:
    assert ranks(table([[INF, 1, 2], [INF, INF, 1e300]])).to_numpy().tolist() == [[3, 1, 2], [2.5, 2.5, 1]]


# Wilcoxon.


@pytest.mark.parametrize("unit", [1, 10, 1e-6, 1e20, 1 / 3])
def test_ties_do_not_depend_on_the_unit(unit: float) -> None:
    """Five tenths down and one up, all ties: of the 64 signs 2 (1 + 6) are as uneven."""
    means = table([[x * unit, y * unit] for x, y in zip(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.8], [0.2, 0.3, 0.4, 0.5, 0.6, 0.7], strict=True)])  # fmt: skip
    assert wilcoxon_holm(means)["p"].tolist() == [14 / 64]
    assert paired.wilcoxon(paired.differences(*(means[name].to_numpy() for name in "ab"))) == 14 / 64


def test_tasks_of_other_magnitudes_leave_differences_alone() -> None:
    means = table([[1e9, 1e9 - 1], [2e-9, 1e-9], [5.0, 4.0]])
    assert wilcoxon_holm(means)["p"].tolist() == [2 / 8]


def signed_rank_p(differences: list[int]) -> float:
    """Two-sided, over all signs of the ranks, ties sharing theirs, zeros left out."""
    d = [x for x in differences if x]
    rank = {size: Fraction(sum(range(below + 1, below + same + 1)), same) for size, below, same in (
        (size, sum(abs(x) < size for x in d), sum(abs(x) == size for x in d)) for size in {abs(x) for x in d}
    )}  # fmt: skip
    sums = [
        sum((rank[abs(x)] for x, sign in zip(d, signs, strict=True) if sign), Fraction(0))
        for signs in product((False, True), repeat=len(d))
    ]
    seen = sum((rank[abs(x)] for x in d if x > 0), Fraction(0))
    tails = sum(s <= seen for s in sums), sum(s >= seen for s in sums)
    return min(1.0, 2 * min(tails) / len(sums))


def columns_that_differ_by(differences: list[int]) -> pd.DataFrame:
    return table([[float(100 * i + d), float(100 * i)] for i, d in enumerate(differences)])


@pytest.mark.parametrize(
    "differences",
    [
        [1, 2, 3, 4, 5, 6],  # 2 / 2^6
        [1, -2, 3, 4, -5, 6, 7, 8],
        [1, -1, 2, 3, 3, 4],
        [0, 1, 2, -3, 4, 0, 5],
        [0, 5],
        [-7],
    ],
)
def test_wilcoxon_equals_a_count_of_all_signs(differences: list[int]) -> None:
    found = wilcoxon_holm(columns_that_differ_by(differences))
    assert found[["first", "second"]].to_numpy().tolist() == [["a", "b"]]
    assert found["p"].tolist() == pytest.approx([signed_rank_p(differences)])
    assert found["p_holm"].tolist() == found["p"].tolist()


def test_of_more_tasks_with_ties_wilcoxon_is_a_normal_approximation() -> None:
    # Sizes 1, ..., 21 and twice 22, ..., 26, of which 15 are negative: R- = 1 + ... + 15 = 120 of n = 31;
    # variance n (n + 1) (2n + 1) / 24 less (t^3 - t) / 48 for each of five pairs.
    d = [*range(-15, 0), *range(16, 22), *[x for x in range(22, 27) for _ in "12"]]
    variance = 31 * 32 * 63 / 24 - 5 * (2**3 - 2) / 48
    z = (120 - 31 * 32 / 4) / math.sqrt(variance)
    found = wilcoxon_holm(columns_that_differ_by(d))["p"]
    assert found.tolist() == pytest.approx([2 * NormalDist().cdf(z)], rel=1e-9)


def test_pairs_are_corrected_by_holm() -> None:
    # a and b: -1, 2, 3, -4, 5, 6, whose negative ranks add up to 5. Ten of the 64 sets of ranks add up to no more
    # (none, 1, 2, 3, 1 2, 4, 1 3, 5, 1 4, 2 3): p 20 / 64. To c all six have one sign: 2 / 64.
    # Times 3 for the smallest; times 2 for the second, but no less than the first; times 1 for the largest.
    means = table([[0, 1, 100], [2, 0, 200], [3, 0, 300], [0, 4, 400], [5, 0, 500], [6, 0, 600]])
    found = wilcoxon_holm(means).set_index(["first", "second"])
    assert found["p"].to_dict() == {("a", "b"): 20 / 64, ("a", "c"): 2 / 64, ("b", "c"): 2 / 64}
    assert found["p_holm"].to_dict() == {("a", "b"): 20 / 64, ("a", "c"): 6 / 64, ("b", "c"): 6 / 64}


@pytest.mark.parametrize("rows", [[[1, 1], [2, 2]], [[1, 1]], [[1, NAN]], []])
def test_columns_that_are_identical_or_have_no_task_have_p_1(rows: list[list[float]]) -> None:
    found = wilcoxon_holm(table(rows, "ab"))
    assert found[["p", "p_holm"]].to_numpy().tolist() == [[1, 1]]


def test_one_optimizer_makes_no_pair() -> None:
    found = wilcoxon_holm(table([[1], [2]]))
    assert list(found) == ["first", "second", "p", "p_holm"]
    assert found.empty


# Cliques.


def pairs_that_differ(names: str, *differing: str) -> pd.DataFrame:
    rows = [(a, b, 0.01 if a + b in differing or b + a in differing else 0.5) for a, b in combinations(names, 2)]
    return pd.DataFrame(rows, columns=["first", "second", "p_holm"])


@pytest.mark.parametrize(
    ("mean_ranks", "differing", "bars"),
    [
        ({"a": 1, "b": 2, "c": 3}, [], ["abc"]),
        ({"a": 1, "b": 2, "c": 3}, ["ac"], ["ab", "bc"]),
        ({"c": 3, "a": 1, "b": 2}, ["ca"], ["ab", "bc"]),  # by rank, not as they come
        ({"a": 1, "b": 2, "c": 3}, ["ab", "ac"], ["bc"]),
        ({"a": 1, "b": 2, "c": 3}, ["ab", "ac", "bc"], []),
        ({"a": 1, "b": 2, "c": 3}, ["ab", "bc"], []),  # a and c have b between them
        ({"a": 1, "b": 2, "c": 3, "d": 4}, ["ad"], ["abc", "bcd"]),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, ["bc"], ["ab", "cd"]),
        ({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, ["ae", "be"], ["abcd", "cde"]),
        ({"a": 1}, [], []),
    ],
)
def test_cliques_by_hand(mean_ranks: dict[str, float], differing: list[str], bars: list[str]) -> None:
    found = cliques(pd.Series(mean_ranks), pairs_that_differ("".join(mean_ranks), *differing), 0.05)
    assert found == [list(bar) for bar in bars]


def test_a_pair_differs_at_alpha_itself() -> None:
    pairs = pd.DataFrame({"first": ["a"], "second": ["b"], "p_holm": [0.05]})
    mean_ranks = pd.Series({"a": 1.0, "b": 2.0})
    assert cliques(mean_ranks, pairs, 0.05) == []
    assert cliques(mean_ranks, pairs, 0.0499) == [["a", "b"]]


def test_cliques_of_random_pairs_are_all_largest_groups_without_a_difference() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        names = "abcdef"
        differing = ["".join(pair) for pair in combinations(names, 2) if rng.random() < 0.3]
        runs = [names[i:j] for i in range(6) for j in range(i + 2, 7)]
        clear = [run for run in runs if not any(set(pair) <= set(run) for pair in differing)]
        largest = [run for run in clear if not any(run != other and run in other for other in clear)]
        mean_ranks = pd.Series({name: float(place) for place, name in enumerate(names)})
        assert cliques(mean_ranks, pairs_that_differ(names, *differing), 0.05) == [list(run) for run in largest]

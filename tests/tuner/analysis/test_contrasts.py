"""Contrasts of a table: who is paired with whom, what is said where nothing can be, what must not change the answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tuner.analysis import paired
from tuner.analysis.rules import TESTS, Rules, Test
from tuner.analysis.stats import Mode, contrasts, verdict

NAN = math.nan
Values = Sequence[float] | Mapping[int, float] | paired.Array
LEVELS = {"mean", "baseline_mean", "median", "baseline_median"}
NUMBERS = ["mean_difference", "sd_difference", "t_low", "t_high", "bca_low", "bca_high", "p_t", "p_wilcoxon",
           "p_sign_flip", "d_z", "p_better", "p_tost", "p"]  # fmt: skip


def table(**columns: Values) -> pd.DataFrame:
    """A row per run, of values by seed."""
    rows = [
        {"optimizer": name, "study": 0, "seed": seed, "value": value}
        for name, values in columns.items()
        for seed, value in (values.items() if isinstance(values, Mapping) else enumerate(values))
    ]
    return pd.DataFrame(rows, columns=["optimizer", "study", "seed", "value"])


def shown(values: pd.DataFrame, baseline: str = "base", mode: Mode = "min", rules: Rules | None = None) -> pd.DataFrame:
    """Without the differences themselves, which pandas does not compare."""
    return contrasts(values, baseline, mode, rules or Rules()).drop(columns="differences")


def only(values: pd.DataFrame, mode: Mode = "min", rules: Rules | None = None) -> dict[str, Any]:
    """The one contrast with ``base``."""
    (row,) = contrasts(values, "base", mode, rules or Rules(margin=0.5)).to_dict("records")
    return {str(key): value for key, value in row.items()}


BASE = [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_contrast_by_hand() -> None:
    # Differences -1, -1, -2, -1, 0: mean -1, squares of deviations 0 + 0 + 1 + 0 + 1, over 4.
    row = only(table(base=BASE, one=[0, 1, 1, 3, 5]))

    sd = math.sqrt(0.5)
    assert row["mean_difference"] == -1
    assert row["sd_difference"] == pytest.approx(sd)
    assert row["d_z"] == pytest.approx(-1 / sd)
    assert (row["n"], row["n_unpaired"], row["wins"], row["ties"], row["losses"]) == (5, 0, 4, 1, 0)
    assert row["p_better"] == 0.9
    half = 2.776445105 * sd / math.sqrt(5)  # t(4) at 97.5 %
    assert (row["t_low"], row["t_high"]) == pytest.approx((-1 - half, -1 + half))
    assert row["p_wilcoxon"] == row["p_sign_flip"] == 2 / 2**4
    assert (row["verdict"], row["reason"], row["test"], row["margin"]) == ("better", "", "t", 0.5)
    assert only(table(base=BASE, one=[0, 1, 1, 3, 5]), "max")["verdict"] == "worse"


def test_optimizers_keep_their_order_and_holm_counts_those_that_can_be_tested() -> None:
    values = table(z=[1.1, 2.2, 3.0, 4.3, 5.1], base=BASE, a={0: 9.0}, m=[0.1, 1.3, 2.0, 2.8, 4.1])

    found = contrasts(values, "base", "min", Rules())

    assert found["optimizer"].tolist() == ["z", "a", "m"]
    for test in TESTS:
        raw, corrected = found[f"p_{test}"].to_numpy(), found[f"p_{test}_holm"].to_numpy()
        assert np.isnan(corrected[1])
        small, large = sorted([0, 2], key=lambda place: raw[place])
        assert corrected[small] == pytest.approx(min(1, 2 * raw[small]))
        assert corrected[large] == pytest.approx(min(1, max(2 * raw[small], raw[large])))


def test_the_declared_test_decides() -> None:
    # Four seeds that agree: signs and ranks cannot say more than 2 / 2^4, whatever the size.
    values = table(base=[1, 2, 3, 4], one=[2.0, 3.1, 3.9, 5.05])
    words = {test: only(values, rules=Rules(test)) for test in TESTS}  # type: ignore[arg-type]
    assert {test: row["verdict"] for test, row in words.items()} == {
        "t": "worse", "wilcoxon": "inconclusive", "sign_flip": "inconclusive",
    }  # fmt: skip
    for test, row in words.items():
        assert row["p"] == row[f"p_{test}"] == row[f"p_{test}_holm"]  # of one contrast


@pytest.mark.parametrize(
    ("test", "expected"), [("t", "equivalent"), ("wilcoxon", "better"), ("sign_flip", "equivalent")]
)
def test_wilcoxons_direction_is_that_of_the_ranks(test: Test, expected: str) -> None:
    # Eleven seeds a little better, one much worse: the mean is worse, though not significantly, ranks are better.
    d = np.array([-1.0, -2, -3, -4, -5, -6, -7, -8, -9, -10, -11, 80])
    row = only(table(base=np.zeros(12).tolist(), one=d.tolist()), rules=Rules(test, margin=20))
    assert row["mean_difference"] > 0
    assert row["verdict"].partition(",")[0] == expected


@pytest.mark.parametrize("p", [0.01, 0.05, 0.051, 1.0])
@pytest.mark.parametrize("p_tost", [0.01, 0.05, 0.051, NAN])
@pytest.mark.parametrize("shift", [-1.0, 1.0])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_difference_decides_then_equivalence(p: float, p_tost: float, shift: float, mode: Mode) -> None:
    row: dict[Any, Any] = {"unit": "seed", "n": 5, "ties": 0, "p": p, "p_equivalent": p_tost, "shift": shift,
                           "mean_difference": shift, "margin": 0.5}  # fmt: skip
    word, reason = verdict(row, mode, Rules())
    lower = shift < 0
    if p <= 0.05:
        assert word == ("better" if lower == (mode == "min") else "worse")
    else:
        assert word == ("equivalent" if p_tost <= 0.05 else "inconclusive")
    assert reason == ""


# Where it must not speak.


SILENT = [
    ({}, {}, 0, "neither has a value"),
    ({0: 1.0, 1: 2.0, 2: 4.0}, {7: 1.0, 8: 2.0, 9: 4.0}, 0, "no seed in common; at least 3 are needed"),
    ({0: 1.0}, {0: 2.0}, 1, "one seed in common; at least 3 are needed"),
    ({0: 1.0, 1: 2.0}, {0: 2.0, 1: 5.0}, 2, "2 seeds in common; at least 3 are needed"),
    ({0: 1.0, 1: NAN, 2: 3.0}, {0: 2.0, 1: 1.0, 2: 5.0}, 2, "2 seeds in common; at least 3 are needed"),
    ({0: 1.0, 1: 2.0, 2: 4.0}, {0: 1.0, 1: 2.0, 2: 4.0}, 3, "the same value on every seed"),
    ({0: 1.0, 1: 1.0, 2: 1.0}, {0: 1.0, 1: 1.0, 2: 1.0}, 3, "the same value on every seed"),
    ({0: 1.5, 1: 2.5, 2: 4.5}, {0: 1.0, 1: 2.0, 2: 4.0}, 3, "the same difference on every seed, so there is no spread "
                                                              "to compare it with"),
    ({0: 0.1 + 0.2, 1: 0.5, 2: 0.3 + 0.6}, {0: 0.1, 1: 0.3, 2: 0.7}, 3,
     "the same difference on every seed, so there is no spread to compare it with"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "base", "n", "reason"), SILENT)
@pytest.mark.parametrize("test", list(TESTS))
def test_where_nothing_can_be_said_nothing_is(
    one: dict[int, float], base: dict[int, float], n: int, reason: str, test: Test
) -> None:
    values = pd.concat([table(one=one or {0: NAN}, base=base)])
    row = only(values, rules=Rules(test, margin=10.0))

    assert (row["verdict"], row["reason"], row["n"]) == ("inconclusive", reason, n)
    assert all(math.isnan(row[key]) for key in NUMBERS if key.startswith(("p_t", "p_w", "p_s", "bca")) or key == "p")
    assert math.isnan(row["d_z"])
    assert math.isnan(row["mean_difference"]) == (n == 0)
    assert math.isnan(row["sd_difference"]) == (n < 2)
    assert math.isnan(row["p_better"]) == (n == 0)
    assert row["wins"] + row["ties"] + row["losses"] == n


def test_runs_without_a_partner_are_counted() -> None:
    row = only(table(base={0: 1.0, 1: 2, 2: 3, 3: NAN, 9: 4}, one={0: 1.1, 1: 2.3, 2: 3.1, 3: 4, 4: 5}))
    assert (row["n"], row["n_unpaired"]) == (3, 3)  # seed 3 and 4 of one, 9 of the other
    assert row["mean_difference"] == pytest.approx((0.1 + 0.3 + 0.1) / 3)


def test_no_optimizer_but_the_baseline() -> None:
    for values in (table(base=BASE), table()):
        found = contrasts(values, "base", "min", Rules())
        assert found.empty
        assert {"optimizer", "n", "verdict"} <= set(found.columns)


def test_a_baseline_without_runs() -> None:
    found = contrasts(table(one=BASE, two=BASE), "base", "min", Rules())
    assert found["verdict"].tolist() == ["inconclusive"] * 2
    assert found["n_unpaired"].tolist() == [5, 5]
    assert found["reason"].str.startswith("no seed in common").all()


def test_all_diverged_on_one_side_is_as_bad_as_it_looks() -> None:
    lost, fine = [math.inf] * 6, [0.4, 0.5, 0.45, 0.55, 0.5, 0.6]
    assert only(table(base=fine, one=lost))["verdict"] == "worse"
    assert only(table(base=lost, one=fine))["verdict"] == "better"
    assert only(table(base=lost, one=lost))["verdict"] == "inconclusive"


def test_the_last_of_several_runs_of_a_seed_counts_that_has_a_value() -> None:
    values = table(base=BASE, one=[1.5, 2.7, 3.1, 4.2, 5.9])
    again = pd.concat([table(one={0: 77.0, 3: -8.0}), values, table(one={1: NAN})])
    assert shown(again).equals(shown(values))


def test_whole_numbers_and_a_column_of_status_change_nothing() -> None:
    whole = table(base=[5, 3, 8, 1], one=[4, 4, 4, 0])
    assert whole["value"].dtype.kind == "i"
    found = shown(whole, rules=Rules(margin=1))
    assert found.equals(shown(whole.astype({"value": float}), rules=Rules(margin=1)))
    assert found.equals(shown(whole.assign(status="never heard of"), rules=Rules(margin=1)))


@pytest.mark.parametrize("exponent", [-300, -160, -20, 20, 160, 300])
def test_numbers_may_be_tiny_or_huge(exponent: int) -> None:
    base, one = np.array([0.3, 0.1, 0.8, 0.2, 0.6]), np.array([0.1, 0.05, 0.2, 0.1, 0.35])
    scale = 10.0**exponent
    expected = only(table(base=base, one=one), rules=Rules(margin=0.3))

    row = only(table(base=base * scale, one=one * scale), rules=Rules(margin=0.3 * scale))

    for key in ("p_t", "p_wilcoxon", "p_sign_flip", "p_tost", "d_z", "p_better"):
        assert row[key] == pytest.approx(expected[key], rel=1e-6), key
    for key in ("mean_difference", "sd_difference", "t_low", "t_high", "median", "median_difference"):
        assert row[key] / scale == pytest.approx(expected[key], rel=1e-6), key
    assert row["verdict"] == expected["verdict"]


def test_a_spread_of_rounding_alone_is_none() -> None:
    # The same 1e-6 is added to each; numbers of a million are kept to 1e-10.
    base = np.array([1e6 + 0.3, 2e6 + 0.7, 3e6 + 0.9])
    row = only(table(base=base, one=base + 1e-6))
    assert row["verdict"] == "inconclusive"
    assert row["reason"].startswith("the same difference on every seed")


# What must not change the answer.


@st.composite
def columns(draw: st.DrawFn) -> dict[str, list[float]]:
    """Eighths, so that sums and differences are exact; two optimizers and the baseline."""
    n = draw(st.integers(3, 7))
    eighths = st.lists(st.integers(-40, 40), min_size=n, max_size=n)
    return {name: [x / 8 for x in draw(eighths)] for name in ("one", "two", "base")}


some = examples(20)
RULES = Rules(margin=2.0)
DRAWN = {"bca_low", "bca_high"}
"""Of random resamples, which depend on the order of seeds."""


def rows_of(values: pd.DataFrame, baseline: str = "base", mode: Mode = "min", rules: Rules = RULES) -> dict[str, Any]:
    found = shown(values, baseline, mode, rules).to_dict("records")
    return {row["optimizer"]: row for row in found}


def same(one: Any, other: Any, *, without: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    for name in one:
        for key in set(one[name]) - without - {"baseline"}:
            expected = one[name][key]
            if not isinstance(expected, str | None):
                expected = pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)
            assert other[name][key] == expected, (name, key)


@some
@given(columns(), st.randoms(use_true_random=False), st.integers(10, 10**6))
def test_the_order_of_rows_and_the_names_of_seeds_do_not_matter(
    values: dict[str, list[float]], random: Any, step: int
) -> None:
    found = rows_of(table(**values))
    shuffled = table(**values).sample(frac=1, random_state=random.randrange(2**32))
    same(found, rows_of(shuffled))
    renamed = [random.randrange(10) + step * place for place in range(len(values["base"]))]
    random.shuffle(renamed)
    relabelled = {name: dict(zip(renamed, own, strict=True)) for name, own in values.items()}
    same(found, rows_of(table(**relabelled)), without=DRAWN)


@some
@given(columns(), st.integers(-800, 800))
def test_a_shift_of_all_values_does_not_matter(values: dict[str, list[float]], shift: int) -> None:
    moved = {name: [x + shift / 8 for x in own] for name, own in values.items()}
    same(rows_of(table(**values)), rows_of(table(**moved)), without=LEVELS)


@some
@given(columns(), st.sampled_from([2.0**-20, 0.25, 2.0, 2.0**30]), st.sampled_from(list(TESTS)))
def test_the_unit_does_not_matter(values: dict[str, list[float]], unit: float, test: Test) -> None:
    found = rows_of(table(**values), rules=Rules(test, margin=2.0))
    scaled = rows_of(table(**{name: [x * unit for x in own] for name, own in values.items()}),
                     rules=Rules(test, margin=2.0 * unit))  # fmt: skip
    lengths = LEVELS | DRAWN | {"low", "high", "mean_difference", "sd_difference", "t_low", "t_high", "margin",
                                "median_difference",
                                "median_low", "median_high"}  # fmt: skip
    same(found, scaled, without=lengths | {"margin_declared"})
    for name, row in found.items():
        for key in lengths:
            assert scaled[name][key] / unit == pytest.approx(row[key], rel=1e-9, abs=1e-12, nan_ok=True)


MIRRORED = {"low": "high", "t_low": "t_high", "bca_low": "bca_high", "median_low": "median_high", "wins": "losses"}
SIGNED = {"mean_difference", "median_difference", "d_z", "shift", *MIRRORED, *MIRRORED.values()} - {"wins", "losses"}


def mirrored(row: Mapping[str, Any], *, opinions: bool) -> dict[str, Any]:
    """What the same differences with the other sign come to; with or without another opinion of what is good."""
    both = MIRRORED | {other: key for key, other in MIRRORED.items()}
    if not opinions:
        both = {key: other for key, other in both.items() if key not in ("wins", "losses")}
    found = {key: -row[both.get(key, key)] if key in SIGNED else row[both.get(key, key)] for key in row}
    if opinions:
        found |= {"mean": row["baseline_mean"], "baseline_mean": row["mean"]}
        found |= {"median": row["baseline_median"], "baseline_median": row["median"]}
        found["p_better"] = 1 - row["p_better"]
        word, comma, slightly = row["verdict"].partition(",")
        found["verdict"] = {"better": "worse", "worse": "better"}.get(word, word) + comma + slightly
    return found


@some
@given(columns(), st.sampled_from(list(TESTS)))
def test_less_of_a_loss_is_more_of_its_negative(values: dict[str, list[float]], test: Test) -> None:
    rules = Rules(test, margin=2.0)
    found = rows_of(table(**values), rules=rules)
    negative = rows_of(table(**{name: [-x for x in own] for name, own in values.items()}), mode="max", rules=rules)
    expected = {name: mirrored(row, opinions=False) for name, row in found.items()}
    same({name: row | {key: -row[key] for key in LEVELS} for name, row in expected.items()}, negative)


@some
@given(columns(), st.sampled_from(list(TESTS)))
def test_the_other_way_round_it_is_the_other_way_round(values: dict[str, list[float]], test: Test) -> None:
    rules = Rules(test, margin=2.0)
    pair = table(one=values["one"], base=values["base"])
    there, back = rows_of(pair, "base", rules=rules), rows_of(pair, "one", rules=rules)
    expected = mirrored(there["one"], opinions=True) | {"optimizer": "base"}
    same({"base": expected}, back)


@some
@given(columns())
def test_another_optimizer_makes_no_verdict_bolder(values: dict[str, list[float]]) -> None:
    alone = rows_of(table(one=values["one"], base=values["base"]))["one"]
    together = rows_of(table(**values))["one"]
    for test in TESTS:
        assert not together[f"p_{test}_holm"] < alone[f"p_{test}_holm"]
        assert together[f"p_{test}"] == pytest.approx(alone[f"p_{test}"], nan_ok=True)
    if together["verdict"] not in ("equivalent", "inconclusive"):
        assert alone["verdict"] == together["verdict"]

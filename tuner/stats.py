"""Is it better than the baseline? Contrasts of one task's optimizers, paired by seed. No torch, no ray.

All functions are pure functions of tables. Differences are optimizer minus baseline, in the metric's own unit; which
sign is good the ``mode`` says. What cannot be said of so few, or such, numbers is NaN, and the verdict then is
``inconclusive``.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Mode = Literal["min", "max"]
Test = Literal["t", "wilcoxon", "sign_flip"]
Verdict = Literal["better", "worse", "equivalent", "inconclusive"]
Array = NDArray[np.float64]

TESTS: dict[str, str] = {"t": "paired t-test", "wilcoxon": "Wilcoxon signed-rank test", "sign_flip": "sign-flip test"}
FEWEST_PAIRS = 3
"""Below it nothing is tested: a difference of two seeds has one degree of freedom."""
MOST_EXACT = 30
"""Differences whose 2^n signs are all looked at."""
RESAMPLES = 9_999
DIGITS = 13
"""Of the largest value, which rounding leaves alone."""
NAN = float("nan")


@dataclass(frozen=True)
class Rules:
    """What a comparison declares before it is made.

    Attributes:
        test: the primary test, whose Holm-corrected p-value decides.
        alpha: the level of tests, of the family of a task's contrasts; intervals are of 1 - alpha.
        margin: differences within it do not matter, in the metric's unit; without it nothing is called equivalent.
    """

    test: Test = "t"
    alpha: float = 0.05
    margin: float | None = None


def contrasts(values: pd.DataFrame, baseline: str, mode: Mode, rules: Rules) -> pd.DataFrame:
    """Each optimizer of one task against the baseline.

    Args:
        values: columns optimizer, seed, value, and perhaps status; a row per run. A run without a value (NaN) is
            missing; a diverged run has its task's worst value.
        baseline: one of the optimizers.

    Returns:
        A row per other optimizer, in order of appearance: ``contrast``'s numbers, and ``p_*_holm``, corrected by
        Holm (1979) over the rows; ``p``, the primary test's corrected p-value; ``verdict`` and, where there is one,
        its ``reason``.
    """
    runs = values.dropna(subset="value").drop_duplicates(["optimizer", "seed"], keep="last")
    table = runs.pivot(index="seed", columns="optimizer", values="value").sort_index()
    lost = runs[runs["status"] == "diverged"] if "status" in runs else runs[:0]
    diverged = {str(name): set(own["seed"]) for name, own in lost.groupby("optimizer")}
    rows = []
    for name in dict.fromkeys(values["optimizer"]):
        if name == baseline:
            continue
        pair = table.reindex(columns=[name, baseline])
        paired = pair.dropna()
        row = contrast(paired[name].to_numpy(float), paired[baseline].to_numpy(float), mode, rules)
        unpaired = int(pair.notna().any(axis=1).sum()) - len(paired)
        head = {"optimizer": name, "baseline": baseline, "n": len(paired), "n_unpaired": unpaired}
        in_either = diverged.get(name, set()) | diverged.get(baseline, set())
        rows.append(head | {"n_diverged": len(in_either & set(paired.index)), **row})
    found = pd.DataFrame(rows, columns=None if rows else ["optimizer", "baseline", "n", "n_unpaired", "verdict"])
    if found.empty:
        return found
    for test in TESTS:
        found[f"p_{test}_holm"] = holm(found[f"p_{test}"].to_numpy(float))
    found["test"] = rules.test
    found["p"] = found[f"p_{rules.test}_holm"]
    judged = [verdict(row, mode, rules) for row in found.to_dict("records")]
    found["verdict"], found["reason"] = [v for v, _ in judged], [reason for _, reason in judged]
    return found


def contrast(x: Array, y: Array, mode: Mode, rules: Rules) -> dict[str, Any]:
    """What ``x`` and ``y``, (n,), paired, differ by.

    Returns:
        mean, baseline_mean; mean_difference, sd_difference (n - 1); t_low and t_high, bca_low and bca_high, intervals
        of that mean; p_t, p_wilcoxon, p_sign_flip, two-sided; d_z, the mean over the standard deviation of the
        differences (Cohen 1988); p_better, the share of seeds on which x is better, ties by half; wins, ties, losses;
        margin and p_tost, of the two one-sided t-tests against it (Schuirmann 1987); shift, the sign of what the
        primary test has seen.
    """
    scale = _unit(np.concatenate([x, y]))
    d = x / scale - y / scale
    told_apart = rounded(d, np.concatenate([x, y]) / scale)
    if not varies(told_apart):
        d = told_apart
    better = told_apart < 0 if mode == "min" else told_apart > 0
    wins, ties = int(better.sum()), int((told_apart == 0).sum())
    margin = NAN if rules.margin is None else rules.margin
    mean, sd = _mean(d), float(d.std(ddof=1)) if len(d) > 1 else NAN
    t, bca = t_interval(d, 1 - rules.alpha), bca_interval(d, 1 - rules.alpha)
    found: dict[str, Any] = {
        "mean": _mean(x / scale),
        "baseline_mean": _mean(y / scale),
        "mean_difference": mean,
        "sd_difference": sd,
        "t_low": t[0],
        "t_high": t[1],
    }
    found |= {"bca_low": bca[0], "bca_high": bca[1]}
    found = {key: value * scale for key, value in found.items()}
    found |= {"p_t": t_test(d), "p_wilcoxon": wilcoxon(told_apart), "p_sign_flip": sign_flip(d)}
    found |= {
        "d_z": mean / sd if varies(d) else NAN,
        "p_better": (wins + ties / 2) / len(d) if len(d) else NAN,
        "wins": wins,
        "ties": ties,
        "losses": len(d) - wins - ties,
        "margin": margin,
        "p_tost": tost(d, margin / scale),
    }
    shift = signed_ranks(told_apart).sum() if rules.test == "wilcoxon" else d.sum()
    return found | {"shift": float(np.sign(shift))}


def verdict(row: Mapping[Hashable, Any], mode: Mode, rules: Rules) -> tuple[Verdict, str]:
    """One word for a row of ``contrasts``, and why where it is not the tests that say so.

    A difference that is significant decides, however small; then equivalence; a test that has not found a difference
    has not shown that there is none.
    """
    if reason := silence(row):
        return "inconclusive", reason
    if row["p"] <= rules.alpha and row["shift"]:
        return ("better" if (row["shift"] < 0) == (mode == "min") else "worse"), ""
    if not row["p_tost"] <= rules.alpha:
        return "inconclusive", ""
    if row.get("n_diverged"):  # their values say how bad, not how alike
        return "inconclusive", "a run that diverged is not equivalent to anything"
    return "equivalent", ""


def silence(row: Mapping[Hashable, Any]) -> str:
    """Why nothing can be said; empty where something can."""
    if row["n"] < FEWEST_PAIRS:
        if row["n"] == 0 and not row.get("n_unpaired", 1):
            return "neither has a value"
        seeds = {0: "no seed", 1: "one seed"}.get(row["n"], f"{row['n']} seeds")
        return f"{seeds} in common; at least {FEWEST_PAIRS} are needed"
    if row["ties"] == row["n"]:
        return "the same value on every seed"
    if np.isnan(row["d_z"]):
        return "the same difference on every seed, so there is no spread to compare it with"
    return ""


# Tests and intervals of paired differences, (n,).


def _mean(x: Array) -> float:
    return float(x.mean()) if len(x) else NAN


def _unit(x: Array) -> float:
    """A power of ten in which values of a magnitude whose squares are no numbers are written; usually 1."""
    largest = np.abs(x).max(initial=0.0)
    return 1.0 if largest == 0 or 1e-100 < largest < 1e100 else 10.0 ** int(np.log10(largest))


def rounded(d: Array, values: Array) -> Array:
    """The differences without what only rounding of the values has made of them: those that were alike are so again."""
    largest = np.abs(values).max(initial=0.0)
    return np.round(d, DIGITS - int(np.ceil(np.log10(largest)))) if largest > 0 else d


def varies(d: Array) -> bool:
    """Whether there is a spread beyond rounding, among enough differences."""
    return len(d) >= FEWEST_PAIRS and bool(np.ptp(d) > 1e-12 * np.abs(d).max())


def t_test(d: Array) -> float:
    """Two-sided p-value of the paired t-test."""
    from scipy import stats

    return float(stats.ttest_1samp(d, 0.0).pvalue) if varies(d) else NAN


def signed_ranks(d: Array) -> Array:
    """Ranks of the absolute differences but for zeros, with their signs; equal ones share their mean rank."""
    from scipy import stats

    there = d[d != 0]
    return stats.rankdata(np.abs(there)) * np.sign(there)


def wilcoxon(d: Array) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test, without zeros; exact, also with ties, for up to ``MOST_EXACT``
    differences, and without ties for up to 50."""
    from scipy import stats

    if not varies(d):
        return NAN
    signed = signed_ranks(d)
    return _share_as_far(signed) if len(signed) <= MOST_EXACT else float(stats.wilcoxon(signed).pvalue)


def sign_flip(d: Array) -> float:
    """Two-sided p-value of the sign-flip (Fisher-Pitman) test of the mean: the share of the 2^n signs that give a sum
    at least as far from zero; of more than ``MOST_EXACT`` differences, of 9,999 random ones."""
    from scipy import stats

    if not varies(d):
        return NAN
    if len(d) > MOST_EXACT:
        test = stats.permutation_test(
            (d,), lambda x, axis: x.sum(axis), permutation_type="samples", n_resamples=RESAMPLES, rng=0, vectorized=True
        )
        return float(test.pvalue)
    return _share_as_far(d)


def _share_as_far(d: Array) -> float:
    """The share of all 2^n signs with which the sum is at least as far from zero."""
    first, second = _signed_sums(d[: len(d) // 2]), np.sort(_signed_sums(d[len(d) // 2 :]))
    bound = abs(d.sum()) - 1e-9 * np.abs(d).sum()  # sums in another order differ by rounding
    if bound <= 0:
        return 1.0
    beyond = len(second) - np.searchsorted(second, bound - first)
    return float(2 * beyond.sum() / 2.0 ** len(d))


def _signed_sums(d: Array) -> Array:
    sums = np.zeros(1)
    for x in d:
        sums = np.concatenate([sums + x, sums - x])
    return sums


def t_interval(x: Array, confidence: float) -> tuple[float, float]:
    """Of the mean."""
    from scipy import stats

    if not varies(x):
        return NAN, NAN
    low, high = stats.ttest_1samp(x, 0.0).confidence_interval(confidence)
    return float(low), float(high)


def bca_interval(x: Array, confidence: float) -> tuple[float, float]:
    """Of the mean, by the bias-corrected and accelerated bootstrap (Efron 1987), 9,999 resamples of a fixed seed."""
    from scipy import stats

    if not varies(x):
        return NAN, NAN
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of data on which it is degenerate, where it says NaN
        found = stats.bootstrap(
            (x,), np.mean, confidence_level=confidence, n_resamples=RESAMPLES, method="BCa", rng=0, vectorized=True
        ).confidence_interval
    return float(found.low), float(found.high)


def tost(d: Array, margin: float) -> float:
    """The larger p-value of the two one-sided t-tests that the mean difference lies beyond -margin, or beyond it."""
    from statsmodels.stats.weightstats import DescrStatsW

    return float(DescrStatsW(d).ttost_mean(-margin, margin)[0]) if varies(d) and margin > 0 else NAN


def holm(p: Array) -> Array:
    """Holm's (1979) corrected p-values, of those that there are; NaN stays NaN and does not count.

    Not statsmodels' ``multipletests``, which collects garbage for 0.1 s at every call.
    """
    corrected = np.full(len(p), NAN)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]  # NaN last
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return corrected


def power(n: int, alpha: float, d_z: float = 1.0) -> float:
    """The chance that the paired t-test of n seeds finds a difference of ``d_z`` standard deviations."""
    from scipy import stats

    if n < FEWEST_PAIRS:
        return 0.0
    bound = stats.t.ppf(1 - alpha / 2, n - 1)
    shift = d_z * n**0.5
    return float(stats.nct.sf(bound, n - 1, shift) + stats.nct.sf(bound, n - 1, -shift))


def describe(x: Array, confidence: float) -> dict[str, float]:
    """n, mean, sd (n - 1), median, and the t interval (low, high) of the mean, of the values that there are."""
    x = x[~np.isnan(x)]
    scale = _unit(x)
    low, high = t_interval(x / scale, confidence)
    return {
        "n": len(x),
        "mean": float((x / scale).mean() * scale) if len(x) else NAN,
        "sd": float((x / scale).std(ddof=1) * scale) if len(x) > 1 else NAN,
        "median": float(np.median(x)) if len(x) else NAN,
        "low": low * scale,
        "high": high * scale,
    }

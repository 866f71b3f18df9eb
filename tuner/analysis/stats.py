"""Contrasts say whether an optimizer is better than the baseline, paired by study or by seed. No torch, no ray.

All functions are pure functions of tables. Differences are optimizer minus baseline, in the metric's own unit; which
sign is good the ``mode`` says. The value of a run that diverged is infinite: worse than any, and as bad as that of any
other that did. What cannot be said of so few, or such, numbers is NaN, and the verdict then is ``inconclusive``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from tuner.analysis import intervals, paired, units
from tuner.analysis.family import Corrected, correct
from tuner.analysis.paired import NAN, Array, differences, holm
from tuner.analysis.rules import FEWEST_PAIRS, TESTS, Margin, Rules, Test
from tuner.analysis.sequential import Course, Looked

Mode = Literal["min", "max"]
Verdict = Literal[
    "better", "better, by less than matters", "equivalent", "inconclusive", "worse, by less than matters", "worse"
]
BY_RANKS: Test = "wilcoxon"
"""What decides where a run diverged, whatever was declared: nothing but its rank is known of such a run."""
FEWEST_FOR_BCA = 20
"""Pairs. Said to be of 95 %, it covers 83 % of means of 5 normal differences, 90 % of 10, 92 % of 20."""


def contrasts(
    values: pd.DataFrame, baseline: str, mode: Mode, rules: Rules, looked: Looked | None = None
) -> pd.DataFrame:
    """Each optimizer of one task against the baseline.

    Args:
        values: columns optimizer, study, seed, value; a row per run. A run without a value (NaN) is missing; that of a
            diverged run is infinite.
        baseline: one of the optimizers.
        looked: how far this has been looked at, where it goes on until it is decided: tests and intervals are then
            those of ``sequential``, of what has been looked at.

    Returns:
        A row per other optimizer, in order of appearance: ``unit`` and ``about``, see ``units``; ``n`` units and
        ``seeds`` runs that both have a value of, ``n_unpaired`` runs of one alone; ``contrast``'s numbers;
        ``p_*_holm``, corrected by Holm (1979) over the rows, each test on its own; and what ``decided`` adds.
    """
    runs = units.by_run(values)
    rows = []
    for name in dict.fromkeys(values["optimizer"]):
        if name != baseline:
            both, course = runs.reindex(columns=[name, baseline]), None
            pairs = units.pairs(looked.seen(both, name, baseline) if looked else both)
            if looked:
                pairs, course = looked.course(pairs, name, baseline, rules.alpha)
            head = {"optimizer": name, "baseline": baseline, "unit": pairs.unit, "about": pairs.about,
                    "n": len(pairs.x), "seeds": pairs.seeds, "n_unpaired": pairs.unpaired}  # fmt: skip
            rows.append(head | contrast(pairs.x, pairs.y, mode, rules, course))
    table = pd.DataFrame(rows, columns=None if rows else ["optimizer", "baseline", "n", "n_unpaired", "verdict"])
    if table.empty:
        return table
    for test in TESTS:
        table[f"p_{test}_holm"] = holm(table[f"p_{test}"].to_numpy(float))
    return decided(table, mode, rules)


def decided(table: pd.DataFrame, mode: Mode, rules: Rules, corrected: Corrected | None = None) -> pd.DataFrame:
    """The rows with what is said of them: the one place in which verdicts and the intervals beside them are made.

    Args:
        table: ``contrasts``' rows.
        corrected: what their p-values come to as part of a larger family; by default the rows are the family.

    Returns:
        With ``test``, the one that decides; ``family``, how many contrasts share the level; ``p`` and
        ``p_equivalent``, the p-values of a difference and of equivalence, corrected over the family, see ``family``;
        ``level``, at which the difference was decided, and ``low`` and ``high``, the interval at 1 - level, which
        agrees with the decision; ``verdict`` and, where there is one, its
        ``reason``.
    """
    rows = table.to_dict("records")
    tests = [deciding_test(row, rules) for row in rows]
    corrected = corrected or correct(*raw(table, rules), rules.alpha)
    ends = [_interval(row, test, level)
            for row, test, level in zip(rows, tests, corrected.level, strict=True)]  # fmt: skip
    table = table.assign(
        test=tests,
        family=int((~np.isnan(corrected.difference)).sum()),
        p=[
            NAN if np.isnan(row[f"p_{test}"]) else p
            for row, test, p in zip(rows, tests, corrected.difference, strict=True)
        ],
        p_equivalent=corrected.equivalence,
        level=corrected.level,
        low=[low for low, _ in ends],
        high=[high for _, high in ends],
    )
    judged = [verdict(row, mode, rules) for row in table.to_dict("records")]
    return table.assign(verdict=[word for word, _ in judged], reason=[reason for _, reason in judged])


def deciding_test(row: Mapping[Hashable, Any], rules: Rules) -> Test:
    """The declared one or, where a run diverged, that of ranks."""
    return BY_RANKS if row["n_diverged"] > 0 else rules.test


def raw(table: pd.DataFrame, rules: Rules) -> tuple[Array, Array]:
    """The p-values of differences and of equivalences, (m,) each, before correction.

    A contrast that is looked at again counts from the start, with 1 where its difference has no p-value yet: a family
    that grew with the looks could take back what an earlier one has decided.
    """
    rows = table.to_dict("records")
    differences = np.array([row[f"p_{deciding_test(row, rules)}"] for row in rows], float)
    planned = np.array([row["course"] is not None for row in rows], bool)
    return np.where(planned & np.isnan(differences), 1.0, differences), table["p_tost"].to_numpy(float)


def _interval(row: Mapping[Hashable, Any], test: Test, level: float) -> tuple[float, float]:
    """That of a row of ``contrasts`` which agrees with its test at a level."""
    course: Course | None = row["course"]
    if course is None:
        return intervals.interval(row["differences"], test, level)
    return course.interval(1 - level) if test == "t" else (NAN, NAN)


def contrast(x: Array, y: Array, mode: Mode, rules: Rules, course: Course | None = None) -> dict[str, Any]:
    """What ``x`` and ``y``, (n,), paired, differ by.

    Where a run diverged there are no means, and nothing that is made of them: a contrast is one of medians and ranks.

    Returns:
        n_diverged, the pairs of which one or both diverged; diverged and baseline_diverged, the runs;
        mean, baseline_mean; mean_difference, sd_difference (n - 1); t_low and t_high, bca_low and bca_high, intervals
        of that mean; median, baseline_median; median_difference, the median of the differences, infinite ones last;
        median_low and median_high, its interval; p_t, p_wilcoxon, p_sign_flip, two-sided; d_z, the mean over the
        standard deviation of the differences (Cohen 1988); p_better, the share of pairs in which x is better, ties by
        half; wins, ties, losses; margin, in the metric's unit, and margin_declared; p_tost, of the two one-sided
        t-tests against it (Schuirmann 1987); shift, the sign of what the primary test has seen; differences, (n,);
        course, with these, where they have one.
    """
    scale = _unit(np.concatenate([x, y]))
    x, y = x / scale, y / scale
    d = differences(x, y)
    lost = np.isinf(x) | np.isinf(y)
    kept = slice(0 if lost.any() else None)  # what is made of means is of all pairs, or of none
    course = course and replace(course, d=d)
    tests = course or paired.Once(d)
    lengths = _means(x[kept], y[kept], d[kept], tests, 1 - rules.alpha) | _medians(x, y, d, 1 - rules.alpha)
    lengths = {key: value * scale for key, value in lengths.items()}
    margin = absolute(rules.margin, lengths["baseline_median" if lost.any() else "baseline_mean"])
    better = d < 0 if mode == "min" else d > 0
    wins, ties = int(better.sum()), int((d == 0).sum())
    ranked = lost.any() or rules.test == "wilcoxon"
    return {
        "n_diverged": int(lost.sum()),
        "diverged": int(np.isinf(x).sum()),
        "baseline_diverged": int(np.isinf(y).sum()),
        **lengths,
        "p_t": tests.t_test(),
        "p_wilcoxon": tests.wilcoxon(),
        "p_sign_flip": tests.sign_flip(),
        "d_z": lengths["mean_difference"] / lengths["sd_difference"] if paired.varies(d[kept]) else NAN,
        "p_better": (wins + ties / 2) / len(d) if len(d) else NAN,
        "wins": wins,
        "ties": ties,
        "losses": len(d) - wins - ties,
        "margin": margin,
        "margin_declared": "" if rules.margin is None else str(rules.margin),
        "p_tost": tests.tost(margin / scale),
        "shift": float(np.sign((paired.signed_ranks(d) if ranked else d).sum())),
        "differences": d * scale,
        "course": course and replace(course, d=d * scale),
    }


def _means(x: Array, y: Array, d: Array, tests: Course | paired.Once, confidence: float) -> dict[str, float]:
    low, high = tests.interval(confidence)
    bca = paired.bca_interval(d, confidence) if len(d) >= FEWEST_FOR_BCA else (NAN, NAN)
    return {
        "mean": _mean(x),
        "baseline_mean": _mean(y),
        "mean_difference": _mean(d),
        "sd_difference": float(d.std(ddof=1)) if len(d) > 1 else NAN,
        "t_low": low,
        "t_high": high,
        "bca_low": bca[0],
        "bca_high": bca[1],
    }


def _medians(x: Array, y: Array, d: Array, confidence: float) -> dict[str, float]:
    low, high = paired.median_interval(d, confidence)
    return {
        "median": median(x),
        "baseline_median": median(y),
        "median_difference": median(d),
        "median_low": low,
        "median_high": high,
    }


def absolute(margin: Margin | None, reference: float) -> float:
    """In the metric's unit: of a share, that of the size of ``reference``; NaN where there is none."""
    if margin is None:
        return NAN
    if not isinstance(margin, str):
        return float(margin)
    return share(margin) * abs(reference) if np.isfinite(reference) else NAN


def share(percentage: str) -> float:
    """0.01 for ``1%``."""
    return float(percentage.removesuffix("%")) / 100


def verdict(row: Mapping[Hashable, Any], mode: Mode, rules: Rules) -> tuple[Verdict, str]:
    """One word for a row of ``contrasts``, and why where it is not the tests that say so.

    A difference that is significant decides, and says whether it is within the margin; then equivalence; a test that
    has not found a difference has not shown that there is none.
    """
    if reason := reason_untestable(row):
        return "inconclusive", reason
    if row["p"] <= rules.alpha and row["shift"]:
        slight = abs(row["mean_difference"]) <= row["margin"]
        if (row["shift"] < 0) == (mode == "min"):
            return ("better, by less than matters" if slight else "better"), ""
        return ("worse, by less than matters" if slight else "worse"), ""
    return ("equivalent" if row["p_equivalent"] <= rules.alpha else "inconclusive"), ""


def reason_untestable(row: Mapping[Hashable, Any]) -> str:
    """Why nothing can be said; empty where something can."""
    unit: units.Unit = row["unit"]
    if (course := row.get("course")) is not None and not course.begun:
        plural = units.PLURALS[course.unit]
        return f"it has {course.done} of the {course.looks.units[0]} {plural} of the first look"
    if row["n"] < FEWEST_PAIRS:
        if row["n"] == 0 and not row["n_unpaired"]:
            return "neither has a value"
        few = {0: f"no {unit}", 1: f"one {unit}"}.get(row["n"], f"{row['n']} {units.PLURALS[unit]}")
        return f"{few} in common; at least {FEWEST_PAIRS} are needed"
    everywhere = "on every seed" if unit == "seed" else "in every study"
    if row["ties"] == row["n"]:
        return f"both diverged {everywhere}" if row["n_diverged"] == row["n"] else f"the same value {everywhere}"
    if np.isnan(row["p"]):
        return f"the same difference {everywhere}, so there is no spread to compare it with"
    return ""


def ratio(x: Array, y: Array, confidence: float) -> dict[str, float]:
    """The geometric mean of x / y, (n,), paired and positive, and its interval: Student's, of the logarithms."""
    logs = np.log(x / y)
    ends = paired.t_interval(logs, confidence)
    return {key: float(np.exp(value)) for key, value in zip(("mean", "low", "high"), (_mean(logs), *ends), strict=True)}


def _mean(x: Array) -> float:
    return float(x.mean()) if len(x) else NAN


def median(x: Array) -> float:
    """With infinite values at the ends; NaN of none, and half way between the two infinities."""
    if not len(x):
        return NAN
    ordered = np.sort(x).tolist()
    below, above = ordered[(len(x) - 1) // 2], ordered[len(x) // 2]
    return float(below if below == above else below / 2 + above / 2)


def _unit(x: Array) -> float:
    """A power of ten in which values of a magnitude whose squares are no numbers are written; usually 1."""
    largest = np.abs(x[np.isfinite(x)]).max(initial=0.0)
    return 1.0 if largest == 0 or 1e-100 < largest < 1e100 else 10.0 ** int(np.log10(largest))


def describe(x: Array, confidence: float) -> dict[str, float]:
    """n, mean, sd (n - 1), and the t interval (low, high) of the mean, of the values that there are; none of these
    where one is infinite; median, with infinite values last, and its interval (median_low, median_high)."""
    x = x[~np.isnan(x)]
    scale = _unit(x)
    whole = x / scale if np.isfinite(x).all() else x[:0]
    low, high = paired.t_interval(whole, confidence)
    median_low, median_high = paired.median_interval(x, confidence)
    return {
        "n": len(x),
        "mean": _mean(whole) * scale,
        "sd": float(whole.std(ddof=1) * scale) if len(whole) > 1 else NAN,
        "low": low * scale,
        "high": high * scale,
        "median": median(x),
        "median_low": median_low,
        "median_high": median_high,
    }

"""AlgoPerf's published scores, of its published times to target: seconds, medians over studies. Version 0.5 has 8
workloads and a variant of 6 of them; further variants, which the baseline alone was run on, are left out."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from tuner.analysis.across_tasks import algoperf_score
from tuner.analysis.algoperf import competition_score, held_to_variants, mean_time_ratios

INF, NAN = math.inf, math.nan
WORKLOADS = ["criteo1tb", "fastmri", "imagenet_resnet", "imagenet_vit", "librispeech_conformer",
             "librispeech_deepspeech", "ogbg", "wmt"]  # fmt: skip
PUBLISHED = {
    "v05_external_tuning": {
        "shampoo_submission": 0.7784, "schedule_free_adamw": 0.7077, "generalized_adam": 0.6383, "cyclic_lr": 0.6301,
        "nadamp": 0.5909, "baseline": 0.5707, "amos": 0.4918, "caspr_adaptive": 0.4722, "lawa_queue": 0.3699,
        "lawa_ema": 0.3384, "schedule_free_prodigy": 0.0,
    },
    "v05_self_tuning": {
        "schedule_free_adamw": 0.8542, "baseline": 0.8194, "nadamw_sequential": 0.3308, "sinv6_75": 0.1420,
        "sinv6": 0.0903, "adamg": 0.0,
    },
    "v06_external_tuning": {"shampoo": 0.6244, "baseline": 0.4590},
}  # fmt: skip


def times(name: str) -> pd.DataFrame:
    return pd.read_csv(Path(__file__).parent / "published" / f"algoperf_{name}.csv", index_col="submission").T


def variants(table: pd.DataFrame) -> dict[str, str]:
    return {row: next(task for task in WORKLOADS if row.startswith(f"{task}_"))
            for row in table.index if row not in WORKLOADS}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_scores_are_those_that_were_published(name: str) -> None:
    table = times(name)
    assert len(variants(table)) == (6 if "v05" in name else 0)
    assert competition_score(table, variants(table)).round(4).to_dict() == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_exact_integral_gives_the_same_order_and_nearly_the_same_scores(name: str) -> None:
    """Trapezoids of 99 stretches miss a step by half a stretch at most, 1 / 198 of a task's part; 0.0016 in fact."""
    table = times(name)
    theirs = competition_score(table, variants(table))
    exact = algoperf_score(held_to_variants(table, variants(table)))
    assert (theirs - exact).abs().max() <= 0.0016
    assert list(exact.sort_values().index) == list(theirs.sort_values().index)


def test_the_time_ratios_are_those_that_were_published() -> None:
    """Shampoo took 28 % less time than the baseline; among those that tune themselves the schedule-free AdamW 8 %."""
    tuned = mean_time_ratios(times("v05_external_tuning").loc[WORKLOADS], "baseline")
    by_themselves = mean_time_ratios(times("v05_self_tuning").loc[WORKLOADS], "baseline")
    assert round(tuned["shampoo_submission"], 4) == 0.7213
    assert round(100 * (1 - by_themselves["schedule_free_adamw"])) == 8
    assert tuned["baseline"] == by_themselves["baseline"] == 1


# The rules, one by one. t has the variant v.

OF_T = {"v": "t"}


def table(t: list[float], v: list[float]) -> pd.DataFrame:
    return pd.DataFrame([t, v], index=["t", "v"], columns=list("abc")[: len(t)])


@pytest.mark.parametrize(
    ("t", "v", "counted"),
    [
        ([1, 2, 3], [1, 1, 1], [1, 2, 3]),
        ([1, 4, 4.1], [1, 1, 1], [1, 4, INF]),  # beyond 4 times the fastest
        ([1, 2, 3], [1, 4.1, INF], [1, INF, INF]),  # the variant is not solved, or too late
        ([1, 2, 3], [1, NAN, 2], [1, INF, 3]),  # or was not run
        ([1, 5, 6], [9, 1, INF], [INF, INF, INF]),  # b's variant is the fastest, though its task is too late
        ([INF, 5, 6], [0.1, 1, 2], [INF, 5, 6]),  # a's does not: its task is not solved
        ([INF, NAN, INF], [1, 1, 1], [INF, INF, INF]),
    ],
)
def test_a_task_counts_where_it_and_its_variants_are_solved_in_time(
    t: list[float], v: list[float], counted: list[float]
) -> None:
    given = table(t, v)
    found = held_to_variants(given, OF_T)
    assert list(found.index) == ["t"]
    assert found.loc["t"].tolist() == counted
    pd.testing.assert_frame_equal(given, table(t, v))


def test_a_step_counts_from_the_first_point_that_it_does_not_lie_beyond() -> None:
    """Points are 1/33 apart: a ratio of 2 is the 34th; before it lies half a stretch of the trapezoid."""
    found = competition_score(table([1, 2, INF], [1, 1, INF]), OF_T)
    assert found.tolist() == pytest.approx([1, (2 + 0.5 / 33) / 3, 0])
    assert competition_score(table([1], [1]).iloc[:0], {}).isna().all()


def test_a_variant_without_times_is_refused() -> None:
    with pytest.raises(ValueError, match="no times of u, w"):
        held_to_variants(table([1, 2], [1, 2]), {"u": "t", "v": "w"})


def test_a_time_ratio_is_not_known_where_one_alone_got_there() -> None:
    found = mean_time_ratios(pd.DataFrame({"base": [4, INF, 9], "a": [1, INF, 9], "b": [1, 1, 1], "c": [1, INF, NAN]}),
                             "base")  # fmt: skip
    assert found["a"] == pytest.approx((1 / 4) ** (1 / 3))
    assert found[["b", "c"]].isna().all()

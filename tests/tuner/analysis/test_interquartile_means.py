"""Scores of runs over tasks, and their interquartile means."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tuner.analysis.across_tasks import interquartile_means, normalised

NAN = math.nan


# Scores.


def runs(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["task", "optimizer", "seed", "status", "value"])


def test_scores_go_from_the_worst_run_that_did_not_diverge_to_the_best() -> None:
    values = runs([
        ("t", "a", 0, "complete", 1.0), ("t", "b", 0, "complete", 3.0), ("t", "b", 1, "complete", 2.5),
        ("t", "a", 1, "diverged", 100.0), ("u", "a", 0, "complete", -0.9), ("u", "b", 0, "complete", -0.5),
        ("u", "b", 1, "failed", NAN),
    ])  # fmt: skip
    scored = normalised(values)
    assert scored["score"].tolist() == pytest.approx([1, 0, 0.25, 0, 1, 0, NAN], nan_ok=True)
    pd.testing.assert_frame_equal(scored.drop(columns="score"), values)
    assert "score" not in values


def test_scores_of_equal_and_of_diverged_runs() -> None:
    same = [("t", "a", 0, "complete", 2.0), ("t", "b", 0, "complete", 2.0), ("t", "b", 1, "diverged", 9.0)]
    lost = [("u", "a", 0, "diverged", 9.0), ("u", "b", 0, "diverged", 9.0)]
    assert normalised(runs(same + lost))["score"].tolist() == [0.5, 0.5, 0, 0, 0]
    assert normalised(runs([])).columns[-1] == "score"


# Interquartile means.


def scored(scores: dict[str, dict[str, list[float]]]) -> pd.DataFrame:
    """Task -> optimizer -> scores by seed; NaN: no run."""
    rows = [(task, name, seed, score) for task, own in scores.items() for name, of in own.items()
            for seed, score in enumerate(of) if not math.isnan(score)]  # fmt: skip
    return pd.DataFrame(rows, columns=["task", "optimizer", "seed", "score"]).assign(study=0)


def middle(scores: list[float]) -> float:
    cut = len(scores) // 4
    kept = sorted(scores)[cut : len(scores) - cut]
    return sum(kept) / len(kept)


def test_an_interquartile_mean_leaves_out_a_quarter_at_either_end() -> None:
    # Of 0, .1, .2, .3, .5, .6, .9, 1 the middle four: 1.6 / 4; of five, all but the ends.
    a, b = [1, 0.1, 0.9, 0.2, 0.6, 0.3, 0, 0.5], [0.0] * 8
    found = interquartile_means(scored({"t": {"a": a, "b": b}}), "b").set_index("optimizer")
    assert found.loc["a", ["iqm", "difference"]].tolist() == pytest.approx([0.4, 0.4])
    assert found.loc["b"].tolist() == [0] * 6
    found = interquartile_means(scored({"t": {"a": [0, 1, 0.4, 0.5, 0.6]}}), "a")
    assert found["iqm"].tolist() == pytest.approx([0.5])


def test_intervals_are_those_of_all_resamples_within_tasks() -> None:
    # Three seeds of each of two tasks, whose scores are far apart: 27 x 27 resamples, all of them looked at.
    a, b = {"t": [0.05, 0.1, 0.25], "u": [0.7, 0.95, 1.0]}, {"t": [0.0, 0.3, 0.05], "u": [0.6, 0.7, 0.97]}
    every = list(product(product(range(3), repeat=3), repeat=2))
    of_a = np.array([middle([a["t"][i] for i in t] + [a["u"][i] for i in u]) for t, u in every])
    of_b = np.array([middle([b["t"][i] for i in t] + [b["u"][i] for i in u]) for t, u in every])
    values = scored({task: {"a": a[task], "b": b[task]} for task in ("t", "u")})
    found = interquartile_means(values, "b", resamples=20_000).set_index("optimizer").loc["a"]
    for exact, low, high in ((of_a, "low", "high"), (of_a - of_b, "difference_low", "difference_high")):
        assert np.quantile(exact, 0.018) <= found[low] <= np.quantile(exact, 0.032)
        assert np.quantile(exact, 0.968) <= found[high] <= np.quantile(exact, 0.982)
    assert found["difference"] == pytest.approx(middle(a["t"] + a["u"]) - middle(b["t"] + b["u"]))


def in_studies(scores: dict[str, list[list[float]]]) -> pd.DataFrame:
    """Optimizer -> study by study -> scores by seed, of one task."""
    rows = [("t", name, study, 10 * study + seed, score) for name, studies in scores.items()
            for study, of in enumerate(studies) for seed, score in enumerate(of)]  # fmt: skip
    return pd.DataFrame(rows, columns=["task", "optimizer", "study", "seed", "score"])


def test_intervals_over_studies_are_those_of_all_resamples_of_whole_studies() -> None:
    a = [[0.05, 0.1], [0.5, 0.45], [0.9, 1.0]]
    every = [middle([score for study in drawn for score in a[study]]) for drawn in product(range(3), repeat=3)]
    found = interquartile_means(in_studies({"a": a}), "a", resamples=20_000).set_index("optimizer").loc["a"]
    # The lowest of 27 resamples, and the highest, have a probability of 3.7 %, more than a tail's.
    assert found[["low", "high"]].tolist() == pytest.approx([min(every), max(every)])
    of_seeds = interquartile_means(in_studies({"a": a}).assign(study=0), "a").set_index("optimizer").loc["a"]
    assert found["high"] - found["low"] > of_seeds["high"] - of_seeds["low"]  # seeds know nothing of the search


def test_studies_of_unequal_size_are_drawn_and_two_have_no_interval() -> None:
    uneven = in_studies({"a": [[0.1, 0.2], [0.3], [0.5, 0.6, 0.7]], "b": [[0.1, 0.2], [0.3], [0.5, 0.6, 0.7]]})
    found = interquartile_means(uneven, "b").set_index("optimizer").loc["a"]
    assert found["low"] < found["iqm"] < found["high"] and found["difference_high"] == 0
    two = interquartile_means(in_studies({"a": [[0.1, 0.2], [0.3, 0.4]]}), "a")
    assert two["iqm"].tolist() == pytest.approx([0.25]) and two[["low", "high"]].isna().all(axis=None)


def test_optimizers_share_their_draws() -> None:
    # A constant difference has no spread where the same seeds are drawn for both.
    rng = np.random.default_rng(1)
    base = {task: rng.random(10) / 2 for task in "tu"}
    values = scored({task: {"a": (own + 0.25).tolist(), "b": own.tolist()} for task, own in base.items()})
    found = interquartile_means(values, "b").set_index("optimizer").loc["a"]
    assert found["difference":].tolist() == pytest.approx([0.25] * 3)
    assert found["high"] - found["low"] > 0.1


def test_only_seeds_of_every_optimizer_count_and_the_rest_is_said() -> None:
    values = scored({
        "t": {"a": [0.1, 0.2, NAN, 0.4], "b": [0.3, 0.4, 0.9, NAN]},
        "u": {"a": [1.0, 1.0]},
    })  # fmt: skip
    found = interquartile_means(values, "b")
    assert found["iqm"].tolist() == pytest.approx([0.15, 0.35])
    assert found.attrs == {"seeds": {"t": 2}, "left_out": {"a": 3, "b": 1}}


def test_means_are_the_same_in_any_order_of_rows() -> None:
    rng = np.random.default_rng(2)
    values = scored({task: {name: rng.random(6).tolist() for name in "ab"} for task in "tu"})
    shuffled = values.sample(frac=1, random_state=0).sort_values("optimizer", kind="stable")
    pd.testing.assert_frame_equal(interquartile_means(values, "a"), interquartile_means(shuffled, "a"))


@pytest.mark.parametrize("other", [{}, {"u": {"a": [0.1, 0.2, 0.3], "b": [0.1, 0.2, 0.3]}}])
def test_where_one_seed_stands_for_a_task_there_are_no_intervals(other: dict[str, Any]) -> None:
    found = interquartile_means(scored({"t": {"a": [0.5], "b": [0.5]}, **other}), "a")
    assert found["iqm"].notna().all()
    assert found["difference"].tolist() == [0, 0]
    assert found[["low", "high", "difference_low", "difference_high"]].isna().all(axis=None)


def test_without_a_seed_in_common_all_is_unknown() -> None:
    found = interquartile_means(scored({"t": {"a": [0.5, NAN], "b": [NAN, 0.5]}}), "a")
    assert found["optimizer"].tolist() == ["a", "b"]
    assert found.drop(columns="optimizer").isna().all(axis=None)
    assert found.attrs == {"seeds": {}, "left_out": {"a": 1, "b": 1}}


def test_the_baseline_is_one_of_them_and_a_seed_has_one_run() -> None:
    values = scored({"t": {"a": [0.5, 0.6]}})
    with pytest.raises(ValueError, match="the baseline 'adam' is none of"):
        interquartile_means(values, "adam")
    with pytest.raises(ValueError, match="duplicate"):
        interquartile_means(pd.concat([values, values]), "a")


def test_runs_that_all_diverged_have_zero_without_spread() -> None:
    lost = [("t", name, seed, "diverged", 9.0) for name in "ab" for seed in range(3)]
    found = interquartile_means(normalised(runs(lost).assign(study=0)), "a")
    assert (found.drop(columns="optimizer") == 0).all(axis=None)

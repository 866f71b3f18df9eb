from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support.run_configs import run_config
from tuner.analysis.curves import at_cost_of, bands, filled, time_to_target, trial_times
from tuner.store.columns import CURVE_TYPES
from tuner.store.run import Run

INF, NAN = math.inf, math.nan
EPOCH = 100
COLUMNS = ["optimizer", "seed", "step", "epoch", "seconds", "grad_equivalents", "value"]


def curve(
    optimizer: str, seed: int, values: dict[int, float], pace: float = 0.01, cost: float = 1.0, **changes: Any
) -> list[dict[str, Any]]:
    """Rows of curves.parquet, from values by step."""
    row = {"task": "t", "optimizer": optimizer, "study": 0, "phase": "retrain", "trial": 4, "seed": seed,
           "split": "val", "metric": "loss"}  # fmt: skip
    return [
        row
        | {"step": step, "epoch": step / EPOCH, "seconds": step * pace, "grad_equivalents": step * cost, "value": value}
        | changes
        for step, value in values.items()
    ]


def curves(*rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([row for part in rows for row in part], columns=list(CURVE_TYPES)).astype(CURVE_TYPES)


def run(optimizer: str, seed: int, status: str = "complete", **values: Any) -> dict[str, Any]:
    """A row of seeds.csv."""
    clocks = {"steps": 300, "seconds": 3.0, "grad_equivalents": 300.0}
    row = {"task": "t", "optimizer": optimizer, "study": 0, "seed": seed, "status": status, "val_loss": 1.0}
    return {**row, **clocks, **values}


def lost(optimizer: str, seed: int, steps: int, pace: float = 0.01, cost: float = 1.0) -> dict[str, Any]:
    clocks = {"steps": steps, "seconds": steps * pace, "grad_equivalents": steps * cost}
    return run(optimizer, seed, "diverged", val_loss=9.0, **clocks)


def of(found: pd.DataFrame, optimizer: str, seed: int, *columns: str) -> list[list[float]]:
    own = found[(found["optimizer"] == optimizer) & (found["seed"] == seed)]
    return own[list(columns)].to_numpy().tolist()


WHOLE = {0: 4.0, 100: 3.0, 200: 2.0, 300: 1.0}


# Filled.


def test_only_the_metric_along_the_retraining_of_valid_runs_is_taken() -> None:
    table = curves(
        curve("b", 1, WHOLE),
        curve("b", 0, WHOLE),
        curve("a", 0, {0: 4.5, 300: 0.5}),
        curve("a", 1, WHOLE),  # failed
        curve("a", 2, WHOLE),  # not yet in seeds.csv
        curve("a", 0, WHOLE, split="train"),
        curve("a", 0, WHOLE, metric="acc"),
        curve("a", 0, WHOLE, phase="search"),
        curve("b", 0, {300: 0.1}, split="test"),
    )
    found = filled(table, pd.DataFrame([run("b", 0), run("b", 1), run("a", 0), run("a", 1, "failed")]), "val_loss")
    assert found.columns.tolist() == COLUMNS
    assert [str(kind) for kind in found.dtypes[1:]] == ["int64", "int64"] + ["float64"] * 4
    assert found[["optimizer", "seed", "step", "value"]].to_numpy().tolist() == [
        *(["b", 0, step, value] for step, value in WHOLE.items()),
        *(["b", 1, step, value] for step, value in WHOLE.items()),
        ["a", 0, 0, 4.5], ["a", 0, 300, 0.5],
    ]  # fmt: skip
    tested = filled(table, pd.DataFrame([run("b", 0, test_loss=0.1)]), "test_loss")
    assert tested.to_numpy().tolist() == [["b", 0, 300, 3.0, 3.0, 300.0, 0.1]]


@pytest.mark.parametrize("column", ["seed", "step"])
def test_rows_without_seed_or_step_are_left_out(column: str) -> None:
    whole, stray = curve("a", 0, WHOLE), [row | {column: None} for row in curve("a", 0, {100: 77.0})]
    expected = filled(curves(whole), pd.DataFrame([run("a", 0)]), "val_loss")
    found = filled(curves(stray, whole, stray), pd.DataFrame([run("a", 0)]), "val_loss")
    assert found["value"].tolist() == list(WHOLE.values())
    pd.testing.assert_frame_equal(found, expected)


def test_a_metric_may_have_underscores_in_its_name() -> None:
    table = curves(curve("a", 0, {0: 0.5}, split="train", metric="clipped_fraction"))
    assert filled(table, pd.DataFrame([run("a", 0)]), "train_clipped_fraction")["value"].tolist() == [0.5]


def test_a_diverged_run_goes_on_with_its_worst_value_at_its_own_pace() -> None:
    # It ended at step 150, at 0.02 s and 3 gradient-equivalents a step; its last evaluation is at step 100.
    table = curves(curve("a", 0, WHOLE), curve("a", 1, {0: 4.0, 100: 8.0}, pace=0.02, cost=3.0))
    found = filled(table, pd.DataFrame([run("a", 0), lost("a", 1, 150, 0.02, 3.0)]), "val_loss")
    clocks = ["step", "epoch", "seconds", "grad_equivalents", "value"]
    assert of(found, "a", 0, "step", "value") == [[step, value] for step, value in WHOLE.items()]
    assert np.array(of(found, "a", 1, *clocks)) == pytest.approx(
        np.array([[0, 0, 0, 0, 4], [100, 1, 2, 300, 8], [200, 2, 4, 600, 9], [300, 3, 6, 900, 9]])
    )


def test_one_that_diverged_before_its_second_evaluation_has_the_pace_of_its_end() -> None:
    table = curves(curve("a", 0, WHOLE), curve("a", 1, {0: 4.0}))
    found = filled(table, pd.DataFrame([run("a", 0), lost("a", 1, 20, 0.5, 2.0)]), "val_loss")
    assert of(found, "a", 1, "seconds", "grad_equivalents") == [[0, 0], [50, 200], [100, 400], [150, 600]]


def test_one_whose_clocks_never_began_has_the_pace_of_its_optimizer() -> None:
    table = curves(curve("a", 0, WHOLE), curve("b", 0, WHOLE))
    others = [run("a", seed, seconds=seconds) for seed, seconds in ((0, 6.0), (2, 3.0), (3, 900.0))]
    seeds = [*others, run("b", 0, seconds=60.0), lost("a", 1, 0)]
    found = filled(table, pd.DataFrame(seeds), "val_loss")
    assert of(found, "a", 1, "step", "seconds", "value") == [[0, 0, 9], [100, 2, 9], [200, 4, 9], [300, 6, 9]]


def test_where_all_runs_of_an_optimizer_diverged_they_go_on_as_others_do() -> None:
    table = curves(curve("a", 0, WHOLE), curve("b", 0, {0: 4.0, 100: 5.0}), curve("b", 1, {0: 4.0}))
    found = filled(table, pd.DataFrame([run("a", 0), lost("b", 0, 120), lost("b", 1, 40)]), "val_loss")
    assert of(found, "b", 0, "step", "value") == [[0, 4], [100, 5], [200, 9], [300, 9]]
    assert of(found, "b", 1, "step", "value") == [[0, 4], [100, 9], [200, 9], [300, 9]]


def test_where_nothing_else_was_run_a_diverged_curve_goes_as_far_as_the_longest() -> None:
    table = curves(curve("a", 0, {0: 4.0, 100: 5.0}), curve("a", 1, {0: 4.0}))
    found = filled(table, pd.DataFrame([lost("a", 0, 120), lost("a", 1, 40)]), "val_loss")
    assert found[["seed", "step", "value"]].to_numpy().tolist() == [[0, 0, 4], [0, 100, 5], [1, 0, 4], [1, 100, 9]]


def test_steps_of_another_optimizer_do_not_lengthen_a_curve() -> None:
    table = curves(curve("a", 0, WHOLE | {900: 0.5}), curve("b", 0, WHOLE), curve("b", 1, {0: 4.0}))
    found = filled(table, pd.DataFrame([run("a", 0), run("b", 0), lost("b", 1, 20)]), "val_loss")
    assert [step for (step,) in of(found, "b", 1, "step")] == [0, 100, 200, 300]


def test_the_final_test_of_a_diverged_run_is_its_worst_value() -> None:
    table = curves(curve("a", 0, {300: 0.9}, split="test", metric="acc"), curve("a", 1, WHOLE))
    seeds = [run("a", 0, test_acc=0.9), lost("a", 1, 20, 0.5) | {"test_acc": 0.1}]
    assert filled(table, pd.DataFrame(seeds), "test_acc").to_numpy().tolist() == [
        ["a", 0, 300, 3, 3, 300, 0.9], ["a", 1, 300, 3, 150, 300, 0.1],
    ]  # fmt: skip


@pytest.mark.parametrize("worst", [NAN])
def test_without_a_value_a_curve_ends(worst: float) -> None:
    table = curves(curve("a", 0, WHOLE), curve("a", 1, {0: 4.0, 100: NAN}))
    seeds = pd.DataFrame([run("a", 0), lost("a", 1, 120) | {"val_loss": worst}])
    assert of(filled(table, seeds, "val_loss"), "a", 1, "step") == [[0], [100]]
    assert of(filled(table, seeds.drop(columns="val_loss"), "val_loss"), "a", 1, "step") == [[0], [100]]


def test_values_that_are_not_finite_are_unknown_and_of_a_diverged_run_its_worst() -> None:
    table = curves(curve("a", 0, {0: INF, 100: 1.0}), curve("a", 1, {0: NAN, 100: 8.0}))
    found = filled(table, pd.DataFrame([run("a", 0), lost("a", 1, 120)]), "val_loss")
    assert found["value"].tolist() == pytest.approx([NAN, 1.0, 9.0, 8.0], nan_ok=True)


def test_of_a_run_that_was_repeated_the_last_curve_counts() -> None:
    table = curves(curve("a", 0, {0: 7.0, 100: 7.0}, trial=1), curve("a", 0, {0: 4.0, 100: 3.0}))
    assert filled(table, pd.DataFrame([run("a", 0)]), "val_loss")["value"].tolist() == [4, 3]


def test_tables_of_a_new_run_are_empty(tmp_path: Path) -> None:
    new = Run.create(tmp_path / "run", run_config({"one": {"class": "pkg.Opt", "space": {}}}))
    found = filled(new.curves(), new.seeds(), "val_loss")
    assert found.columns.tolist() == COLUMNS
    assert found.empty
    banded, timed = bands(found, "seconds"), time_to_target(found, 1.0, "min", "step")
    assert banded.columns.tolist() == ["optimizer", "step", "x", "median", "low", "high", "n"]
    assert timed.columns.tolist() == ["optimizer", "seed", "time"]
    assert banded.empty and timed.empty


def test_tables_are_taken_as_the_store_reads_them(tmp_path: Path) -> None:
    kept = Run.create(tmp_path / "run", run_config({"one": {"class": "pkg.Opt", "space": {}}}))
    parts = [curve("a", 0, WHOLE), curve("a", 1, {0: 4.0})]
    seeds = [run("a", 0), lost("a", 1, 20)]
    kept.append_curves(row for part in parts for row in part)
    kept.write_seeds(seeds, [])
    expected = filled(curves(*parts), pd.DataFrame(seeds), "val_loss")
    pd.testing.assert_frame_equal(filled(kept.curves(), kept.seeds(), "val_loss"), expected)
    kept.finish_curves()
    pd.testing.assert_frame_equal(filled(kept.curves(), kept.seeds(), "val_loss"), expected)


# Bands.


def test_bands_are_medians_and_quartiles_over_seeds() -> None:
    # The quartiles of n sorted values lie at (n - 1) / 4 and 3 (n - 1) / 4: of 1, 2, 4, 8 at 1.75 and 5.
    values = [8.0, 1.0, 4.0, 2.0]
    table = curves(*(curve("b", seed, {0: 3.0, 100: v}, pace=0.01 * v) for seed, v in enumerate(values)))
    found = bands(filled(table, pd.DataFrame([run("b", seed) for seed in range(4)]), "val_loss"), "seconds")
    assert found.columns.tolist() == ["optimizer", "step", "x", "median", "low", "high", "n"]
    assert found["optimizer"].tolist() == ["b", "b"]
    assert found.drop(columns="optimizer").to_numpy().tolist() == [[0, 0, 3, 3, 3, 4], [100, 3, 3, 1.75, 5, 4]]


@pytest.mark.parametrize(("clock", "x"), [("step", 100), ("grad_equivalents", 500), ("seconds", 2)])
def test_bands_are_by_any_clock(clock: Any, x: float) -> None:
    table = curves(curve("a", 0, {100: 1.0}, pace=0.02, cost=5.0))
    found = bands(filled(table, pd.DataFrame([run("a", 0)]), "val_loss"), clock)
    assert found.to_numpy().tolist() == [["a", 100, x, 1, 1, 1, 1]]


def test_bands_of_random_curves_equal_those_of_the_standard_library() -> None:
    rng = np.random.default_rng(0)
    for seeds in (2, 3, 7, 20):
        drawn = {
            (name, seed): dict(zip((0, 50), rng.lognormal(size=2), strict=True))
            for name in "ba"
            for seed in range(seeds)
        }
        table = curves(*(curve(*key, values) for key, values in drawn.items()))
        found = bands(filled(table, pd.DataFrame([run(*key) for key in drawn]), "val_loss"), "step")
        assert found["optimizer"].tolist() == ["b", "b", "a", "a"]
        for row in found.to_dict("records"):
            own = [values[row["step"]] for (name, _), values in drawn.items() if name == row["optimizer"]]
            expected = statistics.quantiles(own, n=4, method="inclusive")
            assert [row["low"], row["median"], row["high"]] == pytest.approx(expected)
            assert row["n"] == seeds


def test_bands_leave_out_values_that_are_unknown_and_steps_that_have_none() -> None:
    table = curves(curve("a", 0, {0: INF, 100: 1.0}), curve("a", 1, {0: NAN, 100: NAN}))
    found = bands(filled(table, pd.DataFrame([run("a", 0), run("a", 1)]), "val_loss"), "step")
    assert found.to_numpy().tolist() == [["a", 100, 100, 1, 1, 1, 1]]


def test_diverged_runs_are_in_the_bands_to_the_end() -> None:
    table = curves(*(curve("a", seed, WHOLE if seed < 2 else {0: 4.0}) for seed in range(5)))
    seeds = [run("a", seed) if seed < 2 else lost("a", seed, 20) for seed in range(5)]
    found = bands(filled(table, pd.DataFrame(seeds), "val_loss"), "step")
    assert found["n"].tolist() == [5, 5, 5, 5]
    assert found["median"].tolist() == [4, 9, 9, 9]
    assert found["low"].tolist() == [4, 3, 2, 1]


@pytest.mark.parametrize("worst", [INF, -INF])
def test_quartiles_that_a_diverged_run_takes_part_in_are_infinite(worst: float) -> None:
    """Of n sorted values they lie at (n - 1) / 4 and 3 (n - 1) / 4; one that lies on a finite value is that."""
    for complete, diverged, quartiles in (
        (4, 1, (2.0, 3.0, 4.0)),  # 1 2 3 4 inf: places 1, 2, 3
        (3, 1, (1.75, 2.5, INF)),  # 1 2 3 inf: places 0.75, 1.5, 2.25
        (2, 2, (1.75, INF, INF)),
        (1, 2, (INF, INF, INF)),
    ):
        sign = math.copysign(1, worst)
        table = curves(*(curve("a", seed, {0: 0.0, 100: sign * (seed + 1.0)}) for seed in range(complete)),
                       *(curve("a", 9 + seed, {0: 0.0}) for seed in range(diverged)))  # fmt: skip
        seeds = [run("a", seed) for seed in range(complete)]
        seeds += [lost("a", 9 + seed, 20) | {"val_loss": worst} for seed in range(diverged)]
        row = bands(filled(table, pd.DataFrame(seeds), "val_loss"), "step").iloc[-1]
        found = [sign * row[name] for name in ("low", "median", "high")]
        assert found[:: int(sign)] == pytest.approx(quartiles)
        assert row["n"] == complete + diverged


# Time to target.


@pytest.mark.parametrize(
    ("target", "mode", "times"),
    [
        (2.0, "min", [200, INF, 100]),  # at least as good: the target itself counts
        (0.5, "min", [INF, INF, INF]),
        (5.0, "min", [0, 0, 0]),
        (3.5, "max", [0, 0, 0]),
        (9.0, "max", [INF, 100, INF]),
        (7.0, "max", [INF, 100, INF]),
    ],
)
def test_time_to_target_is_that_of_the_first_evaluation_as_good(target: float, mode: Any, times: list[float]) -> None:
    back = {0: 4.0, 100: 1.5, 200: 3.0, 300: 1.0}
    table = curves(curve("b", 3, WHOLE), curve("b", 4, {0: 4.0}), curve("a", 3, back))
    found = filled(table, pd.DataFrame([run("b", 3), lost("b", 4, 20), run("a", 3)]), "val_loss")
    by_step = time_to_target(found, target, mode, "step")
    assert by_step[["optimizer", "seed"]].to_numpy().tolist() == [["b", 3], ["b", 4], ["a", 3]]
    assert by_step["time"].tolist() == times
    by_cost = time_to_target(found, target, mode, "grad_equivalents")
    assert by_cost["time"].tolist() == times
    assert time_to_target(found, target, mode, "seconds")["time"].tolist() == [time / 100 for time in times]


def test_a_target_that_was_left_again_was_reached() -> None:
    table = curves(curve("a", 0, {0: 4.0, 100: 0.5}), curve("a", 1, WHOLE))
    found = filled(table, pd.DataFrame([lost("a", 0, 120), run("a", 1)]), "val_loss")
    assert time_to_target(found, 1.0, "min", "step")["time"].tolist() == [100, 300]


def test_unknown_values_reach_no_target() -> None:
    table = curves(curve("a", 0, {0: NAN, 100: 1.0}), curve("a", 1, {0: NAN}))
    found = filled(table, pd.DataFrame([run("a", 0), run("a", 1)]), "val_loss")
    assert time_to_target(found, 1.0, "min", "step")["time"].tolist() == [100, INF]


# At the baseline's cost.


def test_at_the_cost_of_the_baseline_curves_are_linear_between_evaluations() -> None:
    # The baseline's seeds end after 3 s and 6 s. At 0.02 s a step 3 s are 150 steps, half-way from 3 to 2.
    table = curves(
        curve("a", 0, WHOLE), curve("a", 1, WHOLE, pace=0.02), curve("b", 0, WHOLE, pace=0.02),
        curve("b", 1, WHOLE, pace=0.01), curve("b", 2, WHOLE),
    )  # fmt: skip
    seeds = [run("a", 0), run("a", 1), run("b", 0), run("b", 1), run("b", 2)]
    found = at_cost_of(filled(table, pd.DataFrame(seeds), "val_loss"), "a", "seconds")
    assert found.to_numpy().tolist() == [["a", 0, 1], ["a", 1, 1], ["b", 0, 2.5], ["b", 1, 1]]


def test_a_run_that_had_diverged_by_then_is_infinitely_bad() -> None:
    # It diverged between its evaluations at 100 and 200 steps; the baseline's three seeds end after 80, 160 and 300.
    table = curves(
        *(curve("a", seed, {0: 4.0, end: 1.0}) for seed, end in enumerate((80, 160, 300))),
        *(curve("b", seed, {0: 4.0, 100: 2.0}) for seed in range(3)), curve("b", 3, WHOLE),
    )  # fmt: skip
    seeds = [run("a", seed) for seed in range(3)] + [lost("b", seed, 150) | {"val_loss": INF} for seed in range(3)]
    found = at_cost_of(filled(table, pd.DataFrame([*seeds, run("b", 3)]), "val_loss"), "a", "step")
    assert found[found["optimizer"] == "b"]["value"].tolist() == pytest.approx([2.4, INF, INF])


def test_at_the_cost_of_a_baseline_that_was_not_run_there_is_nothing() -> None:
    found = at_cost_of(filled(curves(curve("a", 0, WHOLE)), pd.DataFrame([run("a", 0)]), "val_loss"), "b", "step")
    assert found.columns.tolist() == ["optimizer", "seed", "value"]
    assert found.empty


def test_a_trial_reaches_the_target_at_its_first_evaluation_that_is_as_good() -> None:
    table = curves(
        curve("a", 7, {0: 9.0, 100: 2.0, 200: 1.0}, phase="search", cost=1.5),
        curve("a", 7, {0: 9.0, 100: 5.0, 200: NAN}, phase="search", trial=5),
        curve("a", 8, {0: 9.0, 100: 2.5, 200: 3.0}, phase="search", study=1),
        curve("a", 7, {0: 1.0}),  # retrained
        curve("a", 7, {0: 1.0}, phase="search", split="train"),
    )
    found = trial_times(table, "val_loss", 2.5, "min", "grad_equivalents").set_index(["optimizer", "study", "trial"])
    assert found["time"].to_dict() == {("a", 0, 4): 150.0, ("a", 0, 5): INF, ("a", 1, 4): 100.0}
    more = trial_times(table, "val_loss", 5.0, "max", "step").set_index(["optimizer", "study", "trial"])
    assert more["time"].tolist() == [0, 0, 0]
    assert trial_times(table.iloc[:0], "val_loss", 1.0, "min", "step").empty

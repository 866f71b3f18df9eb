"""Sensitivity of runs: which trials it is of, what it needs, and what it says where that is not there."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support.made_runs import make_run
from tuner.comparison.comparison import Comparison
from tuner.comparison.results import compare
from tuner.comparison.sensitivity import Sensitivity

TASKS = ("mnist1d", "resnet18")  # val_loss, and val_acc, of which more is better
EFFECTS = {"adam": 0.0, "sgdm": 0.03}
RANDOM = ["search.sampler=random"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Comparison]:
    folder = tmp_path_factory.mktemp("runs")
    runs = [make_run(folder / task, task, EFFECTS, seeds=3, studies=2, trials=20, settings=RANDOM, draw=draw)
            for draw, task in enumerate(TASKS)]  # fmt: skip
    return [task.comparison for task in compare(runs).tasks]


def found(comparisons: list[Comparison]) -> Sensitivity:
    return Sensitivity(comparisons, [None] * len(comparisons))


def with_trials(comparison: Comparison, rows: list[dict[str, Any]]) -> Comparison:
    table = pd.DataFrame(rows)
    trial = table.groupby(["optimizer", "study"]).cumcount()
    return replace(comparison, trials=table.assign(task=comparison.task, state="complete", trial=trial))


def test_values_before_the_first_step_are_the_median_and_have_the_sign_of_losses(made: list[Comparison]) -> None:
    for comparison, sign in zip(made, (1, -1), strict=True):
        split, _, metric = comparison.config.task.metric.partition("_")
        first = [row["value"] for row in comparison.curves.to_dict("records")
                 if row["step"] == 0 and (row["split"], row["metric"]) == (split, metric)]  # fmt: skip
        assert found(made).untrained[comparison.task] == pytest.approx(sign * np.median(first))


def test_a_curve_has_all_studies_and_the_best_of_each_stretch(made: list[Comparison]) -> None:
    for comparison, best in zip(made, (min, max), strict=True):
        curve = found(made).over_lr(comparison, "adam")
        assert curve is not None
        own = comparison.trials[comparison.trials["optimizer"] == "adam"]
        assert curve["n"].sum() == len(own) == 40
        edges = 1e-5 * (0.5 / 1e-5) ** (np.arange(13) / 12)
        for stretch, (low, high) in enumerate(pairwise(edges)):
            here = own[(own["hp.lr"] >= low) & (own["hp.lr"] < high) & (own["state"] == "complete")]["value"]
            if len(here):
                assert abs(curve["best"][stretch]) == best(here)


def test_draws_of_two_tasks_have_nothing_in_common_so_that_a_model_speaks(made: list[Comparison]) -> None:
    """Both tasks' best learning rate is at 0.55 of the range: one configuration does for both, and models see it."""
    shared = found(made).shared["adam"]
    assert (shared.common, shared.how, shared.obstacle) == (0, "modelled", "")
    assert {task: model.n for task, model in shared.models.items()} == dict.fromkeys(TASKS, 40)
    assert shared.dimensionality == (0, ())
    assert 0 <= shared.sensitivity < 0.05
    assert shared.score > 0.9


def test_configurations_that_all_tasks_tried_are_measured(made: list[Comparison]) -> None:
    """Ten learning rates, of which the first task wants the lowest and the second, where more is better, the highest:
    of the others on a scale from 0 to 1 one gives 1 - x and the other x, so that tuning gains a half. The left out
    task's configuration is the other's best, which scores 0 there."""
    lr = np.geomspace(1e-4, 1e-1, 10)
    x = np.linspace(0, 1, 10)
    rows = [{"optimizer": name, "study": study, "hp.lr": rate} for name in EFFECTS for study in (0, 1) for rate in lr]
    values = np.tile(x, 4)
    same = [with_trials(comparison, [row | {"value": value} for row, value in zip(rows, values, strict=True)])
            for comparison in made]  # fmt: skip
    curves = [each.curves.assign(value=untrained) for each, untrained in zip(same, (9.0, -9.0), strict=True)]
    same = [replace(each, curves=table) for each, table in zip(same, curves, strict=True)]
    sensitivity = found(same)
    shared = sensitivity.shared["adam"]
    low, high = np.percentile(values, [5, 95])
    unit = 1 / (high - low)
    assert (shared.common, shared.how) == (10, "measured")
    assert shared.sensitivity == pytest.approx(0.5 * unit)
    assert shared.score == pytest.approx((high - 1) * unit)
    assert sensitivity.tuned("adam").tolist() == pytest.approx([high * unit, high * unit])


def test_the_defaults_are_the_first_published_ones_where_they_were_tried(made: list[Comparison]) -> None:
    assert found(made).defaults("adam").isna().all()
    rows = [{"optimizer": name, "study": study, "hp.lr": lr, "value": value}
            for name in EFFECTS for study, values in enumerate(([3.0, 1.0, 5.0], [4.0, 2.0, 6.0]))
            for lr, value in zip((0.01, 1e-3, 0.1), values, strict=True)]  # fmt: skip
    one = replace(made[0], curves=made[0].curves.assign(value=100.0))
    sensitivity = found([with_trials(one, rows)])
    low, high = np.percentile([row["value"] for row in rows], [5, 95])
    assert sensitivity.defaults("adam").tolist() == pytest.approx([(high - 1.5) / (high - low)])  # 1e-3: 1 and 2
    assert sensitivity.defaults("sgdm").tolist() == pytest.approx([(high - 3.5) / (high - low)])  # 0.01: 3 and 4
    assert sensitivity.tuned("adam").tolist() == sensitivity.defaults("adam").tolist()


def test_times_are_of_the_best_trial_or_of_the_defaults(made: list[Comparison]) -> None:
    lr, value = [1e-3, 0.1], [2.0, 1.0]
    rows = [{"optimizer": "adam", "study": 0, "hp.lr": rate, "value": end} for rate, end in zip(lr, value, strict=True)]
    points = [(0, 0, 9.0), (0, 10, 2.0), (1, 0, 9.0), (1, 10, 3.0), (1, 20, 2.5), (1, 30, 1.0)]
    curves = pd.DataFrame(points, columns=["trial", "step", "value"]).assign(
        optimizer="adam", study=0, phase="search", split="val", metric="loss"
    )
    curves["grad_equivalents"] = 2.0 * curves["step"]
    comparison = replace(with_trials(made[0], rows), curves=curves)
    times = Sensitivity([comparison], [2.5]).times
    assert times["tuned"].loc["mnist1d"].tolist() == pytest.approx([40, math.nan], nan_ok=True)
    assert times["defaults"].loc["mnist1d"].tolist() == pytest.approx([20, math.nan], nan_ok=True)
    assert Sensitivity([comparison], [0.5]).times["tuned"]["adam"].tolist() == [math.inf]
    assert Sensitivity([comparison], [None]).times["tuned"].empty
    assert Sensitivity([comparison], [2.5]).algoperf("tuned").tolist() == pytest.approx([1, math.nan], nan_ok=True)


def learned(comparison: Comparison) -> Comparison:
    (source,) = comparison.sources
    search = source.config.search.model_copy(update={"sampler": "tpe"})
    return replace(comparison, sources=[replace(source, config=source.config.model_copy(update={"search": search}))])


def test_trials_of_a_sampler_that_learns_are_drawn_but_say_no_share(made: list[Comparison]) -> None:
    comparisons = [learned(comparison) for comparison in made]
    sensitivity = found(comparisons)
    assert sensitivity.shown
    assert sensitivity.over_lr(comparisons[0], "adam") is not None
    assert sensitivity.near_best("adam") == {}
    assert sensitivity.shared["adam"].obstacle == "sampler"
    assert not found(comparisons[:1]).shown
    assert found(made[:1]).shown


def test_why_nothing_is_said(made: list[Comparison]) -> None:
    def reason(comparisons: list[Comparison]) -> str:
        return found(comparisons).shared["adam"].obstacle

    first, second = made
    narrow = {name: {"lr": space["lr"].model_copy(update={"low": 1e-4})} for name, space in first.spaces.items()}
    assert reason([first]) == "one task"
    assert reason([first, replace(second, spaces=narrow)]) == "spaces"
    nothing = {name: dict[str, Any]() for name in EFFECTS}
    assert reason([replace(each, spaces=nothing) for each in made]) == "nothing searched"
    assert reason([first, replace(second, trials=second.trials.groupby("optimizer").head(5))]) == "few trials"
    assert reason([first, replace(second, trials=second.trials.iloc[:0])]) == "few trials"
    assert reason([first, replace(second, trials=second.trials.assign(**{"hp.lr": 7.0}))]) == "outside"
    noise = np.random.default_rng(0).random(len(second.trials))
    assert reason([first, replace(second, trials=second.trials.assign(value=noise))]) == "fit"


@pytest.mark.parametrize("column", ["state", "value"])
def test_trials_that_all_diverged_or_failed_say_nothing_and_break_nothing(made: list[Comparison], column: str) -> None:
    bad = {"state": "failed", "value": math.nan}[column]
    sensitivity = Sensitivity([replace(each, trials=each.trials.assign(**{column: bad})) for each in made], [1.0, 1.0])
    assert sensitivity.tuned("adam").isna().all()
    assert sensitivity.defaults("adam").isna().all()
    assert all(math.isnan(share) for share, _ in sensitivity.near_best("adam").values())
    assert sensitivity.shared["adam"].how == ""
    assert sensitivity.times["tuned"].isna().all(axis=None)


def test_runs_of_other_optimizers_are_each_of_their_own_tasks(made: list[Comparison], tmp_path: Path) -> None:
    other = make_run(tmp_path / "run", "tabular_mlp", {"sgdm": 0.0}, seeds=3, trials=20, settings=RANDOM)
    sensitivity = found([made[0], compare([other]).tasks[0].comparison])
    assert sensitivity.optimizers == ["adam", "sgdm"]
    assert sensitivity.shared["adam"].obstacle == "one task"
    assert list(sensitivity.tuned("sgdm").index) == ["mnist1d", "tabular_mlp"]

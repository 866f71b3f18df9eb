"""The shipped search spaces are those that docs/spaces.md was measured with, and do what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import space_rows, spaces
from tests.support.commands import ROOT
from tuner.config.layers import resolve
from tuner.config.registry import available
from tuner.config.space import Dimension, OptimizerConfig

PAGE = (ROOT / "docs" / "spaces.md").read_text(encoding="utf-8")
PARTS = dict(re.findall(r"^## (\w+)$(.*?)(?=^## |^Not measured|\Z)", PAGE, re.M | re.S))
OPTIMIZERS = available("optimizers")


def shipped(name: str) -> OptimizerConfig:
    return resolve({"task.name": "mnist1d", "search.optimizers": [name]}).optimizers[name]


def table(name: str) -> list[list[str]]:
    """Cells of an optimizer's rows on the page: task, diverged, useless, ranges, inside."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in PARTS[name].splitlines()[6:] if line]


def number(cell: str) -> float:
    return float(cell.rstrip(" %")) / 100


def test_every_optimizer_is_on_the_page_measured_or_named() -> None:
    left_out = re.search(r"^Not measured: (.*)\.$", PAGE, re.M)
    assert sorted([*PARTS, *(left_out[1].split(", ") if left_out else [])]) == OPTIMIZERS


@pytest.mark.parametrize("name", PARTS)
def test_the_page_was_measured_with_the_shipped_space(name: str) -> None:
    found = re.findall(r"`(\w+)` in \[(\S+), (\S+)\]( \(log\))?", PARTS[name].split("\n\n")[1])
    written = {key: (float(low), float(high), bool(log)) for key, low, high, log in found}
    intervals = {key: dim for key, dim in shipped(name).space.items() if dim.choices is None}
    assert written == {key: (dim.low, dim.high, dim.log) for key, dim in intervals.items()}


@pytest.mark.parametrize("name", PARTS)
def test_at_most_a_tenth_of_random_trials_diverges(name: str) -> None:
    rows = table(name)
    assert [row[0] for row in rows] == spaces.tasks_of(name)
    overall = float(re.search(r"([\d.]+) % diverged", PARTS[name])[1]) / 100
    assert overall == pytest.approx(sum(number(row[1]) for row in rows) / len(rows), abs=0.006)
    assert overall <= 0.1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_drawn_beside_a_space_goes_beyond_it(name: str) -> None:
    around = spaces.wide(name, shipped(name).space)
    for key, dim in shipped(name).space.items():
        assert around[key].log == dim.log
        if dim.choices:
            assert around[key].choices == dim.choices
            continue
        assert around[key].low <= dim.low < dim.high <= around[key].high, key
        assert (around[key].low, around[key].high) != (dim.low, dim.high), key


def test_diag_hessian_diverges_as_seldom_as_the_page_says(tmp_path: Path) -> None:
    """64 trials anew, of another seed: a tenth is 6.4, with a standard deviation of 2.4."""
    found = drawn("diag_hessian", "iris", 64)
    assert (found["state"] == "diverged").sum() <= 13
    assert found["value"].min() < 0.3 < 1.1 < found["first"].iloc[0]  # guessing uniformly costs ln 3


def drawn(optimizer: str, name: str, trials: int) -> pd.DataFrame:
    from tuner.training.build import make_task, set_up

    config = spaces.settings(optimizer, name)
    task = make_task(config)
    set_up(task, config)
    hps = spaces.points(config.optimizers[optimizer].space, trials, seed=5)
    return spaces.trained(config, optimizer, task, hps, spaces.TASKS[name].epochs)


def test_subsampled_newton_starts_from_its_published_rates() -> None:
    points = shipped("subsampled_newton").enqueued()
    assert [(point["sampling_rate"], point["damping"]) for point in points] == [(0.5, 1.01), (0.9, 1.01)]


@pytest.mark.parametrize("name", ["sadh", "ssdh", "ssvp", "sophia"])
def test_clipped_rules_are_not_searched_where_nothing_works(name: str) -> None:
    assert shipped(name).space["lr"].high <= 2


def test_points_are_uniform_on_their_scale() -> None:
    space = {"lr": Dimension(low=1e-4, high=1.0, log=True), "diff": Dimension(low=2, high=4)}
    found = pd.DataFrame(spaces.points(space, 4000, 0))
    assert found["lr"].between(1e-4, 1).all() and found["diff"].between(2, 4).all()
    assert found["lr"].median() == pytest.approx(1e-2, rel=0.3) and found["diff"].mean() == pytest.approx(3, abs=0.05)
    assert spaces.points(space, 5, 0) == spaces.points(space, 4000, 0)[:5]


# The row of a table.


def trials(lr: list[float], value: list[float], state: str = "complete") -> pd.DataFrame:
    return pd.DataFrame({"state": state, "first": 1.0, "value": value, "lr": lr})


def row(own: pd.DataFrame, around: pd.DataFrame) -> space_rows.Row:
    spec: dict[str, Any] = {"class": "pkg.Opt", "space": {"lr": {"low": 0.0, "high": 1.0}}}
    return space_rows.Row("task", OptimizerConfig.model_validate(spec), own, around)


def valley(at: float, low: float, high: float) -> pd.DataFrame:
    """100 trials spread evenly over an interval; the loss is least at one place."""
    places = [low + (high - low) * (i + 0.5) / 100 for i in range(100)]
    return trials(places, [abs(place - at) / 3 for place in places])


@pytest.mark.parametrize(
    ("at", "crowded"), [(0.5, []), (0.8, []), (0.99, ["lr high"]), (1.5, ["lr high"]), (0.0, ["lr low"])]
)
def test_the_end_at_which_the_best_tenth_lies_is_named(at: float, crowded: list[str]) -> None:
    assert row(valley(at, 0, 1), valley(at, -1, 2)).crowded == crowded


def test_a_hyperparameter_that_does_not_matter_is_crowded_nowhere() -> None:
    lr = [i / 100 for i in range(100)]
    values = [((37 * i) % 100) / 100 for i in range(100)]
    assert row(trials(lr, values), trials([3 * x - 1 for x in lr], values)).crowded == []


def test_the_best_tenth_and_its_middle_half() -> None:
    around = trials([float(i) for i in range(50)], [i / 50 for i in range(50)])  # the best five: 0, 1, 2, 3, 4
    assert row(around, around).ranges() == "lr 0 to 4 (1 to 3)"


def test_trials_that_get_nowhere_or_diverge_are_useless_and_not_the_best() -> None:
    own = pd.concat(
        [trials([0.1] * 2, [0.0, 0.5]), trials([0.2] * 6, [0.95] * 6), trials([0.3] * 2, [0.0] * 2, "diverged")]
    )
    found = row(own, own)
    assert (found.diverged, found.useless) == (pytest.approx(0.2), pytest.approx(0.8))
    assert found.best(own)["value"].tolist() == [0.0]


def test_a_draw_that_has_ended_is_read_and_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = spaces.draw("sgd", "iris", "shipped", 2, tmp_path)
    monkeypatch.setattr(spaces, "trained", None)
    pd.testing.assert_frame_equal(spaces.draw("sgd", "iris", "shipped", 2, tmp_path), first)
    with pytest.raises(TypeError):  # other trials would be drawn
        spaces.draw("sgd", "iris", "shipped", 3, tmp_path)

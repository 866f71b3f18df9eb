"""Search and importance: what the artists hold is what the trials were."""

from __future__ import annotations

import io
import re
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from tests.support.figure_tables import NAMES, ODD_NAMES, places, texts
from tuner.config.space import Dimension
from tuner.figures import svg
from tuner.figures.searches import CROWD, importance, search

SPACE = {"lr": Dimension(low=1e-5, high=0.1, log=True), "kind": Dimension(choices=["1", "b", "c"])}
CSV = """optimizer,state,value,hp.lr,hp.kind
sgd,complete,0.5,0.001,1
sgd,complete,0.25,0.01,1
sgd,complete,0.25,0.01,1
sgd,diverged,99,0.1,1
sgd,failed,,0.05,1
sgd,stopped,0.75,0.00001,1
adam,complete,7,0.001,
"""
TRIALS = pd.read_csv(io.StringIO(CSV))  # the choices come back as numbers


def points(axes: Axes, marker: str, hollow: bool = False, size: float | None = None) -> list[tuple[float, float]]:
    return [
        (float(x), float(y))
        for line in axes.lines
        if line.get_marker() == marker
        and (line.get_markerfacecolor() == "none") == hollow
        and (size is None or (line.get_markersize() > 6) == (size > 6))
        for x, y in line.get_xydata()
    ]


def made(mode: Any = "min", trials: pd.DataFrame = TRIALS, **how: Any) -> Any:
    best = how.pop("best", {"lr": 0.01, "kind": "1"})
    winners = how.pop("winners", [best] if best else [])
    return search(trials, "sgd", how.pop("space", SPACE), winners, "val_loss", mode, NAMES, **how)


def test_every_trial_is_at_its_place() -> None:
    lr, kind = made().axes
    assert points(lr, "o") == [(0.001, 0.5), (0.01, 0.25), (0.01, 0.25)]
    assert points(lr, "o", hollow=True, size=3) == [(1e-5, 0.75)]
    assert points(kind, "o") == [(0, 0.5), (0, 0.25), (0, 0.25)]
    assert lr.get_xscale() == "log" and lr.get_xlim()[0] < 1e-5 and lr.get_xlim()[1] > 0.1
    assert {"1", "b", "c", "val_loss, 1 of 5 diverged (×)"} <= set(texts(made()))


@pytest.mark.parametrize(("mode", "edge"), [("min", 1), ("max", 0)])
def test_diverged_trials_are_crosses_at_the_worse_edge(mode: str, edge: int) -> None:
    axes = made(mode).axes[0]
    assert points(axes, "x") == [(0.1, axes.get_ylim()[edge])]
    assert axes.get_ylim()[1] < 1  # the value that stands for them stretches nothing


def test_the_best_is_ringed_once() -> None:
    for axes, x in zip(made().axes, (0.01, 0.0), strict=True):
        assert points(axes, "o", hollow=True, size=9) == [(x, 0.25)]
    for best in (None, {"lr": 0.02, "kind": "1"}, {"kind": "1"}):
        assert points(made(best=best).axes[0], "o", hollow=True, size=9) == []


def test_the_winner_of_each_study_is_ringed() -> None:
    axes = made(winners=[{"lr": 0.01, "kind": "1"}, {"lr": 0.001, "kind": "1"}]).axes[0]
    assert len(points(axes, "o", hollow=True, size=9)) == 2


def test_importance_stands_beside_the_names() -> None:
    shown = texts(made(importance={"lr": 0.814, "kind": np.nan}))
    assert "lr · 81 %" in shown and "kind" in shown


def test_panels_share_their_vertical_axis() -> None:
    figure = made(space={**SPACE, **{f"d{i}": Dimension(low=0, high=1) for i in range(4)}})
    assert len(figure.axes) == 6 and len({axes.get_ylim() for axes in figure.axes}) == 1
    boxes = [axes.get_position() for axes in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def crowd(count: int, panels: int = 6) -> tuple[pd.DataFrame, dict[str, Dimension]]:
    """Trials as a search makes them: a valley, a tenth diverged, a tenth stopped."""
    random = np.random.default_rng(0)
    trials = pd.DataFrame(random.uniform(0, 1, (count, panels)), columns=[f"hp.d{i}" for i in range(panels)])
    value = 1 + trials["hp.d0"] + random.normal(0, 0.3, count) ** 2
    state = random.choice(["complete", "diverged", "stopped"], count, p=[0.8, 0.1, 0.1])
    return trials.assign(optimizer="sgd", value=value, state=state), {
        f"d{i}": Dimension(low=0, high=1) for i in range(panels)
    }


def test_many_trials_take_little_room_and_time() -> None:
    trials, space = crowd(10_000)
    best = dict(
        zip(space, trials.loc[trials["state"].eq("complete").idxmax(), [f"hp.{d}" for d in space]], strict=True)
    )
    begun = time.process_time()
    figure = made(trials=trials, space=space, best=best)
    page = svg.inline(figure, "search")
    assert time.process_time() - begun < 5
    assert len(page.encode()) < 150_000
    assert page.count("<image") == 6 and len(re.findall("data:image/png;base64,", page)) == 6
    for place, axes in enumerate(figure.axes):
        assert len(points(axes, "o")) == (trials["state"] == "complete").sum()
        assert len(points(axes, "o", hollow=True, size=3)) == (trials["state"] == "stopped").sum()
        assert points(axes, "o", hollow=True, size=9) == [(best[f"d{place}"], trials.loc[
            trials["state"].eq("complete").idxmax(), "value"])]  # fmt: skip
        drawn = {line.get_marker(): line.get_rasterized() for line in axes.lines if line.get_markersize() < 6}
        assert drawn == {"o": True, "x": False}  # an image could not have the page's ink


def test_every_cross_of_a_crowd_is_there_or_beside_another() -> None:
    trials, space = crowd(10_000, 1)
    axes = made(trials=trials, space=space, best=None).axes[0]
    shown = np.array(points(axes, "x"))
    wanted = trials.loc[trials["state"] == "diverged", "hp.d0"].to_numpy()
    assert 20 < len(shown) < 100 and set(shown[:, 0]) <= set(wanted) and set(shown[:, 1]) == {axes.get_ylim()[1]}
    width = axes.get_position().width * 331 / np.ptp(axes.get_xlim())
    assert np.abs(wanted[:, None] - shown[:, 0]).min(axis=1).max() * width <= 4


def test_few_trials_are_vectors() -> None:
    for count, images in ((CROWD, 0), (CROWD + 1, 1)):
        trials, space = crowd(count, 1)
        page = svg.inline(made(trials=trials, space=space, best=None), "search")
        assert page.count("<image") == images


def test_hyperparameters_and_choices_that_begin_alike_are_told_apart() -> None:
    names = [f"a_rather_long_hyperparameter_{i}_of_an_optimizer" for i in range(3)]
    space = {name: Dimension(choices=[f"{name}_a", f"{name}_b"]) for name in names}
    figure = made(space=space, best=None, importance=dict.fromkeys(names, 0.3))
    below = [text.get_text() for text in figure.texts[:3]]
    assert len(set(below)) == 3 and all(label.endswith(" · 30 %") for label in below)
    svg.inline(figure, "drawn")
    for axes in figure.axes:
        assert len({label.get_text() for label in axes.get_xticklabels()}) == 2


def test_bars_are_as_long_as_the_shares() -> None:
    table = pd.DataFrame({"hyperparameter": ["a", "b", "c"], "importance": [0.1, 0.7, 0.2]})
    figure = importance(table, few=False)
    (bars,) = figure.axes[0].collections
    lengths = [np.ptp(path.vertices[:, 0]) for path in bars.get_paths()]
    assert lengths == pytest.approx([0.7, 0.2, 0.1])
    at = places(figure)
    assert at["b"][1] > at["c"][1] > at["a"][1]
    assert [at[share][1] for share in ("70 %", "20 %", "10 %")] == [at[name][1] for name in "bca"]


def test_few_trials_are_said() -> None:
    table = pd.DataFrame({"hyperparameter": ["a"], "importance": [1.0]})
    few, enough = importance(table, few=True), importance(table, few=False)
    assert any("few trials" in text for text in texts(few)) and not any("few" in text for text in texts(enough))
    assert len(few.axes[0].collections[0].get_facecolor()) == 0  # hollow
    assert "importance: not known" in texts(importance(table[:0], few=False))


ODD_SPACE = {
    "l$r_1$": Dimension(low=1e-7, high=0.1, log=True),
    "<k>": Dimension(choices=["1", "$a$", True, 2.5, "日本", "x" * 50]),
    "n": Dimension(low=1, high=2, integer=True),
    "wide": Dimension(low=-1e12, high=1e12),
    "narrow": Dimension(low=0.999, high=0.9999, log=True),
}


@pytest.mark.parametrize("values", [[1, 1, 1, 1, 1, 1, 1], [np.nan] * 7, [np.inf, -1, 1e300, 0, 1e-300, 2, 3]])
@pytest.mark.parametrize("count", [0, 1, 2, 4, 5])
def test_odd_searches(values: list[float], count: int) -> None:
    name = ODD_NAMES[1]
    trials = TRIALS.assign(value=values, optimizer=name).rename(columns={"hp.lr": "hp.l$r_1$", "hp.kind": "hp.<k>"})
    space = dict(list(ODD_SPACE.items())[:count])
    for table in (trials, trials[:0], trials[3:4]):
        svg.inline(search(table, name, space, [{"l$r_1$": 0.01, "<k>": "1"}], "$v$", "min", ODD_NAMES), "search")


@pytest.mark.parametrize("shares", [[0.0, 0.0], [np.nan, 0.5], [1e-9] * 7])
def test_odd_importances(shares: list[float]) -> None:
    table = pd.DataFrame({"hyperparameter": ODD_NAMES[: len(shares)], "importance": shares})
    svg.inline(importance(table, few=False), "importance")

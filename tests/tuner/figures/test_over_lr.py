"""The panels of sensitivity to the learning rate hold what the tables say."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from tests.support.figure_tables import NAMES, ODD_NAMES, marked, texts
from tuner.figures.labels import text_width
from tuner.figures.over_lr import TaskCurves, over_lr

INF, NAN = math.inf, math.nan
EDGES = np.geomspace(1e-4, 1.0, 5)


def task(
    best: dict[str, list[float]], untrained: float = 2.0, mode: Literal["min", "max"] = "min", name: str = "mnist1d"
) -> TaskCurves:
    parts = [
        pd.DataFrame({
            "optimizer": optimizer, "low": EDGES[:-1], "high": EDGES[1:], "best": values,
            "near": [value == (min if mode == "min" else max)(values) for value in values],
        })
        for optimizer, values in best.items()
    ]  # fmt: skip
    return TaskCurves(name, "val_loss", mode, pd.concat(parts), untrained)


def test_a_line_goes_through_the_middles_of_the_stretches_with_trials_and_marks_the_near_ones() -> None:
    figure = over_lr([task({"sgd": [1.5, NAN, 0.5, 1.0]})], NAMES)
    (line,) = [part for part in figure.axes[0].lines if part.get_gid() == "series-1"]
    np.testing.assert_allclose(line.get_xdata(), [10**-3.5, 10**-1.5, 10**-0.5])
    assert list(line.get_ydata()) == [1.5, 0.5, 1.0]
    assert line.get_markevery() == [1]
    assert {"mnist1d: val_loss", "learning rate", "sgd"} <= set(texts(figure))


def test_what_is_worse_than_an_untrained_network_lies_on_its_edge() -> None:
    for mode, values, held in (("min", [9.0, 0.5, INF, 1.0], [2.0, 0.5, 2.0, 1.0]),
                               ("max", [0.5, 3.0, -INF, 2.5], [2.0, 3.0, 2.0, 2.5])):  # fmt: skip
        axes = over_lr([task({"adam": values}, mode=mode)], NAMES).axes[0]  # type: ignore[arg-type]
        assert list(axes.lines[0].get_ydata()) == held
        low, high = axes.get_ylim()
        assert low <= min(held)
        assert max(held) <= high


def test_each_task_has_a_panel_and_each_optimizer_its_colour_in_all() -> None:
    tasks = [task({"adam": [1.0] * 4, "diag_hessian": [0.5] * 4}, name=f"task{n}") for n in range(3)]
    figure = over_lr(tasks, NAMES)
    assert len(figure.axes) == 3
    for index in (0, 2):
        lines = [part for part in marked(figure, index) if isinstance(part, Line2D)]
        assert len(lines) == 4  # a key, and three panels
        assert len({line.get_color() for line in lines}) == 1
        assert {line.get_label() for line in lines} == {NAMES[index]}
    assert not marked(figure, 1)


def test_odd_names_and_tables_without_a_good_value_are_drawn() -> None:
    figure = over_lr([task({name: [INF, 5.0, NAN, 2.0] for name in ODD_NAMES}, name="x$_1" * 30)], ODD_NAMES)
    assert len(figure.axes[0].lines) == len(ODD_NAMES)
    [title] = [text for text in texts(figure) if text.startswith("x$_1")]
    assert text_width(title) <= figure.axes[0].get_position().width * figure.get_size_inches()[0] * 72

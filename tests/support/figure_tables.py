"""Small tables as the report hands them to figures, and what is read back from a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Text

from tuner.figures import svg

NAMES = ["adam", "sgd", "diag_hessian"]
ODD_NAMES = ["<b>&\"q'", "a$x_1$b$", "\\$y\\", "x" * 40, "日本 ☃ \U0001f600", "a\x00b\nc", "עברית"]


def bands(values: Sequence[float], names: Sequence[str] = NAMES, x: Sequence[float] | None = None) -> pd.DataFrame:
    """The same values, shifted a little from name to name, with a band of a tenth to both sides."""
    parts = []
    for place, name in enumerate(names):
        median = np.asarray(values, float) + 0.01 * place
        parts.append(pd.DataFrame({
            "optimizer": name, "x": np.arange(len(median)) * 10.0 if x is None else x,
            "median": median, "low": median - 0.1, "high": median + 0.1,
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def pairs(columns: dict[str, Sequence[float]]) -> pd.DataFrame:
    """Values by optimizer, seeds 0, 1, ..., in the long form of retrained runs."""
    rows = [(name, seed, value) for name, values in columns.items() for seed, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["optimizer", "seed", "value"])


def texts(figure: Figure) -> list[str]:
    """All that is written, tick labels included, as a reader sees it."""
    svg.inline(figure, "drawn, so that there are tick labels")
    return [text.get_text().replace(r"\$", "$") for text in figure.findobj(Text) if text.get_text()]


def places(figure: Figure) -> dict[str, tuple[float, float]]:
    """Where texts of the figure itself stand, in points."""
    return {text.get_text(): text.get_position() for text in figure.texts}


def marked(figure: Figure, index: int) -> list[Any]:
    """The artists of an optimizer."""
    return figure.findobj(lambda artist: artist.get_gid() == f"series-{index}")

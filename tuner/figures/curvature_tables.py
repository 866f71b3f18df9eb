"""Tables of curvature are made as its figures need them: quantiles and medians over seeds, densities, moments.

``table`` is curvature.parquet as ``Run.curvature`` reads it, of one task.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tuner.analysis import curves
from tuner.figures.scales import SignedScale, drawable, finite, signed_scale

MOMENTS = 4
GRID, SMOOTHING = 256, 0.15  # points of a smoothed density; its width, in decades

Floats = NDArray[np.float64]


def bands(table: pd.DataFrame, quantity: str, index: int = 0) -> pd.DataFrame:
    """Median and quartiles over seeds along training, as ``tuner.analysis.curves.bands`` gives them."""
    rows = table[(table["quantity"] == quantity) & (table["index"] == index)]
    return curves.bands(rows.astype({"value": "float64", "step": "int64", "optimizer": "str"}), "step")


def medians(table: pd.DataFrame, quantity: str) -> dict[str, pd.DataFrame]:
    """By optimizer the quantity's medians over seeds: a row per step, a column per index."""
    rows = table[table["quantity"] == quantity]
    rows = rows.assign(value=drawable(rows["value"].to_numpy(float, na_value=np.nan)))
    by_step = rows.groupby(["optimizer", "step", "index"])["value"].median().unstack("index")
    return {str(name): part.droplevel("optimizer") for name, part in by_step.groupby(level="optimizer")}


def densities(table: pd.DataFrame, seed: int | None = None) -> pd.DataFrame:
    """Spectral densities of one seed: as they were estimated, or else of the eigenvalues, smoothed.

    Args:
        seed: ``None``: the first.

    Returns:
        Columns optimizer, step, x, value; the integral over x is about 1.
    """
    rows = table[table["seed"] == (table["seed"].min() if seed is None else seed)]
    known = rows[rows["quantity"] == "density"]
    columns = ["optimizer", "step", "x", "value"]
    if len(known):
        return known[columns].reset_index(drop=True)
    groups = rows[rows["quantity"] == "eigenvalue"].groupby(["optimizer", "step"], sort=False)["value"]
    exact = {key: finite(values.to_numpy(float, na_value=np.nan)) for key, values in groups}
    y = signed_scale(list(exact.values()))
    parts = []
    for (name, step), eigenvalues in exact.items():
        x, value = smoothed(eigenvalues, y.threshold if isinstance(y, SignedScale) else 1.0)
        parts.append(pd.DataFrame({"optimizer": name, "step": step, "x": x, "value": value}))
    return pd.concat(parts, ignore_index=True) if parts else known[columns]


def smoothed(eigenvalues: Floats, threshold: float) -> tuple[Floats, Floats]:
    """Their density with a bump around each, on a grid; bumps are Gaussian on a signed axis with this threshold."""
    if not len(eigenvalues):
        return np.empty(0), np.empty(0)
    at, width = np.arcsinh(eigenvalues / threshold), SMOOTHING * math.log(10)
    grid = np.linspace(at.min() - 5 * width, at.max() + 5 * width, GRID)
    bumps = np.exp(-(((grid[:, None] - at) / width) ** 2) / 2).mean(axis=1) / (width * math.sqrt(2 * math.pi))
    return threshold * np.sinh(grid), bumps / (threshold * np.cosh(grid))


def moments(steps: ArrayLike) -> list[int]:
    """Some of the steps: the first, the last, and others evenly between them."""
    known = np.unique(np.asarray(steps, int))
    places = np.linspace(0, len(known) - 1, min(MOMENTS, len(known))).round().astype(int)
    return [int(step) for step in known[places]]

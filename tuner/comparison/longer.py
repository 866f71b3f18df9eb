"""A retraining that is longer than the trials may undo what they chose by: what it came to is read off the curves.

No torch, no ray.
"""

from __future__ import annotations

import pandas as pd

from tuner.analysis.stats import median


def meanwhile(curves: pd.DataFrame, epochs: float) -> dict[str, tuple[float, float]]:
    """The median over the retraining runs of each optimizer after so many epochs, and at the end.

    Args:
        curves: ``analysis.curves.filled``'s, of the metric that the search chose by.
    """
    changes = {}
    for name, rows in curves.dropna(subset="value").groupby("optimizer", sort=False):
        then = rows[rows["epoch"] <= epochs * (1 + 1e-9)]
        ends = [part.drop_duplicates("seed", keep="last")["value"].to_numpy(float) for part in (then, rows)]
        if len(ends[0]):
            changes[str(name)] = (median(ends[0]), median(ends[1]))
    return changes

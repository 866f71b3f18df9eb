"""What an optimizer comes to under two sets of rules: tuned task by task, or one configuration for all tasks.

AlgoPerf calls them the external tuning and the self-tuning ruleset (Dahl et al. 2023, section 4.2). No torch, no ray.
Pure functions of tables of scores, index configuration and columns task, of which higher is better. Published defaults
are a table of one configuration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import pandas as pd

CHOSEN = ["chosen", "score"]
Ruleset = Callable[[pd.DataFrame], pd.DataFrame]


def tuned_per_task(scores: pd.DataFrame) -> pd.DataFrame:
    """Each task's own best configuration.

    Returns:
        Index task; columns chosen (the configuration, as ``scores`` has it in its index; None without one), score.
    """
    return _table(scores, {task: scores[task] for task in scores})


def best_shared(scores: pd.DataFrame) -> pd.DataFrame:
    """On each task the configuration that has the best mean score on the others: it was not chosen by this task.

    Returns:
        See ``tuned_per_task``. Of a single task nothing is chosen.
    """
    others = {task: scores.drop(columns=task).mean(axis=1) for task in scores}
    return _table(scores, others)


def _table(scores: pd.DataFrame, wanted: dict[Hashable, pd.Series]) -> pd.DataFrame:
    """Of each task the configuration that is the most wanted."""
    rows = []
    for task, order in wanted.items():
        known = order.to_numpy(float)
        if not len(known) or np.isnan(known).all():
            rows.append((None, math.nan))
            continue
        row = int(np.nanargmax(known))
        rows.append((scores.index[row], float(scores[task].iloc[row])))
    return pd.DataFrame(rows, index=pd.Index(list(wanted), name="task"), columns=CHOSEN)


def median_over_studies(scores: pd.DataFrame, ruleset: Ruleset) -> pd.Series:
    """The score on each task when every study chooses by itself.

    Args:
        scores: index study and configuration.

    Returns:
        Index task.
    """
    found = [ruleset(own.droplevel("study"))["score"] for _, own in scores.groupby(level="study")]
    return pd.DataFrame(found, columns=scores.columns).median()


def median_times(values: pd.DataFrame, scores: pd.DataFrame, ruleset: Ruleset) -> pd.Series:
    """The time to the target on each task when every study chooses by itself.

    Args:
        values: the time of each configuration, infinite where the target was not reached; as far as it is known.
        scores: index study and configuration.

    Returns:
        Index task; NaN where nothing was chosen.
    """
    found, known = [], values.reindex(index=scores.index, columns=scores.columns)
    for study, own in scores.groupby(level="study"):
        times: Any = known.xs(study, level="study")
        chosen = ruleset(own.droplevel("study"))["chosen"]
        found.append({task: times[task].get(one, math.nan) for task, one in chosen.items()})
    return pd.DataFrame(found, columns=scores.columns, dtype=float).median()

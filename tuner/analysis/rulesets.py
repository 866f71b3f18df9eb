"""What an optimizer comes to under two sets of rules: tuned task by task, or one configuration for all tasks.

AlgoPerf calls them the external tuning and the self-tuning ruleset (Dahl et al. 2023, section 4.2). No torch, no ray.
Pure functions of tables of scores, index configuration and columns task, of which higher is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

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


def fixed(scores: pd.DataFrame, configuration: Hashable) -> pd.DataFrame:
    """One configuration that was settled before, as published defaults are.

    Returns:
        See ``tuned_per_task``. A configuration that is not in the table has no score.
    """
    only = pd.Series([1.0 if known == configuration else math.nan for known in scores.index], index=scores.index)
    return _table(scores, dict.fromkeys(scores, only))


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


def times(values: pd.DataFrame, chosen: pd.DataFrame) -> pd.Series:
    """What a ruleset's configurations took to the target.

    Args:
        values: index configuration, columns task: the time to the target, infinite where it was not reached.
        chosen: a ruleset's table.

    Returns:
        Index task; NaN where nothing was chosen.
    """
    found = {task: values[task].get(row["chosen"], math.nan) for task, row in chosen.iterrows()}
    return pd.Series(found, dtype=float, name="time")

"""A search is audited: which hyperparameters mattered, whether its range was wide enough.

No torch, no ray. Pure functions of ``trials.csv`` and of the search space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tuner.analysis.stats import Mode
from tuner.config.boundary import at_boundary
from tuner.config.space import Dimension
from tuner.store.tables import HP

if TYPE_CHECKING:
    import optuna

COUNTED = ("complete", "diverged")
"""States of trials that have a value at their full budget; that of a diverged one is the task's worst."""
FEW_TRIALS = 20
"""Importance from fewer trials is flagged."""
FEWEST_TRIALS = 10
"""From fewer there is none: it compares the best tenth of the trials with all of them."""
BEST_SHARE = 0.1


@dataclass(frozen=True)
class Importance:
    """How much each hyperparameter mattered for being among the best tenth of the trials.

    Attributes:
        table: columns hyperparameter and importance, which add up to 1, the largest first; hyperparameters that did not
            vary are not in it.
        n_trials: those that it was computed from.
        reason: why the table is empty; empty where it is not.
    """

    table: pd.DataFrame
    n_trials: int
    reason: str = ""

    @property
    def few(self) -> bool:
        """Whether so few trials are little to go by."""
        return self.n_trials < FEW_TRIALS


def importance(trials: pd.DataFrame, space: Mapping[str, Dimension], mode: Mode) -> Importance:
    """PED-ANOVA (Watanabe et al. 2023) by Optuna, on a study of these trials.

    Args:
        trials: of one optimizer, as ``Run.trials()`` reads them; failed and stopped ones do not count, nor do those
            that lack a hyperparameter.
    """
    names = [name for name in space if HP + name in trials]
    columns = [HP + name for name in names]
    counted = trials[trials["state"].isin(COUNTED) & np.isfinite(trials["value"].astype(float))].dropna(subset=columns)
    values = counted["value"].to_numpy(float)
    try:
        hp = {name: [space[name].read(cell) for cell in counted[HP + name]] for name in names}
    except ValueError as error:
        return _without_importances(len(values), f"a trial lies outside the search space: {error}")
    varied = [name for name in names if len(set(map(str, hp[name]))) > 1]
    if reason := _reason_unknown(values, varied, mode):
        return _without_importances(len(values), reason)
    import optuna

    study = _study({name: hp[name] for name in varied}, {name: space[name] for name in varied}, values, mode)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
    importances = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied)
    return Importance(
        pd.DataFrame({"hyperparameter": list(importances), "importance": list(importances.values())}), len(values)
    )


def _without_importances(n_trials: int, reason: str) -> Importance:
    empty = pd.DataFrame({"hyperparameter": pd.Series(dtype=str), "importance": pd.Series(dtype=float)})
    return Importance(empty, n_trials, reason)


def _reason_unknown(values: np.ndarray, varied: list[str], mode: Mode) -> str:
    """Why nothing can be said; empty where something can."""
    if len(values) < FEWEST_TRIALS:
        return f"{len(values)} trials with a value; at least {FEWEST_TRIALS} are needed"
    if len(varied) < 2:
        return "fewer than two hyperparameters varied"
    ordered = np.sort(values if mode == "min" else -values)
    if ordered[0] == ordered[-1]:
        return "all trials have the same value"
    if ordered[math.ceil(BEST_SHARE * len(ordered)) - 1] == ordered[-1]:
        return "fewer than a tenth of the trials are better than the worst"
    return ""


def _study(hp: Mapping[str, list[Any]], space: Mapping[str, Dimension], values: np.ndarray, mode: Mode) -> optuna.Study:
    """A study, in memory, of trials that have ended."""
    import optuna

    from tuner.store.optuna_space import distribution, params

    study = optuna.create_study(direction="minimize" if mode == "min" else "maximize")
    distributions = {name: distribution(dimension) for name, dimension in space.items()}
    points = [dict(zip(hp, point, strict=True)) for point in zip(*hp.values(), strict=True)]
    study.add_trials(
        optuna.trial.create_trial(value=float(value), params=params(point), distributions=distributions)
        for point, value in zip(points, values, strict=True)
    )
    return study


def boundary(hp: Mapping[str, Any], space: Mapping[str, Dimension]) -> pd.DataFrame:
    """Where the best hyperparameters lie in their ranges.

    Args:
        hp: the best ones; empty where no trial was valid.

    Returns:
        Columns hyperparameter, value, low, high, log, position (0 at low, 1 at high, on the searched scale) and
        at_boundary: whether it lies in the outer 5 % of the range. Choices have neither low nor high (NaN), and no
        boundary.
    """
    outer, rows = at_boundary(space, hp), []
    for name, dimension in space.items():
        if name not in hp:
            continue
        rows.append({
            "hyperparameter": name, "value": hp[name], "low": dimension.low, "high": dimension.high,
            "log": dimension.log, "position": dimension.position(hp[name]),
            "at_boundary": name in outer,
        })  # fmt: skip
    columns = {"hyperparameter": object, "value": object, "low": float, "high": float, "log": bool, "position": float,
               "at_boundary": bool}  # fmt: skip
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)

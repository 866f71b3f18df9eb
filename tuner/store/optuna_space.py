"""Search spaces and hyperparameters have a form of Optuna's, in which study.db holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tuner.config.space import Dimension, OptimizerConfig
from tuner.store.tables import cell

optuna.logging.set_verbosity(optuna.logging.ERROR)


def params(hp: Mapping[str, Any]) -> dict[str, Any]:
    """Optuna's form of hyperparameters."""
    return {name: cell(value) for name, value in hp.items()}


def hyperparameters(spec: OptimizerConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters that ``params`` gave Optuna's form."""
    return {name: spec.space[name].parse(str(value)) for name, value in params.items()}


def distribution(dim: Dimension) -> BaseDistribution:
    """Optuna's form of a dimension of the search space."""
    if dim.choices is not None:
        return CategoricalDistribution(list(map(cell, dim.choices)))
    assert dim.low is not None and dim.high is not None
    if dim.integer:
        return IntDistribution(int(dim.low), int(dim.high), log=dim.log)
    return FloatDistribution(dim.low, dim.high, log=dim.log)

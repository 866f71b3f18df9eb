"""Estimators of curvature are found by their names."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from optimizers.curvature.estimators import Exact, HessianVector, Hutchinson, NoCurvature, Secant
from optimizers.curvature.gauss_newton import GGNMC, GNB, GGNExact
from optimizers.curvature.hessian import HesScale, HessianMC
from optimizers.curvature.interface import Estimator

ESTIMATORS: dict[str, type[Estimator]] = {
    "hutchinson": Hutchinson,
    "gnb": GNB,
    "ggn_mc": GGNMC,
    "ggn_exact": GGNExact,
    "hessian_mc": HessianMC,
    "hesscale": HesScale,
    "exact": Exact,
    "hvp": HessianVector,
    "secant": Secant,
    "none": NoCurvature,
}


def find_estimator(estimator: str | Mapping[str, Any] | Estimator) -> Estimator:
    """The estimator of that name, with its defaults, or with the arguments of ``{"name": ..., **arguments}``.

    An ``Estimator`` is returned as it is.

    Raises:
        ValueError: no estimator has that name, or it does not take those arguments.
    """
    if isinstance(estimator, Estimator):
        return estimator
    arguments = dict(estimator) if isinstance(estimator, Mapping) else {"name": estimator}
    name = arguments.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, or an Estimator, got {estimator!r}")
    if name not in ESTIMATORS:
        nearest = get_close_matches(name, ESTIMATORS, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown estimator {name!r}; did you mean {nearest!r}? (available: {', '.join(ESTIMATORS)})")
    try:
        return ESTIMATORS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"estimator {name}: {error}") from None

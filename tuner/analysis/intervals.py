"""An interval agrees with its test: it holds the shifts of the differences that are not rejected. No torch, no ray."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tuner.analysis import paired
from tuner.analysis.paired import NAN, Array
from tuner.analysis.rules import Test

HALVINGS = 50
TESTS: dict[Test, Callable[[Array], float]] = {"wilcoxon": paired.wilcoxon, "sign_flip": paired.sign_flip}


def interval(d: Array, test: Test, alpha: float) -> tuple[float, float]:
    """The shifts of differences, (n,), that a two-sided test at level ``alpha`` does not reject: without zero where,
    and only where, it finds a difference. Of the mean, or, by ranks, of the middle of all means of two.

    Returns:
        Both ends; infinite where the test could not reject however far; NaN where there is nothing to test.
    """
    scale = float(np.abs(d[np.isfinite(d)]).max(initial=0.0)) or 1.0  # squares of others may be no numbers
    d = d / scale
    if test == "t":
        low, high = paired.t_interval(d, 1 - alpha)
        return low * scale, high * scale
    centre = _centre(d, test)
    if not (paired.varies(d) and np.isfinite(centre)):
        return NAN, NAN

    def rejected(shift: float) -> bool:
        return not TESTS[test](d - shift if shift else d) > alpha

    return _end(rejected, centre, -4.0) * scale, _end(rejected, centre, 4.0) * scale


def _centre(d: Array, test: Test) -> float:
    """A shift that the test does not reject."""
    if test == "sign_flip":
        return float(d.mean()) if len(d) else NAN
    i, j = np.triu_indices(len(d))
    with np.errstate(invalid="ignore"):
        means = d[i] / 2 + d[j] / 2
    means = np.sort(np.where(np.isnan(means), 0.0, means))
    return float(means[(len(means) - 1) // 2]) if len(means) else NAN


def _end(rejected: Callable[[float], bool], centre: float, far: float) -> float:
    """Between a shift that is not rejected and one that is, if it is; on the side of zero on which the test is."""
    inside, outside = centre, far
    if not rejected(outside):
        return float(np.copysign(np.inf, far - centre))
    if min(centre, far) < 0 < max(centre, far):
        inside, outside = (inside, 0.0) if rejected(0.0) else (0.0, outside)
    for _ in range(HALVINGS):
        middle = inside / 2 + outside / 2
        inside, outside = (inside, middle) if rejected(middle) else (middle, outside)
    return inside if outside == 0 else outside

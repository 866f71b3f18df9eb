"""Numbers of a report are written as a person reads them: values of metrics, differences, intervals, shares.

No torch, no ray.
"""

from __future__ import annotations

import math

from tuner.text import number


def result(value: float, digits: int = 4) -> str:
    """A value of a metric: infinite where a run diverged."""
    return "diverged" if math.isinf(value) else number(value, digits)


def signed(value: float, digits: int = 3) -> str:
    if math.isinf(value):
        return "-inf" if value < 0 else "+inf"
    return number(value, digits) if value < 0 or math.isnan(value) else f"+{number(abs(value), digits)}"


def interval(low: float, high: float) -> str:
    """Of a difference."""
    return f"{signed(low)} to {signed(high)}"


def with_interval(value: float, low: float, high: float) -> str:
    """A value of a metric with its interval, where there is one: ``0.37 [0.35, 0.39]``."""
    return result(value) + ("" if math.isnan(low) else f" [{result(low)}, {result(high)}]")


def difference_with_interval(value: float, low: float, high: float) -> str:
    """``+0.02 [-0.01 to +0.05]``."""
    known = not math.isnan(low) and math.isfinite(high - low)
    return signed(value) + (f" [{interval(low, high)}]" if known else "")


def number_or_infinity(value: float) -> str:
    """What is infinite with its sign."""
    return signed(value) if math.isinf(value) else number(value)


def percent(share: float) -> str:
    return f"{100 * share:.10g} %"

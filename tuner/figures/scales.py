"""Scales hold numbers for people: limits of axes, ticks and the ticks' labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

LOG_FROM = 20.0  # the ratio of largest to smallest value beyond which an axis is logarithmic
LARGEST = 1e100  # where arithmetic in limits and ticks is still safe
DECADES = 3  # of every group of values that a signed axis shows on a logarithmic scale
MOST_DECADES = 12  # from the largest of the groups to the smallest
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 4) -> str:
    """A number for people: 0.25, 1,500, 30k, 2.5M, 3×10⁻⁵."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if value == 0 or 1e-3 <= size < 1e4:
        text = f"{value:,.{max(0, digits - 1 - math.floor(math.log10(size)))}f}" if value else "0"
        return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if 1e4 <= size < 1e9 and size >= unit:
            return f"{value / unit:.{digits}g}{suffix}".replace("-", "−") if size / unit < 1e4 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    power = "10" + str(int(exponent)).translate(SUPERSCRIPTS)
    return (power if mantissa == "1" else "−" + power if mantissa == "-1" else f"{mantissa}×{power}").replace("-", "−")


@dataclass(frozen=True)
class Scale:
    """One axis: its limits, whether it is logarithmic, its ticks and their labels."""

    low: float
    high: float
    log: bool
    ticks: list[float]
    labels: list[str]

    def share(self, value: ArrayLike) -> NDArray[np.float64]:
        """Where values lie on the axis: 0 at its beginning, 1 at its end."""
        along = np.log10 if self.log else np.asarray
        low, high = along(self.low), along(self.high)
        return np.asarray((along(np.asarray(value, float)) - low) / (high - low), float)


def drawable(values: ArrayLike) -> NDArray[np.float64]:
    """The values, with NaN for those that no axis can hold."""
    given = np.asarray(values, float)
    return np.where(np.abs(given) <= LARGEST, given, np.nan)


def finite(values: ArrayLike) -> NDArray[np.float64]:
    """Those of the values that an axis can hold."""
    flat = drawable(values).ravel()
    return flat[~np.isnan(flat)]


def wants_log(values: ArrayLike) -> bool:
    """Whether the values are positive and span more than a linear axis shows."""
    known = finite(values)
    return bool(len(known)) and known.min() > 1 / LARGEST and known.max() / known.min() >= LOG_FROM


def scale(values: ArrayLike, log: bool | None = False, pad: float = 0.04, ticks: int = 6) -> Scale:
    """An axis that holds all finite values, with a margin of ``pad`` of its length at both ends.

    ``log`` may be None: as ``wants_log`` says. Where no value is positive an axis is never logarithmic.
    """
    known = finite(values)
    log = wants_log(known) if log is None else log and bool((known > 1 / LARGEST).any())
    if log:
        known = np.log10(known[known > 1 / LARGEST])
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        around = 0.3 if log else 0.1 * abs(high) or 0.5
        low, high = low - around, high + around
    low, high = low - pad * (high - low), high + pad * (high - low)
    if log:
        low, high = 10**low, 10**high
    at = _log_ticks(low, high, ticks) if log else _linear_ticks(low, high, ticks)
    return Scale(low, high, log, at, tick_labels(at, log))


@dataclass(frozen=True)
class SignedScale(Scale):
    """An axis that is logarithmic on both sides of zero, and linear within ``threshold`` of it."""

    threshold: float = 1.0

    def share(self, value: ArrayLike) -> NDArray[np.float64]:
        low, high, at = (np.arcsinh(np.asarray(v, float) / self.threshold) for v in (self.low, self.high, value))
        return np.asarray((at - low) / (high - low), float)


def signed_scale(groups: Sequence[ArrayLike], ticks: int = 7) -> Scale:
    """An axis that holds all finite values of either sign, of every group at least the upper decades in full.

    Linear where all values are zero.
    """
    known = finite(np.concatenate([np.ravel(group) for group in groups] or [np.empty(0)]))
    sizes = [float(np.abs(finite(group)).max(initial=0.0)) for group in groups]
    largest = max(sizes, default=0.0)
    if largest <= 1 / LARGEST:
        return scale(known)
    threshold = max(min(size for size in sizes if size), largest * 10.0**-MOST_DECADES) * 10.0**-DECADES
    low, high = np.arcsinh(np.array([known.min(), known.max()]) / threshold)
    pad = 0.04 * (high - low) or 0.5
    low, high = np.sinh([low - pad, high + pad]) * threshold
    first, last = (math.floor(math.log10(size)) for size in (threshold, largest))
    powers = range(last, first + 1, -1)
    inside = [sign * 10.0**power for sign in (-1, 1) for power in powers if low <= sign * 10.0**power <= high]
    stride = max(1, -(-len(inside) // ticks))
    kept = [10.0**power for power in powers[::stride]]
    at = sorted({0.0, *(tick for tick in inside if abs(tick) in kept)} - ({0.0} if low > 0 or high < 0 else set()))
    return SignedScale(float(low), float(high), False, at, _signed_labels(at), threshold)


def _signed_labels(ticks: Sequence[float]) -> list[str]:
    labels = iter(tick_labels([abs(tick) for tick in ticks if tick], log=True))
    return ["−" * (tick < 0) + next(labels) if tick else "0" for tick in ticks]


def _linear_ticks(low: float, high: float, count: int) -> list[float]:
    ticks = MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return [0.0 if abs(tick) < slack else float(tick) for tick in ticks if low - slack <= tick <= high + slack]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first >= 2:
        stride = -(-(last - first + 1) // count)
        return [10.0**exponent for exponent in range(first, last + 1) if (exponent - last) % stride == 0]
    for factors in ((1, 2, 5), (1, 3)):
        ticks = [factor * 10.0**exponent for exponent in range(first - 1, last + 1) for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if 2 <= len(ticks) <= count + 1:
            return ticks
    return [tick for tick in _linear_ticks(low, high, count) if tick > 0]


def tick_labels(ticks: Sequence[float], log: bool = False) -> list[str]:
    """All in one notation, with as many decimals as tell them apart."""
    sizes = [abs(tick) for tick in ticks if tick]
    if not sizes:
        return [number(tick) for tick in ticks]
    least, largest = min(sizes), max(sizes)
    plainly = least >= 1e-3 and largest < 1e4
    if log and not plainly and all(math.log10(size) == round(math.log10(size)) for size in sizes):
        return [_power(round(math.log10(size))) for size in sizes]
    if log and plainly:
        return [number(tick) for tick in ticks]
    for unit, suffix in ((1.0, ""), (1e3, "k"), (1e6, "M")) if largest < 50 * least else ():
        inside = least / unit >= 1e-4 and 1e-3 <= largest / unit < 1e4
        if inside and (unit == 1 or max(_decimals(tick / unit) for tick in ticks) <= 2):
            return _equal_decimals([tick / unit for tick in ticks], suffix)
    if largest < 1e9 and all(tick == round(tick) for tick in ticks):
        return _equal_decimals(ticks, "")
    return [number(tick, _digits(ticks)) for tick in ticks]


def _power(exponent: int) -> str:
    return {0: "1", 1: "10"}.get(exponent, "10" + str(exponent).translate(SUPERSCRIPTS))


def _equal_decimals(ticks: Sequence[float], suffix: str) -> list[str]:
    decimals = max((_decimals(tick) for tick in ticks), default=0)
    return [(f"{tick:,.{decimals}f}{suffix}" if tick else "0").replace("-", "−") for tick in ticks]


def _decimals(tick: float) -> int:
    text = f"{abs(tick):.10f}".rstrip("0")
    return len(text) - text.index(".") - 1


def _digits(ticks: Sequence[float]) -> int:
    """How many digits tell neighbours apart."""
    gaps = [abs(b - a) for a, b in pairwise(ticks) if b != a]
    largest = max(map(abs, ticks))
    return min(12, max(4, math.ceil(math.log10(largest / min(gaps))) + 2)) if gaps else 4

"""Checks of values refuse, each in one sentence, what pydantic would let into a configuration."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
LONGEST_TEXT = 200


def plain(value: Any) -> Any:
    """Refuse what a document cannot hold: JSON knows no bytes and no infinity."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"keys must be text, got {key!r}")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        plain(part)
    if isinstance(value, int) and abs(value) >= 2**1023:
        raise ValueError("numbers must be below 2^1023")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"numbers must be finite, got {value}")
    if value is not None and not isinstance(value, bool | int | float | str | list | tuple | dict):
        raise ValueError(
            f"must be text, a number, true, false, null, a list or a mapping, got a {type(value).__name__}"
        )
    return value


def each_once(values: list[Any]) -> list[Any]:
    for value, count in Counter(values).items():
        if count > 1:
            raise ValueError(f"{value!r} is named twice")
    return values


def is_scalar(value: Any) -> bool:
    if isinstance(value, str):
        return value.isprintable() and 0 < len(value) <= LONGEST_TEXT
    return -(2**63) <= value < 2**63 if isinstance(value, int) else isinstance(value, float) and math.isfinite(value)


def metric_of(*splits: str) -> Callable[[str], str]:
    """A metric's name begins with one of these splits."""

    def check(name: str) -> str:
        if not re.fullmatch(rf"({'|'.join(splits)})_\w+", name):
            forms = " or ".join(f"{split}_NAME" for split in splits)
            raise ValueError(f"must be {forms}, a split's metric, say {splits[-1]}_acc, got {name!r}")
        return name

    return check


def share_or_size(value: Any) -> float | str:
    """A number above 0, or as text a share of the baseline's value."""
    relative = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?%", value) if isinstance(value, str) else None
    size = float(relative[1]) if relative else value
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size < 2**1023:
        raise ValueError(
            f"must be a number above 0 in the metric's unit, or a share of the baseline's value, say 1%, got {value!r}"
        )
    return f"{relative[1]}%" if relative else float(size)


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values are checked, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

"""Metrics of a task are numbers; diverged runs get others in their place, and divergence is defined here."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from tasks.base import Task
from tuner.errors import UserError, nearest


def evaluate(task: Task, model: nn.Module, splits: tuple[str, ...]) -> dict[str, float]:
    """The metrics of some splits, named ``<split>_<metric>``.

    Raises:
        UserError: one of them is not a number, or has no name that a table's column can have.
    """
    values: dict[str, float] = {}
    for split in splits:
        metrics = task.evaluate(model, split)
        if not isinstance(metrics, Mapping):
            raise UserError(f"metrics must be a mapping of names to numbers, got a {type(metrics).__name__}")
        values |= {f"{split}_{name}": number(name, value) for name, value in metrics.items()}
    return values


def number(name: object, value: Any) -> float:
    """A metric's value, of whatever kind of number, also as a tensor or an array of one element.

    Raises:
        UserError: it is something else, or its name is not a word.
    """
    if not isinstance(name, str) or not f"_{name}".isidentifier():
        raise UserError(f"metric {name!r}: a name must be of letters, digits and '_'")
    if isinstance(value, Tensor | np.ndarray | np.generic):
        if value.size != 1 if not isinstance(value, Tensor) else value.numel() != 1:
            raise UserError(f"metric {name!r}: must be a number, got {tuple(value.shape)} of them")
        value = value.item()
    if not isinstance(value, numbers.Real):
        raise UserError(f"metric {name!r}: must be a number, got a {type(value).__name__}")
    return float(value)


def worst(task: Task, names: Iterable[str]) -> dict[str, float]:
    """What a diverged run gets in place of the metrics of these names, without their split.

    Raises:
        UserError: the task does not say it of one of them, or of its loss.
    """
    values = getattr(task, "worst", None)
    if not isinstance(values, Mapping):
        setter = ", which set_classes would set" if hasattr(task, "set_classes") else ""
        raise UserError(f"has no `worst`, the value per metric that a diverged run gets{setter}: load is to set it")
    for name in ("loss", *names):
        if name not in values:
            raise UserError(f"`worst` says nothing of metric {name!r}{nearest(name, values)}: a diverged run gets it")
    return {name: number(name, values[name]) for name in names}


def divergence(metrics: Mapping[str, float], bound: float) -> str:
    """Why a run with these metrics has diverged; empty where it has not.

    The bound is on the training loss alone: one that has fitted its data may be very wrong, and sure, about others.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            return f"{name} is {value}"
    loss = metrics.get("train_loss", 0.0)
    return beyond("train_loss", loss, bound) if loss > bound else ""


def beyond(name: str, loss: float, bound: float) -> str:
    """Why a training loss that is no number or too large is divergence."""
    return f"{name} is {loss:.4g}" + (f", beyond {bound:.4g}" if math.isfinite(loss) else "")

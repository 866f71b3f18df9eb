"""Optimizers with betas are made of 1 - beta, which a search can draw on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import torch


def with_one_minus_betas(
    params: Iterable[Any],
    one_minus_beta1: float = 0.1,
    one_minus_beta2: float = 1e-3,
    base_optimizer: str = "torch.optim.Adam",
    **base: Any,
) -> torch.optim.Optimizer:
    """Any optimizer that takes ``betas``, made of 1 - beta: 0.9, 0.99 and 0.999 are a decade apart, as 0.1 to 0.001.

    It is an object of the base optimizer's own class: with betas (1 - one_minus_beta1, 1 - one_minus_beta2) the same to
    the bit, and it trains in stacks where that does.

    Args:
        params: parameters or parameter groups.
        one_minus_beta1, one_minus_beta2: in (0, 1].
        base_optimizer: dotted path of its class.
        base: its other arguments.

    Raises:
        ValueError: there is no such class.
    """
    base_class = find_base(base_optimizer)
    made: torch.optim.Optimizer = base_class(params, betas=(1 - one_minus_beta1, 1 - one_minus_beta2), **base)
    return made


def find_base(path: str) -> Any:
    """The class of a base optimizer.

    Raises:
        ValueError: there is none of this dotted path.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ValueError, ImportError, AttributeError):
        raise ValueError(
            f"base_optimizer {path!r}: no such class; expected a dotted path such as torch.optim.Adam"
        ) from None

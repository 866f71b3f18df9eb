"""A stack's optimizer is made of its members': of one rule for all, or of each one's own."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from optimizers import CurvatureOptimizer
from optimizers.stacking.keys import EachKey
from optimizers.stacking.of_members import OfMembers
from optimizers.stacking.optimizer import StackedOptimizer
from optimizers.stacking.per_member import PerMemberOptimizer
from optimizers.stacking.random_state import random_state
from optimizers.stacking.twin import Twin
from tasks.base import Task
from tuner.training.single import Hyperparameters, MakeOptimizer
from tuner.training.stacked_model import StackedModel

TWINNED: WeakKeyDictionary[Task, set[Hashable]] = WeakKeyDictionary()
"""Keys of optimizers that a twin was beside in a stack of the task."""


def stack_optimizer(
    model: StackedModel,
    make_optimizer: MakeOptimizer,
    hps: Sequence[Hyperparameters],
    seeds: Sequence[int],
    key: Hashable,
    *,
    scheduled: bool,
) -> OfMembers:
    """The optimizer of the members of a model.

    Args:
        hps, seeds: each member's.
        key: what they have in common.
        scheduled: whether the learning rate changes.
    """
    if isinstance(key, EachKey):
        return _of_each(model, make_optimizer, hps, seeds, key, scheduled)
    optimizers = []
    for hp, seed in zip(hps, seeds, strict=True):
        torch.default_generator.manual_seed(seed)  # of the probes; torch.manual_seed takes a millisecond
        optimizers.append(make_optimizer(model.own_params, hp))
    return StackedOptimizer(optimizers, model.params, model.buffer, scheduled=scheduled, captures=model.captures)


def _of_each(
    model: StackedModel,
    make_optimizer: MakeOptimizer,
    hps: Sequence[Hyperparameters],
    seeds: Sequence[int],
    key: EachKey,
    scheduled: bool,
) -> PerMemberOptimizer:
    params = [model.member_params(row) for row in range(len(hps))]
    optimizers, streams = [], []
    for hp, seed, own in zip(hps, seeds, params, strict=True):
        torch.manual_seed(seed)
        optimizers.append(make_optimizer(own, hp))
        streams.append(random_state(model.task.device))
    twinned = TWINNED.setdefault(model.task, set())
    torch.manual_seed(seeds[0])
    twin = None if key in twinned else _twin(make_optimizer, hps[0], params[0])
    twinned.add(key)
    return PerMemberOptimizer(
        optimizers, model.params, params, streams, key, twin, scheduled=scheduled, buffer=model.buffer
    )


def _twin(make_optimizer: MakeOptimizer, hp: Hyperparameters, params: Sequence[nn.Parameter]) -> Twin | None:
    """Of the first member; none of one that estimates curvature, which is of a pass of its own."""
    copies = [nn.Parameter(param.detach().clone(), requires_grad=param.requires_grad) for param in params]
    optimizer: Any = make_optimizer(copies, hp)
    if isinstance(optimizer, CurvatureOptimizer):
        return None
    getattr(optimizer, "train", lambda: None)()
    return Twin(optimizer, copies)

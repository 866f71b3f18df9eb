"""An exponential moving average of the weights, which evaluations see in place of those that are trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tuner.training.loop import copy_tensors


class Averages:
    """After step t (from 1) a <- d_t a + (1 - d_t) w, with d_t = min(decay, (1 + t) / (10 + t)); a starts as w does.

    The decay that grows is TensorFlow's, ``tf.train.ExponentialMovingAverage`` with ``num_updates``. Unlike a division
    by 1 - decay^t (Adam's), it has a short run forget its first weights, and the average is one of weights at any time.
    Of a stack each tensor has the members as its first dimension. Buffers, BatchNorm's running averages among them, are
    those of the network in training, as with ``torch.optim.swa_utils.AveragedModel`` and its ``use_buffers=False``.

    Args:
        decay: in (0, 1).
        params: as they are before the first step.
    """

    def __init__(self, decay: float, params: Sequence[Tensor]) -> None:
        self.decay = decay
        self.steps = 0
        self.tensors = [param.detach().clone() for param in params]

    @torch.no_grad()
    def update(self, params: Sequence[Tensor]) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.tensors, [param.detach() for param in params], 1 - decay)

    @contextmanager
    def in_place_of(self, params: Sequence[Tensor]) -> Iterator[None]:
        """For a time a run's parameters have the averages as their data."""
        trained = [param.data for param in params]
        try:
            for param, average in zip(params, self.tensors, strict=True):
                param.data = average
            yield
        finally:
            for param, data in zip(params, trained, strict=True):
                param.data = data

    def keep(self, rows: Tensor) -> None:
        """Of a stack, go on with some of the members."""
        self.tensors = [average[rows] for average in self.tensors]

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps, "tensors": self.tensors}

    def restore(self, state: dict[str, Any]) -> None:
        """
        Raises:
            ValueError: they are of another network.
        """
        copy_tensors(state["tensors"], self.tensors)
        self.steps = state["steps"]

"""What tasks that predict one of several classes share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tasks.base import Task

SHORT = 32
"""Classes; from here on PyTorch's own kernel is as fast."""


class Classification(Task):
    """Cross-entropy, accuracy and macro-averaged F1. ``load`` is to set ``classes`` through ``set_classes``."""

    classes: int

    def set_classes(self, classes: int) -> None:
        """Say how many there are; a diverged run then gets what it would by always naming the same one.

        The bound on the loss is ten times that of a uniform guess.
        """
        self.classes = classes
        self.worst = {"loss": 10 * math.log(classes), "acc": 1 / classes, "f1": 2 / (classes * (classes + 1))}

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        short = outputs.ndim == 2 and outputs.shape[1] < SHORT and outputs.dtype in (torch.float32, torch.float64)
        short = short and not targets.is_floating_point()
        if torch.is_grad_enabled() or not short or outputs.device.type != "cpu":
            return nn.functional.cross_entropy(outputs, targets)
        # An evaluation has many rows, and PyTorch's log-softmax on a CPU goes through short ones entry by entry.
        shifted = outputs - outputs.amax(dim=1, keepdim=True)
        return nn.functional.nll_loss(shifted - shifted.exp().sum(dim=1, keepdim=True).log(), targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        predicted = outputs.argmax(dim=1)
        accuracy = (predicted == targets).to(torch.float64).mean()
        return {
            "loss": self.criterion(outputs, targets),
            "acc": accuracy,
            "f1": macro_f1(predicted, targets, self.classes),
        }


def macro_f1(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """The mean over classes of F1 = 2 TP / (2 TP + FP + FN); classes that are neither there nor predicted are left out.

    Args:
        predicted, targets: classes, (rows,).
    """

    def counted(of: Tensor, rows: Tensor) -> Tensor:  # as bincount does, which waits for the device
        return torch.zeros(classes, dtype=torch.int64, device=of.device).scatter_add(0, of, rows.long())

    hits = counted(targets, predicted == targets)
    both = counted(predicted, torch.ones_like(predicted)) + counted(targets, torch.ones_like(targets))
    return (2 * hits.double() / both.clamp(min=1)).sum() / (both > 0).sum()

"""What tasks that predict one of several classes share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tasks.base import Task


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
        return nn.functional.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        predicted = outputs.argmax(dim=1)
        accuracy = (predicted == targets).to(torch.float64).mean()
        f1 = macro_f1(predicted, targets, self.classes)
        return {"loss": self.criterion(outputs, targets).item(), "acc": accuracy.item(), "f1": f1.item()}


def macro_f1(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """The mean over classes of F1 = 2 TP / (2 TP + FP + FN); classes that are neither there nor predicted are left out.

    Args:
        predicted, targets: classes, (rows,).
    """
    hits = torch.bincount(targets[predicted == targets], minlength=classes)
    both = torch.bincount(predicted, minlength=classes) + torch.bincount(targets, minlength=classes)
    there = both > 0
    return (2 * hits[there].double() / both[there]).mean()

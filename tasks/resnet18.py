"""ResNet-18 for 32x32 images. Source: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2015."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from tasks.base import check_sizes
from tasks.images import ImageClassification

FULL_WIDTH = 64


class ResNet18(ImageClassification):
    """torchvision's ResNet-18 with a 3x3 stem of stride 1 and without the max-pool.

    At width 64 it has 11,173,962 parameters for ten classes.

    Args:
        width: channels of the first stage; the others have 2, 4 and 8 times as many.

    Raises:
        ValueError: ``width`` is not a positive whole number.
    """

    def __init__(self, *, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_sizes(width=width)
        self.width = width

    def network(self) -> nn.Module:
        return _SmallImageResNet(self.width, self.classes)


class _SmallImageResNet(ResNet):
    """torchvision's class fixes the widths of its stages and its stem."""

    def __init__(self, width: int, classes: int) -> None:
        self.width = width
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=classes)
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity()
        self.fc = nn.Linear(8 * width, classes)

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        if planes == FULL_WIDTH:  # the first stage follows the stem
            self.inplanes = self.width
        return super()._make_layer(block, planes * self.width // FULL_WIDTH, *args, **kwargs)

"""The convolutional network of the CIFAR comparisons, initialised and normalised as Keras does."""

from __future__ import annotations

from typing import Any

from torch import nn

from tasks.base import check_sizes
from tasks.images import ImageClassification

BLOCKS, CONVOLUTIONS, DENSE = 3, 2, 2
CONVOLUTION_DROPOUT, DENSE_DROPOUT = 0.4, 0.5
SLOPE = 0.01
KERAS_BATCH_NORM: dict[str, Any] = {"momentum": 0.01, "eps": 1e-3}
"""Keras's momentum 0.99 is the share that is kept, PyTorch's the share that is new."""


class CifarCNN(ImageClassification):
    """Three blocks of two 3x3 convolutions with BatchNorm and LeakyReLU, max-pool and dropout 0.4; two dense layers
    with BatchNorm, LeakyReLU and dropout 0.5; a linear map to the classes.

    At width 32 it has 1,606,826 parameters for ten classes. Weights are Glorot uniform, biases zero, as in Keras;
    BatchNorm has Keras's momentum (0.01 of the new) and eps 1e-3.

    Args:
        width: channels of the first block; the second has twice, the third four times as many.
        dense: units of a dense layer.

    Raises:
        ValueError: ``width`` or ``dense`` is not a positive whole number.
    """

    least_batch = 2

    def __init__(self, *, width: int, dense: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_sizes(width=width, dense=dense)
        self.width = width
        self.dense = dense

    def network(self) -> nn.Module:
        layers: list[nn.Module] = []
        channels = 3
        for block in range(BLOCKS):
            for _ in range(CONVOLUTIONS):
                width = self.width * 2**block
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width, **KERAS_BATCH_NORM)]
                layers += [nn.LeakyReLU(SLOPE)]
                channels = width
            layers += [nn.MaxPool2d(2), nn.Dropout(CONVOLUTION_DROPOUT)]
        layers.append(nn.Flatten())
        features = channels * 4 * 4
        for _ in range(DENSE):
            layers += [nn.Linear(features, self.dense), nn.BatchNorm1d(self.dense, **KERAS_BATCH_NORM)]
            layers += [nn.LeakyReLU(SLOPE), nn.Dropout(DENSE_DROPOUT)]
            features = self.dense
        return nn.Sequential(*layers, nn.Linear(features, self.classes)).apply(_glorot)


def _glorot(module: nn.Module) -> None:
    """Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)

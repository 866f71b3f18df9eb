"""The networks that MNIST-1D was published with, as tasks on its data.

Source: Greydanus and Kobak, "Scaling down deep learning with MNIST-1D", 2020 (arXiv 2011.14439), and
notebooks/models.py of the repository greydanus/mnist1d.
"""

from __future__ import annotations

from torch import nn

from tasks.mnist1d import Signals
from tasks.recurrent import GRU

POINTS, CLASSES = 40, 10
CHANNELS, GRU_HIDDEN = 25, 6


class MNIST1DCNN(Signals):
    """Three ReLU convolutions of 25 channels and a linear map on MNIST-1D (5,210 parameters), with cross-entropy.

    Kernels have 5, 3 and 3 points, strides are 2 and paddings 1, so that the map has 25 channels of 5 points; as
    published by Greydanus and Kobak (arXiv 2011.14439). Metrics: loss (cross-entropy), acc, f1.

    As published all 4,000 training rows train and 1,000 test; 1,000 more of the same generator, with its next seed,
    validate. Data set mnist1d trains on the first 3,200 and validates on the last 800, as task mnist1d does.
    """

    def network(self) -> nn.Module:
        # Rows are images of height 1: estimators of curvature by sample know Conv2d, and not Conv1d.
        layers: list[nn.Module] = [nn.Unflatten(1, (1, 1, POINTS))]
        for channels, kernel in ((1, 5), (CHANNELS, 3), (CHANNELS, 3)):
            layers += [nn.Conv2d(channels, CHANNELS, (1, kernel), stride=(1, 2), padding=(0, 1)), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(5 * CHANNELS, CLASSES))


class MNIST1DGRU(Signals):
    """A bidirectional GRU of 6 units per direction on MNIST-1D (5,134 parameters), with cross-entropy.

    It reads a point at a time; a linear map takes the states of both directions at all 40 points to the classes; as
    published by Greydanus and Kobak (arXiv 2011.14439). Metrics: loss (cross-entropy), acc, f1.

    As published all 4,000 training rows train and 1,000 test; 1,000 more of the same generator, with its next seed,
    validate. Data set mnist1d trains on the first 3,200 and validates on the last 800, as task mnist1d does.
    """

    def network(self) -> nn.Module:
        states = 2 * GRU_HIDDEN * POINTS
        return nn.Sequential(
            nn.Unflatten(1, (POINTS, 1)), GRU(1, GRU_HIDDEN, directions=2), nn.Flatten(), nn.Linear(states, CLASSES)
        )

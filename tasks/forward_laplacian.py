"""Networks that give a function's value with its slopes and its Laplacian, by rules carried forward through the layers.

A jet of a function u of d coordinates has d + 2 numbers: u, its d first derivatives, and the sum of its second ones.
Linear maps act on each alike; an activation a maps it to (a(u), a'(u) du, a'(u) Laplacian u + a''(u) |du|^2). This is
exact, one forward pass without nested differentiation, so that what is trained on second derivatives is differentiated
by the weights as any other network.

Source: Li et al., "A computational framework for neural network-based variational Monte Carlo with forward Laplacian",
Nature Machine Intelligence 6, 2024.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class TanhJets(nn.Module):
    """A tanh perceptron with one output, and its Laplacian by its inputs: (rows, d) to (rows, 2).

    A bias is the last column of its layer's weight, multiplied with 1 in a value and with 0 in derivatives, so that
    each layer is one linear map of jets. Weights are drawn from Glorot and Bengio's normal distribution, biases are 0.

    Args:
        widths: of the inputs, the hidden layers and the output, 1.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(of + 1, to, bias=False) for of, to in pairwise(widths))
        with torch.no_grad():
            for layer in self.layers:
                nn.init.xavier_normal_(layer.weight[:, :-1])
                nn.init.zeros_(layer.weight[:, -1])

    def forward(self, inputs: Tensor) -> Tensor:
        first, *others = self.layers
        jets = first(with_one(coordinates(inputs)))
        for layer in others:
            jets = layer(with_one(tanh(jets)))
        return torch.stack([jets[:, 0, 0], jets[:, -1, 0]], dim=1)


def coordinates(inputs: Tensor) -> Tensor:
    """The jets of the coordinates themselves, (rows, d) to (rows, d + 2, d)."""
    slopes = torch.eye(inputs.shape[1], dtype=inputs.dtype, device=inputs.device).expand(len(inputs), -1, -1)
    return torch.cat([inputs[:, None], slopes, torch.zeros_like(inputs)[:, None]], dim=1)


def with_one(jets: Tensor) -> Tensor:
    """With the jet of the constant 1 behind them: (rows, d + 2, width) to (rows, d + 2, width + 1)."""
    one = torch.zeros_like(jets[:1, :, :1])
    one[:, 0] = 1
    return torch.cat([jets, one.expand(len(jets), -1, -1)], dim=2)


def tanh(jets: Tensor) -> Tensor:
    """The jets of tanh, (rows, d + 2, width): tanh' = 1 - tanh^2 and tanh'' = -2 tanh tanh'."""
    value, slopes, laplacian = jets[:, :1].tanh(), jets[:, 1:-1], jets[:, -1:]
    slope = 1 - value.square()
    curved = slopes.square().sum(dim=1, keepdim=True)
    return torch.cat([value, slope * slopes, slope * (laplacian - 2 * value * curved)], dim=1)

"""A photograph as a function of place: a network of sines is fitted to some pixels and asked for the others.

Source: Sitzmann, Martel, Bergman, Lindell and Wetzstein, "Implicit neural representations with periodic activation
functions", NeurIPS 2020 (SIREN); held-out pixels as in Tancik et al., "Fourier features let networks learn high
frequency functions in low dimensional domains", NeurIPS 2020. The photograph china.jpg comes with scikit-learn.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tasks.base import Data, Task

CELL = 8  # pixels of the photograph, each way, that are one of the task's
HIDDEN, LAYERS = 64, 3
OMEGA = 30.0
BOUND = 10.0  # times the loss of always predicting the training pixels' mean
PEAK = 2.0  # a colour goes from -1 to 1


class ImageFit(Task):
    """A 2-64-64-64-3 network of sines, sin(30 (W x + b)) (8,707 parameters), with the squared error of colours.

    The middle 424 x 640 pixels of china.jpg, 8 x 8 averaged to one: 53 x 80. As on a chessboard every other one trains;
    of the others those of even rows validate and those of odd rows test (2,120, 1,080 and 1,040). Places are in
    [-1, 1] across and to the same scale down, colours in [-1, 1]. Weights as published: uniform up to 1/2 in the first
    layer, and up to sqrt(6/64)/30 in the others. Metrics: loss, psnr (peak signal-to-noise ratio in decibels).
    """

    def load(self, data_dir: Path | None) -> Data:
        colours = photograph()
        places = grid(*colours.shape[:2])
        row, column = np.indices(colours.shape[:2])
        dark = (row + column) % 2 == 1
        masks = {"train": ~dark, "val": dark & (row % 2 == 0), "test": dark & (row % 2 == 1)}
        trained = colours[masks["train"]]
        worst = BOUND * float(((trained - trained.mean(axis=0)) ** 2).mean())
        self.worst = {"loss": worst, "psnr": psnr(torch.tensor(worst, dtype=torch.float64)).item()}
        return Data("china.jpg", {split: (places[of], colours[of]) for split, of in masks.items()}, "scikit-learn")

    def network(self) -> nn.Module:
        sines = [Sine(2, HIDDEN, 1 / 2), *(Sine(HIDDEN, HIDDEN, spread(HIDDEN)) for _ in range(LAYERS - 1))]
        last = nn.Linear(HIDDEN, 3)
        nn.init.uniform_(last.weight, -spread(HIDDEN), spread(HIDDEN))
        return nn.Sequential(*sines, last)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        loss = self.criterion(outputs, targets).double()
        return {"loss": loss, "psnr": psnr(loss)}


class Sine(nn.Module):
    """sin(30 (W x + b)), (rows, inputs) to (rows, outputs); the weights are uniform up to ``bound``."""

    def __init__(self, inputs: int, outputs: int, bound: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.sin(OMEGA * self.linear(inputs))


def spread(inputs: int) -> float:
    """The bound on the weights of a layer after sines, for inputs to the next sine of deviation 1 (theorem 1.8)."""
    return math.sqrt(6 / inputs) / OMEGA


def psnr(loss: Tensor) -> Tensor:
    """Decibels, of a mean squared error; infinite without one, minus infinite of an infinite one."""
    return 10 * (math.log10(PEAK**2) - loss.log10())


def photograph() -> np.ndarray:
    """The middle of china.jpg in cells, (53, 80, 3) float32, colours in [-1, 1]."""
    from sklearn.datasets import load_sample_image

    pixels = load_sample_image("china.jpg")
    rows, columns = (size // CELL for size in pixels.shape[:2])
    top, left = (pixels.shape[0] - rows * CELL) // 2, (pixels.shape[1] - columns * CELL) // 2
    middle = pixels[top : top + rows * CELL, left : left + columns * CELL]
    means = middle.reshape(rows, CELL, columns, CELL, 3).mean(axis=(1, 3))
    return (means / 127.5 - 1).astype(np.float32)


def grid(rows: int, columns: int) -> np.ndarray:
    """The middle of each pixel, (rows, columns, 2) float32: down and across, the latter in [-1, 1]."""
    down, across = ((2 * np.arange(size) + 1 - size) / columns for size in (rows, columns))
    return np.stack(np.meshgrid(down, across, indexing="ij"), axis=-1).astype(np.float32)

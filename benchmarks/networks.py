"""Networks with a batch of data, for the benchmarks of steps and of curvature estimators; and what they run on."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import pairwise

import torch
from torch import Tensor, nn

from tasks.mnist1d import MNIST1D
from tasks.transformer import LanguageModel
from tuner.machine.environment import describe
from tuner.machine.resources import this_machine

SEED = 0


@dataclass(frozen=True)
class Problem:
    """A network to train on one batch.

    Attributes:
        title: what it is, in a few words.
        build: makes the network, from PyTorch's global generator.
        inputs, targets: the batch; targets are classes, one per prediction.
        pool: inputs and targets of the data that the batch is the beginning of, if it is real.
    """

    title: str
    build: Callable[[], nn.Module]
    inputs: Tensor
    targets: Tensor
    pool: tuple[Tensor, Tensor] | None = None

    def network(self, device: str = "cpu") -> nn.Module:
        """The network, the same weights every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return self.build().to(device)

    def to(self, device: str) -> Problem:
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    def batches(self, steps: int) -> Iterator[Problem]:
        """The same on other batches of the pool, drawn from PyTorch's global generator."""
        inputs, targets = self.pool or (self.inputs, self.targets)
        for _ in range(steps):
            rows = torch.randint(len(inputs), (len(self.inputs),))
            yield replace(self, inputs=inputs[rows], targets=targets[rows])

    def loss(self, network: nn.Module) -> tuple[Tensor, Tensor]:
        """The mean cross-entropy over all predictions, and the outputs: classes are their last dimension."""
        outputs = network(self.inputs)
        return nn.functional.cross_entropy(outputs.flatten(0, -2), self.targets.flatten()), outputs


def mnist1d(batch: int = 32) -> Problem:
    """The 40-100-10 ReLU perceptron on the first rows of MNIST-1D."""
    task = MNIST1D(metric="val_loss", mode="min", batch_size=batch)
    inputs, targets = task.load(None).splits["train"]
    title = f"perceptron 40-100-10 on MNIST-1D, ReLU, 5,110 parameters, batch {batch}"
    return _real(title, task.network, torch.from_numpy(inputs), torch.from_numpy(targets), batch)


def _real(title: str, build: Callable[[], nn.Module], inputs: Tensor, targets: Tensor, batch: int) -> Problem:
    return Problem(title, build, inputs[:batch], targets[:batch], (inputs, targets))


def cifar_cnn() -> Problem:
    """Three blocks of two 3x3 convolutions and a dense head, with BatchNorm and dropout, on random images."""
    generator = torch.Generator().manual_seed(SEED)
    inputs = torch.rand(64, 3, 32, 32, generator=generator)
    targets = torch.randint(0, 10, (64,), generator=generator)
    title = (
        "convolutional network 32-64-128, dense 512-512, BatchNorm, dropout, 1.6 million parameters, 32x32, batch 64"
    )
    return Problem(title, _cifar_cnn, inputs, targets)


def _cifar_cnn() -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 64, 128):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.LeakyReLU(0.01)]
            channels = width
        layers += [nn.MaxPool2d(2), nn.Dropout(0.4)]
    layers.append(nn.Flatten())
    features = 128 * 4 * 4
    for _ in range(2):
        layers += [nn.Linear(features, 512), nn.BatchNorm1d(512), nn.LeakyReLU(0.01), nn.Dropout(0.5)]
        features = 512
    return nn.Sequential(*layers, nn.Linear(features, 10))


def transformer() -> Problem:
    """A small language model on random tokens."""
    generator = torch.Generator().manual_seed(SEED)
    tokens = torch.randint(0, 1000, (16, 36), generator=generator)
    title = "transformer d 64, 4 heads, 2 layers, hidden 64, vocabulary 1,000, dropout 0.2, 35 tokens, batch 16"
    return Problem(title, _transformer, tokens[:, :-1], tokens[:, 1:])


def _transformer() -> nn.Module:
    return LanguageModel(1000, width=64, heads=4, hidden=64, layers=2, length=35, dropout=0.2)


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's handwritten digits, 8x8, scaled to [0, 1], and their classes."""
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(classes)


def smooth_perceptron(activation: type[nn.Module], *widths: int) -> Problem:
    """A perceptron on 8x8 digits, whose Hessian is not its Gauss-Newton matrix."""
    sizes = (64, *widths, 10)

    def build() -> nn.Module:
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), activation())]
        return nn.Sequential(nn.Flatten(), *layers[:-1])

    images, classes = digits()
    count = sum(a * b + b for a, b in pairwise(sizes))
    shape, name = "-".join(map(str, sizes)), activation.__name__
    return _real(
        f"perceptron {shape} on 8x8 digits, {name}, {count:,} parameters, batch 32", build, images, classes, 32
    )


def small_cnn() -> Problem:
    """Two convolutions with GELU: its Hessian is not its Gauss-Newton matrix."""
    title = "convolutional network 8-8 on 8x8 digits, GELU, 994 parameters, batch 32"
    return _real(title, _small_cnn, *digits(), 32)


def _small_cnn() -> nn.Module:
    first, second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, stride=2)
    return nn.Sequential(first, nn.GELU(), second, nn.GELU(), nn.Flatten(), nn.Linear(32, 10))


def batch_norm_cnn() -> Problem:
    """The same size with BatchNorm in training mode, which couples the samples of a batch."""
    title = (
        "BatchNorm network: two convolutions 8-8 with BatchNorm, LeakyReLU on 8x8 digits, 1,026 parameters, batch 32"
    )
    return _real(title, _batch_norm_cnn, *digits(), 32)


def _batch_norm_cnn() -> nn.Module:
    first = (nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(0.01))
    second = (nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8), nn.LeakyReLU(0.01))
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(32, 10))


def small_transformer() -> Problem:
    """An attention network that predicts the next pixel down a column of an image, one of 8 levels."""
    images, _ = digits()
    tokens = (images[:, 0, :, 3] * 7).round().long()
    title = "transformer d 16, 2 heads, 1 layer, hidden 16, GELU, columns of 8x8 digits as 7 tokens of 8, batch 16"
    return _real(title, _small_transformer, tokens[:, :-1], tokens[:, 1:], 16)


def _small_transformer() -> nn.Module:
    return LanguageModel(8, width=16, heads=2, hidden=16, layers=1, length=7, activation="gelu")


def setting(device: str) -> list[str]:
    """What a table was measured on, line by line."""
    lines = [f"processor: {describe(this_machine())['hardware']['cpu']}, {torch.get_num_threads()} threads"]
    if device == "cuda":
        lines.insert(0, f"device: {torch.cuda.get_device_name()}")
    return [*lines, f"torch {version('torch')}, Python {platform.python_version()}"]

"""Handwritten digits of 8x8 pixels from scikit-learn: a classifier, an autoencoder and a variational autoencoder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tasks.base import Batch, Data, Task, epoch_generator
from tasks.classification import Classification
from tasks.splits import hold_out

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.25  # of all rows, of the rest: 60 % train, 20 % validate, 20 % test
PIXELS = 64
AUTOENCODER = (PIXELS, 32, 16, 8, 4, 8, 16, 32, PIXELS)
CODE, VAE_HIDDEN = 4, 48
NOISE_SEED = 0
"""Of the noise that evaluations of the variational autoencoder use."""


class DigitsCNN(Classification):
    """Two 3x3 convolutions of 12 and 24 channels with GELU and mean-pooling, and a linear map (3,706 parameters).

    Images are (1, 8, 8), paddings are 1; each pooling halves height and width. Metrics: loss (cross-entropy), acc, f1.

    1,797 images of scikit-learn's ``load_digits``, the test part of UCI's "Optical recognition of handwritten digits"
    (Alpaydin and Kaynak, 1998), with grey values 0 to 16 divided by 16. Of each class the last fifth in the data's own
    order tests and the fifth before it validates: 1,079 train, 359 validate, 359 test.
    """

    def load(self, data_dir: Path | None) -> Data:
        self.set_classes(10)
        return Data("digits", read_digits(), "scikit-learn")

    def network(self) -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 12, 3, padding=1),
            nn.GELU(),
            nn.AvgPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1),
            nn.GELU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24 * 4, self.classes),
        )


class DigitsAutoencoder(Task):
    """A 64-32-16-8-4-8-16-32-64 perceptron that reproduces digits through a code of 4 numbers (5,620 parameters).

    Layers have tanh, the output a sigmoid, weights are Glorot uniform and biases 0. The loss is the squared error
    summed over an image's 64 pixels in [0, 1], as the deep autoencoders of Hinton and Salakhutdinov, "Reducing the
    dimensionality of data with neural networks", Science 2006, and Martens, "Deep learning via Hessian-free
    optimization", ICML 2010, report it. Metrics: loss.

    Images and splits are those of digits_cnn: 1,079 train, 359 validate, 359 test.
    """

    def load(self, data_dir: Path | None) -> Data:
        splits = {split: (images, images) for split, (images, _) in read_digits().items()}
        self.worst = {"loss": 10 * float(splits["train"][0].var(axis=0).sum())}  # ten times the mean image's
        return Data("digits", splits, "scikit-learn")

    def network(self) -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(AUTOENCODER):
            linear = nn.Linear(inputs, outputs)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.Tanh()]
        return nn.Sequential(*layers[:-1], nn.Sigmoid())

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().sum(dim=1).mean()


class VAE(nn.Module):
    """A 64-48-(4 + 4) encoder and a 4-48-64 decoder with tanh (6,888 parameters).

    Takes images and noise, (rows, 64 + 4): the code is mean + deviation * noise. Gives (rows, 64 + 4 + 4): the pixels'
    log-odds, and the code's mean and log variance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, VAE_HIDDEN), nn.Tanh(), nn.Linear(VAE_HIDDEN, 2 * CODE))
        self.decoder = nn.Sequential(nn.Linear(CODE, VAE_HIDDEN), nn.Tanh(), nn.Linear(VAE_HIDDEN, PIXELS))

    def forward(self, inputs: Tensor) -> Tensor:
        images, noise = inputs.split([PIXELS, CODE], dim=1)
        encoded = self.encoder(images)
        mean, log_variance = encoded.chunk(2, dim=1)
        return torch.cat([self.decoder(mean + (log_variance / 2).exp() * noise), encoded], dim=1)


class DigitsVAE(Task):
    """A variational autoencoder of digits with a Gaussian code of 4 dimensions (6,888 parameters).

    Encoder 64-48-(4 + 4) and decoder 4-48-64 with tanh. The loss is the negative evidence lower bound in nats per
    image, with one draw of the code: a Bernoulli log-likelihood of the 64 pixels, whose grey values in [0, 1] stand
    for probabilities, and the divergence from N(0, I) in closed form; equation 10 and appendices B and C.1 of Kingma
    and Welling, "Auto-encoding variational Bayes", ICLR 2014. Metrics: loss, reconstruction and kl, its two parts.

    The code's noise is part of the inputs: drawn anew each epoch from the stream that has the order of rows, and the
    same at each evaluation. Images and splits are those of digits_cnn: 1,079 train, 359 validate, 359 test.
    """

    def load(self, data_dir: Path | None) -> Data:
        uniform = PIXELS * math.log(2)
        self.worst = {"loss": 10 * uniform, "reconstruction": 10 * uniform, "kl": 10 * uniform}
        draws = np.random.default_rng(NOISE_SEED)
        splits = {}
        for split, (images, _) in read_digits().items():
            noise = draws.standard_normal((len(images), CODE), np.float32)
            splits[split] = np.concatenate([images, noise], axis=1), images
        return Data("digits", splits, "scikit-learn")

    def batches(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Every training image once, in an order and with noise that depend on seed and epoch alone."""
        _, images = self.splits["train"]
        generator = epoch_generator(seed, epoch)
        order = torch.randperm(len(images), generator=generator).to(self.device)
        noise = torch.randn(len(images), CODE, generator=generator).to(self.device)
        images = images[order]
        for some, of_these in zip(images.split(self.batch_size), noise.split(self.batch_size), strict=True):
            yield torch.cat([some, of_these], dim=1), some

    def network(self) -> nn.Module:
        return VAE()

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        reconstruction, kl = parts_of_bound(outputs, targets)
        return reconstruction + kl

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        reconstruction, kl = (part.double() for part in parts_of_bound(outputs, targets))
        return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}


def parts_of_bound(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The negative log-likelihood and the code's divergence from N(0, I), in nats per image, 0-dim.

    Args:
        outputs: of ``VAE``.
        targets: images, (rows, 64).
    """
    logits, mean, log_variance = outputs.split([PIXELS, CODE, CODE], dim=1)
    reconstruction = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
    return reconstruction / len(targets), kl / len(targets)


def read_digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each split the images, (rows, 64) float32 in [0, 1], and their classes, (rows,) int64."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.data / 16).astype(np.float32), digits.target.astype(np.int64)
    rest, test = hold_out(labels, TEST_SHARE)
    train, val = (rest[rows] for rows in hold_out(labels[rest], VALIDATION_SHARE))
    return {split: (images[of], labels[of]) for split, of in (("train", train), ("val", val), ("test", test))}

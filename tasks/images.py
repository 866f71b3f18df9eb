"""What tasks that classify 32x32 images share: data, normalisation, augmentation on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.base import SPLITS, Batch, Data, check_sizes, epoch_generator
from tasks.classification import Classification
from tasks.image_data import SIZE, read_images
from tasks.splits import first_of_each_class, hold_out

VALIDATION_SHARE = 0.1
PAD = 4


class ImageClassification(Classification):
    """Images (rows, 3, 32, 32), uint8, kept on the device; of each class's training images the last 10 % validate.

    CIFAR has 45,000 training, 5,000 validation and 10,000 test images. Metrics: loss (cross-entropy), acc, f1.

    Args:
        normalise: give the network channels with mean 0 and deviation 1 over the training images, else in [0, 1].
        augment: train on random crops of 32x32 out of the image with a border of 4 black pixels, half of them
            mirrored (digits are not).
        rows: split -> how many of its images to use, the same ones always; ``None`` for all.

    Raises:
        ValueError: ``rows`` names something else than a split, or not a positive whole number.
    """

    evaluation_rows = 500
    least_batch = 1
    """The fewest images that the network can be trained on at once."""

    def __init__(
        self, *, normalise: bool, augment: bool, rows: Mapping[str, int | None] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.normalise = normalise
        self.augment = augment
        if rows is not None and not isinstance(rows, Mapping):
            raise ValueError(f"rows must say how many for train, val and test, got {rows!r}")
        self.rows = dict(rows or {})
        for split in self.rows:
            if split not in SPLITS:
                raise ValueError(f"rows: unknown split {split!r}; expected {', '.join(SPLITS)}")
        check_sizes(**{f"rows.{split}": count for split, count in self.rows.items() if count is not None})

    def load(self, data_dir: Path | None) -> Data:
        images = read_images(str(self.dataset), data_dir)
        self.set_classes(images.classes)
        (x, y), (x_test, y_test) = images.train, images.test
        keep, out = hold_out(y, VALIDATION_SHARE)
        splits, used = {}, []
        for split, (inputs, labels) in {
            "train": (x[keep], y[keep]), "val": (x[out], y[out]), "test": (x_test, y_test),
        }.items():  # fmt: skip
            chosen = first_of_each_class(labels, self.rows.get(split))
            splits[split] = (inputs[chosen], labels[chosen])
            if len(chosen) < len(labels):
                used.append(f"{len(chosen):,} of {len(labels):,} {split}")
        subset = f", {', '.join(used)} images" if used else ""
        return Data(images.title + subset, splits, images.source)

    def setup(self, data_dir: Path | None, device: torch.device) -> None:
        """As ``Task.setup``.

        Raises:
            ValueError: the data cannot be used, or the last batch of an epoch would be smaller than the network can
                take: BatchNorm has no statistics of a single number.
        """
        super().setup(data_dir, device)
        images = self.splits["train"][0]
        last = len(images) % self.batch_size or self.batch_size
        if last < self.least_batch:
            raise ValueError(
                f"batch_size {self.batch_size} leaves a batch of {last} of the {len(images)} training images, too few "
                "for BatchNorm; choose another"
            )
        mean, deviation = _statistics(images) if self.normalise else (0.0, 1.0)
        self.scale, self.shift = 1 / (255 * deviation), -mean / deviation
        if self.augment:
            self.padded = torch.nn.functional.pad(images, (PAD, PAD, PAD, PAD)).permute(0, 2, 3, 1).contiguous()

    def prepare(self, inputs: Tensor) -> Tensor:
        return inputs.float().mul_(self.scale).add_(self.shift)

    def batches(self, seed: int, epoch: int) -> Iterator[Batch]:
        if not self.augment:
            yield from super().batches(seed, epoch)
            return
        targets = self.splits["train"][1]
        generator = epoch_generator(seed, epoch)
        order = torch.randperm(len(targets), generator=generator)
        corners = torch.randint(0, 2 * PAD + 1, (len(targets), 2), generator=generator)
        mirrored = torch.randint(0, 2, (len(targets),), generator=generator).bool()
        if self.dataset == "digits":
            mirrored.zero_()
        draws = (draw.to(self.device).split(self.batch_size) for draw in (order, corners, mirrored))
        for rows, corner, mirror in zip(*draws, strict=True):
            yield self.prepare(crop(self.padded, rows, corner, mirror)), targets[rows]


def crop(padded: Tensor, rows: Tensor, corners: Tensor, mirrored: Tensor) -> Tensor:
    """Crops of 32x32, in one look-up.

    Args:
        padded: all images with their borders, (images, height, width, 3).
        rows: which images, (batch,).
        corners: top and left of each crop, (batch, 2).
        mirrored: whether to mirror it left to right, (batch,).

    Returns:
        (batch, 3, 32, 32), in PyTorch's usual memory format.
    """
    places = torch.arange(SIZE, device=padded.device)
    y = corners[:, :1] + places
    x = corners[:, 1:] + torch.where(mirrored[:, None], SIZE - 1 - places, places)
    return padded[rows[:, None, None], y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel over all images, in [0, 1], (3, 1, 1)."""
    found = [torch.var_mean(images[:, channel].float() / 255, correction=0) for channel in range(images.shape[1])]
    deviation, mean = (torch.stack(values).view(-1, 1, 1) for values in zip(*found, strict=True))
    return mean, torch.where(deviation > 0, deviation.sqrt(), 1.0)

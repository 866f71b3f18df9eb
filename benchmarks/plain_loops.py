"""Training loops as one writes them by hand for a single problem: what this project's loop is compared with.

Network and rows are a task's own, the rows already tensors on the device; nothing else of the project is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
OPTIMIZERS: dict[str, Any] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
PAD = 4


@dataclass(frozen=True)
class Loop:
    """What differs from one problem's loop to another's.

    Attributes:
        batches: makes an epoch's batches, inputs and targets.
        loss: of outputs and targets, 0-dim.
    """

    batches: Callable[[], Iterable[Batch]]
    loss: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How one wants to train.

    Attributes:
        optimizer: "adam" or "sgd".
        lr: learning rate.
        epochs: passes over the rows.
        steps: of all of them.
        final_lr: where a cosine ends, as a fraction of ``lr``; None: the rate stays as it is.
        clip: bound on the norm of the gradient; None: there is none.
    """

    optimizer: str
    lr: float
    epochs: int
    steps: int
    final_lr: float | None = None
    clip: float | None = None


def fit(loop: Loop, model: nn.Module, recipe: Recipe) -> float:
    """Train, and wait for the last loss."""
    optimizer = OPTIMIZERS[recipe.optimizer](model.parameters(), lr=recipe.lr)
    scheduler = None
    if recipe.final_lr is not None:
        end = recipe.final_lr * recipe.lr
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps, eta_min=end)
    for _ in range(recipe.epochs):
        for inputs, targets in loop.batches():
            optimizer.zero_grad()
            loss = loop.loss(model(inputs), targets)
            loss.backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
    return loss.item()


def shuffled(inputs: Tensor, targets: Tensor, batch: int) -> Iterator[Batch]:
    for rows in torch.randperm(len(inputs), device=inputs.device).split(batch):
        yield inputs[rows], targets[rows]


# One function per problem, of the task whose rows it trains on.


def classes(task: Any) -> Loop:
    """mnist1d."""
    inputs, targets = task.splits["train"]
    return Loop(lambda: shuffled(inputs, targets, task.batch_size), F.cross_entropy)


def table(task: Any) -> Loop:
    """tabular_mlp: all rows in every batch, so that there is nothing to shuffle."""
    inputs, targets = task.splits["train"]
    return Loop(lambda: [(inputs, targets)], F.cross_entropy)


def linear(task: Any) -> Loop:
    """rahimi_recht."""
    inputs, targets = task.splits["train"]
    return Loop(
        lambda: shuffled(inputs, targets, task.batch_size),
        lambda outputs, targets: F.mse_loss(outputs, targets).sqrt(),
    )


def quadratic(task: Any) -> Loop:
    """quadratic_deep: whole batches only."""
    rows, _ = task.splits["train"]
    whole = len(rows) // task.batch_size * task.batch_size

    def batches() -> Iterator[Batch]:
        for chosen in torch.randperm(len(rows), device=rows.device)[:whole].split(task.batch_size):
            batch = rows[chosen]
            yield batch, batch

    def loss(theta: Tensor, targets: Tensor) -> Tensor:
        away = theta - targets
        return 0.5 * (away @ task.hessian * away).sum(dim=1).mean()

    return Loop(batches, loss)


def images(task: Any) -> Loop:
    """cifar_cnn: all images as numbers from 0 to 1, once."""
    inputs, targets = task.splits["train"]
    scaled = inputs.float() / 255
    return Loop(lambda: shuffled(scaled, targets, task.batch_size), F.cross_entropy)


def augmented_images(task: Any) -> Loop:
    """resnet18: random crops out of a black border, half of them mirrored (digits are not), normalised."""
    inputs, targets = task.splits["train"]
    device = inputs.device
    numbers = inputs.float() / 255
    mean, deviation = numbers.mean(dim=(0, 2, 3), keepdim=True), numbers.std(dim=(0, 2, 3), keepdim=True)
    size = inputs.shape[-1]
    padded = F.pad(inputs, (PAD, PAD, PAD, PAD))
    mirror = task.dataset != "digits"

    def batches() -> Iterator[Batch]:
        for rows in torch.randperm(len(inputs), device=device).split(task.batch_size):
            top, left = torch.randint(0, 2 * PAD + 1, (2, len(rows)), device=device)
            windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # a view
            crops = ((windows[rows, :, top, left].float() / 255) - mean) / deviation
            if mirror:
                mirrored = torch.rand(len(rows), 1, 1, 1, device=device) < 0.5
                crops = torch.where(mirrored, crops.flip(3), crops)
            yield crops, targets[rows]

    return Loop(batches, F.cross_entropy)


def text(task: Any) -> Loop:
    """transformer: windows of tokens, and the same one token later."""
    inputs, targets = task.splits["train"]
    return Loop(
        lambda: shuffled(inputs, targets, task.batch_size),
        lambda outputs, targets: F.cross_entropy(outputs.flatten(0, 1), targets.flatten()),
    )

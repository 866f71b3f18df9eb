"""The interface of a task, with what tasks of one input and one target tensor share."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
SPLITS = ("train", "val", "test")
SMALL_BYTES = 2**24
"""Training rows up to this size are put in an epoch's order all at once, not batch by batch."""


@dataclass(frozen=True)
class Data:
    """What a task loads: for each split the inputs and the targets, and where they come from.

    Attributes:
        name: the dataset, as a person would call it.
        splits: "train", "val" and "test", each ``(inputs, targets)`` with one row per example.
        source: where it comes from: a folder or file, a package, a generator.
    """

    name: str
    splits: Mapping[str, tuple[np.ndarray, np.ndarray]]
    source: str = "generated"

    def arrays(self) -> Iterable[np.ndarray]:
        """Everything that was loaded, each number once."""
        return (array for split in SPLITS for array in self.splits[split])

    def summary(self) -> dict[str, Any]:
        """Name, source, rows of each split, and size and sha256 of all arrays' bytes, for ``env.json``."""
        digest, size = hashlib.sha256(), 0
        for array in self.arrays():
            digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
            size += array.nbytes
        rows = {split: len(self.splits[split][0]) for split in SPLITS}
        return {"name": self.name, "source": self.source, "rows": rows, "bytes": size, "sha256": digest.hexdigest()}


class Task(ABC):
    """A training problem. A subclass says what the data, the network, the criterion and the metrics are.

    Args:
        metric: what a search ranks trials by: ``<split>_<name>``, say "val_loss".
        mode: "min" or "max".
        batch_size: rows of a training batch; the last batch of an epoch may be smaller.
        dataset: which of the task's datasets.
        target: the metric's value that counts as solved, if any.
    """

    worst: dict[str, float]
    """Per metric name (without split) the value that a diverged run gets. ``worst["loss"]`` is also the bound: a
    loss beyond it is divergence. ``load`` sets it, since it may depend on the data."""

    evaluation_rows = 4096
    """Rows per forward pass of an evaluation; bounds its memory, does not change its result."""

    def __init__(
        self, *, metric: str, mode: str, batch_size: int, dataset: str | None = None, target: float | None = None
    ) -> None:
        self.metric = metric
        self.mode = mode
        self.target = target
        self.batch_size = batch_size
        self.dataset = dataset

    # What a task must say.

    @abstractmethod
    def load(self, data_dir: Path | None) -> Data:
        """Read or generate the data.

        Raises:
            ValueError: the dataset is unknown or unusable, with a sentence that names it.
        """

    @abstractmethod
    def network(self) -> nn.Module:
        """A new network, initialised from PyTorch's global generator."""

    @abstractmethod
    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The training loss, 0-dim, of a batch's outputs."""

    # What a task may say.

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Any]:
        """The metrics of a whole split's outputs, "loss" among them: numbers, or tensors of one number.

        Tensors are read all at once, and those of many members of a stack are computed as one.
        """
        return {"loss": self.criterion(outputs, targets)}

    def prepare(self, inputs: Tensor) -> Tensor:
        """What the network is given, of rows as they are kept."""
        return inputs

    def on_device(self, data: Data) -> dict[str, Batch]:
        """The splits as tensors on the device."""
        return {
            split: (torch.from_numpy(x).to(self.device), torch.from_numpy(y).to(self.device))
            for split, (x, y) in data.splits.items()
        }

    # What the trainer uses.

    def setup(self, data_dir: Path | None, device: torch.device) -> None:
        """Load all data, once per worker, as tensors on the device."""
        data = self.load(data_dir)
        self.device = device
        self.data_summary = data.summary()
        self.splits = self.on_device(data)

    def shortened(self, rows: int) -> Self:
        """The same task with the first rows of each split, to look at quickly."""
        twin = copy.copy(self)
        twin.splits = {split: (inputs[:rows], targets[:rows]) for split, (inputs, targets) in self.splits.items()}
        return twin

    def build(self, seed: int) -> nn.Module:
        """The network on the device. Same seed, same weights, whatever the optimizer."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.network().to(self.device)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.splits["train"][0]) // self.batch_size)

    def order(self, seed: int, epoch: int) -> Tensor:
        """Numbers of the training rows, (rows,), in the order of the epoch's batches."""
        rows = len(self.splits["train"][0])
        return torch.randperm(rows, generator=epoch_generator(seed, epoch)).to(self.device)

    @property
    def batches_are_rows(self) -> bool:
        """Whether batches are the training rows in the epoch's order, which a subclass may change."""
        own = (getattr(getattr(self, name), "__func__", None) for name in ("batches", "prepare", "order"))
        return tuple(own) == (Task.batches, Task.prepare, Task.order)

    def batches(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The epoch's batches: every training row once, in an order that depends on seed and epoch alone."""
        inputs, targets = self.splits["train"]
        if len(inputs) <= self.batch_size:  # in one batch the order does not matter
            version = inputs._version
            yield self.prepare(inputs), targets
            if inputs._version != version:
                raise RuntimeError("the network changed its inputs in place, and they are the data itself")
            return
        order = self.order(seed, epoch)
        if inputs.nbytes + targets.nbytes <= SMALL_BYTES:
            inputs, targets = inputs.index_select(0, order), targets.index_select(0, order)
            for some, of_these in zip(inputs.split(self.batch_size), targets.split(self.batch_size), strict=True):
                yield self.prepare(some), of_these
            return
        for rows in order.split(self.batch_size):
            yield self.prepare(inputs[rows]), targets[rows]

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The batch's loss (0-dim, with its graph) and outputs."""
        inputs, targets = batch
        outputs = model(inputs)
        return self.criterion(outputs, targets), outputs

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """Metrics over the whole split, in eval mode; the model's mode is left as it was."""
        with evaluating(model):
            return read(self.score(model, split))

    def score(self, model: nn.Module, split: str) -> dict[str, Any]:
        """``metrics`` over the whole split, of a model in eval mode, piece by piece."""
        inputs, targets = self.splits[split]
        pieces = (model(self.prepare(rows)) for rows in inputs.split(self.evaluation_rows))
        return self.metrics(torch.cat(list(pieces)), targets)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it a model is in eval mode, and nothing is differentiated; its mode is then as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def read(metrics: Any) -> Any:
    """Metrics with floats in place of real tensors of one number, which are read all at once; all else as it is."""
    if not isinstance(metrics, Mapping):
        return metrics
    tensors = {name: value for name, value in metrics.items() if isinstance(value, Tensor) and is_number(value)}
    if not tensors:
        return metrics
    device = next(iter(tensors.values())).device
    values = [value.detach().reshape(()).to(device, torch.float64) for value in tensors.values()]
    return {**metrics, **dict(zip(tensors, torch.stack(values).tolist(), strict=True))}


def is_number(tensor: Tensor) -> bool:
    return tensor.numel() == 1 and not tensor.is_complex()


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The random stream, on the CPU, that all of an epoch's draws come from."""
    digest = hashlib.blake2b(f"{seed} {epoch}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


def check_sizes(**sizes: object) -> None:
    """
    Raises:
        ValueError: one of them is not a whole number of at least 1.
    """
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {size!r}")

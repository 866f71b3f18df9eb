"""A stack's batches: of each member, that of its seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.base import Task
from tuner.training.loop import all_batches

GATHERED_BYTES = 2**22
"""Several steps' rows of all members are looked up at once, up to this size."""
Seeds = Callable[[], Sequence[int]]
"""Those of the members that are in the stack now; it may have become smaller since the last batch."""


class StackBatch(NamedTuple):
    """A batch for each member of a stack.

    Attributes:
        tensors: with the members as first dimension; or, if shared, those of one batch for all.
    """

    tensors: tuple[Tensor, ...]
    shared: bool


def stack_batches(task: Task, seeds: Seeds, epochs: int, done: int = 0) -> Iterator[StackBatch]:
    """The batches of all epochs but for the first ``done``. Members of the same seed see the same rows.

    Raises:
        ValueError: the task yields one tensor, and changes it, for the batches of several seeds.
    """
    different = list(dict.fromkeys(seeds()))
    if len(different) == 1 or (task.batches_are_rows and task.steps_per_epoch == 1):  # its order does not matter
        batches = all_batches(task, different[0], epochs, done)
        yield from (StackBatch(tuple(batch), shared=True) for batch in batches)
    elif task.batches_are_rows:
        first, skipped = divmod(done, task.steps_per_epoch)
        for epoch in range(first, epochs):
            yield from _looked_up(task, seeds, epoch, skipped if epoch == first else 0)
    else:
        yield from _stacked(task, seeds, epochs, done)


def _looked_up(task: Task, seeds: Seeds, epoch: int, skipped: int) -> Iterator[StackBatch]:
    """An epoch of rows as they are, of several steps at once."""
    inputs, targets = task.splits["train"]
    size, begin = task.batch_size, skipped * task.batch_size
    orders = {seed: task.order(seed, epoch) for seed in dict.fromkeys(seeds())}
    row_bytes = (inputs.nbytes + targets.nbytes) // len(inputs)
    while begin < len(inputs):
        members = list(seeds())
        at_once = max(1, GATHERED_BYTES // max(1, row_bytes * size * len(members)))
        steps = max(1, min(at_once, (len(inputs) - begin) // size))
        rows = torch.stack([orders[seed][begin : begin + steps * size] for seed in members])
        rows = rows.unflatten(1, (steps, -1)).transpose(0, 1)
        looked_up = (split.index_select(0, rows.flatten()).unflatten(0, rows.shape) for split in (inputs, targets))
        for tensors in zip(*(each.unbind() for each in looked_up), strict=True):
            yield StackBatch(tensors, shared=False)
            begin += size
            if len(seeds()) != len(members):
                break


def _stacked(task: Task, seeds: Seeds, epochs: int, done: int) -> Iterator[StackBatch]:
    """What a task makes of its rows for each seed."""
    different = list(dict.fromkeys(seeds()))
    each = [_with_versions(all_batches(task, seed, epochs, done)) for seed in different]
    for drawn in zip(*each, strict=True):
        if any(tensor._version != version for batch in drawn for tensor, version in batch):
            raise ValueError("the task yields one tensor for the batches of several seeds")
        batches = ([tensor for tensor, _ in drawn[different.index(seed)]] for seed in seeds())
        yield StackBatch(tuple(map(torch.stack, zip(*batches, strict=True))), shared=False)


def _with_versions(batches: Iterator[tuple[Tensor, ...]]) -> Iterator[list[tuple[Tensor, int]]]:
    """With how often each tensor had been changed in place."""
    return ([(tensor, tensor._version) for tensor in batch] for batch in batches)

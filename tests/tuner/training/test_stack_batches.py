"""A stack's batches are what each member's own run would be given."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.regression import STEPS_PER_EPOCH, Noting
from tuner.training import stack_batches as subject
from tuner.training.loop import all_batches
from tuner.training.stack_batches import StackBatch, stack_batches

EPOCHS = 3
SEEDS = [4, 7, 4, 9]
OF_BATCHES = {"whole": 8, "with a smaller last one": 12, "one": 40}
STEP_BYTES = len(SEEDS) * 8 * (4 + 2) * 4


class Doubled(Noting):
    def prepare(self, inputs: Tensor) -> Tensor:
        return 2 * inputs


class Mirrored(Noting):
    def batches(self, seed: int, epoch: int) -> Iterator[Any]:
        return ((-inputs, targets) for inputs, targets in super().batches(seed, epoch))


class InTheirOrder(Noting):
    def order(self, seed: int, epoch: int) -> Tensor:
        return torch.arange(40).roll(seed + epoch)


def check(given: Iterator[StackBatch], task: Noting, seeds: list[int], epochs: int, done: int = 0) -> None:
    """Each member's part against the batches of its seed."""
    own = [all_batches(task, seed, epochs, done) for seed in seeds]
    steps = 0
    for batch, *each in zip(given, *own, strict=True):
        for row, tensors in enumerate(each):
            for stacked, expected in zip(batch.tensors, tensors, strict=True):
                assert torch.equal(stacked if batch.shared else stacked[row], expected)
        steps += 1
    assert steps == epochs * task.steps_per_epoch - done


@pytest.mark.parametrize("at_once", [1, 2 * STEP_BYTES, 2**30], ids=["each", "two", "all"])
@pytest.mark.parametrize("rows", OF_BATCHES)
@pytest.mark.parametrize("task", [Noting, Doubled, Mirrored, InTheirOrder])
def test_each_member_has_its_seeds_batches(
    task: type[Noting], rows: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "GATHERED_BYTES", at_once)
    own = task()
    own.batch_size = OF_BATCHES[rows]
    check(stack_batches(own, lambda: SEEDS, EPOCHS), own, SEEDS, EPOCHS)


@pytest.mark.parametrize("done", [1, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH + 3])
def test_they_go_on_where_a_run_was_saved(done: int) -> None:
    task = Noting()
    check(stack_batches(task, lambda: SEEDS, EPOCHS, done), task, SEEDS, EPOCHS, done)


@pytest.mark.parametrize("task", [Noting, Mirrored])
def test_a_smaller_stack_has_those_of_who_is_left(task: type[Noting]) -> None:
    own, left = task(), list(SEEDS)
    given = stack_batches(own, lambda: left, EPOCHS)
    for _ in range(7):
        next(given)
    left[:] = [7, 9]
    check(given, own, left, EPOCHS, done=7)


def test_one_seed_has_one_batch_for_all() -> None:
    task = Noting()
    assert all(batch.shared for batch in stack_batches(task, lambda: [3, 3], 1))
    check(stack_batches(task, lambda: [3, 3], EPOCHS), task, [3, 3], EPOCHS)


def test_a_task_that_yields_one_tensor_for_several_seeds_is_refused() -> None:
    class Filled(Noting):
        def batches(self, seed: int, epoch: int) -> Iterator[Any]:
            for inputs, targets in super().batches(seed, epoch):
                yield self.place.copy_(inputs), targets

    task = Filled()
    task.place = torch.empty(8, 4)
    with pytest.raises(ValueError, match="one tensor for the batches of several seeds"):
        list(itertools.islice(stack_batches(task, lambda: SEEDS, 1), 2))

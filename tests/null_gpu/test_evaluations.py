"""Evaluations on a GPU: how many kernels they launch, and how often they wait for the device."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.null_gpu.counting import Counted, counting
from tests.null_gpu.runs import run_of
from tuner.training.engine import Engine
from tuner.training.loop import Lockstep

TASKS = (
    "anes96", "cifar_cnn", "char_model", "co2", "diabetes", "digits_autoencoder", "digits_vae", "image_fit",
    "matrix_factorisation", "mnist1d", "poisson_pinn", "quadratic_deep", "rahimi_recht", "randhie", "tabular_mlp",
    "transformer",
)  # fmt: skip
SPLITS = ("train", "val")


def evaluation(run: Lockstep) -> Counted:
    """One after some steps and an evaluation."""
    for batch in islice(run.batches(2), 2):
        run.step(batch)
        run.steps += 1
    run.evaluate(SPLITS)
    with counting() as counted:
        run.evaluate(SPLITS)
    return counted


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("deterministic", [False, True])
def test_an_evaluation_of_a_run_waits_once_a_split(task: str, deterministic: bool) -> None:
    counted = evaluation(run_of(task, "adam", {}, Engine(deterministic=deterministic, capture="off")))
    assert counted.synchronisations == len(SPLITS), counted.waits


@pytest.mark.parametrize("seeds", [1, 32])
def test_an_evaluation_of_a_stack_is_a_handful_of_launches_and_one_wait(seeds: int) -> None:
    alone = evaluation(run_of("mnist1d", "adam", {}, Engine(capture="off")))
    stacked = evaluation(run_of("mnist1d", "adam", {}, Engine(capture="off"), members=32, seeds=seeds))
    assert stacked.synchronisations == 1, stacked.waits
    assert stacked.launches < 2 * alone.launches < 150
    curved = evaluation(run_of("mnist1d", "sophia", {}, Engine(capture="off"), members=32, seeds=seeds))
    assert curved.synchronisations == 2, curved.waits  # metrics, and what optimizers say of themselves


def test_a_step_with_a_retired_member_copies_nothing_from_the_host() -> None:
    stack = run_of("mnist1d", "adam", {}, Engine(capture="off"), members=32)
    batches = stack.batches(1)
    stack.retire({3: "diverged"})
    for batch in islice(batches, 4):
        assert stack.step(batch).shape == (31,)
    with counting() as counted:
        stack.step(next(batches))
    assert (counted.to_device, counted.synchronisations) == (0, 0), counted.waits

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
    counted = evaluation(run_of(task, "adam", {}, Engine(deterministic=deterministic)))
    assert counted.synchronisations == len(SPLITS), counted.waits

"""Steps on a GPU: how many kernels each launches, and that none waits for the device."""

from __future__ import annotations

import itertools

import pytest

from tests.null_gpu.counting import counting
from tests.null_gpu.runs import EPOCHS, Steps, run_of, steps_of
from tuner.training.captures import UNSETTLED_RUN, UNSETTLED_STACK
from tuner.training.engine import Engine

PERIOD = 10
TF32 = ("cifar_cnn", "resnet18")
CEILINGS = {  # (task, optimizer, estimator) -> launches of a plain step and of a refresh, as counted
    ("mnist1d", "adam", None): (22, 22),
    ("mnist1d", "sophia", "hutchinson"): (23, 59),
    ("mnist1d", "sophia", "gnb"): (23, 52),
    ("mnist1d", "sophia", "ggn_mc"): (23, 61),
    ("mnist1d", "sophia", "ggn_exact"): (23, 66),
    ("mnist1d", "diag_hessian", "hutchinson"): (38, 73),
    ("mnist1d", "adahessian", "hutchinson"): (24, 68),
    ("mnist1d", "sadh", "hutchinson"): (23, 60),
    ("mnist1d", "ssdh", "hutchinson"): (24, 61),
    ("mnist1d", "ssvp", "hvp"): (24, 61),
    ("mnist1d", "hessian_lr_adaptation", None): (29, 29),
    ("mnist1d", "nadamw", None): (34, 34),
    ("cifar_cnn", "adam", None): (119, 119),
    ("cifar_cnn", "sophia", "hutchinson"): (120, 430),
    ("cifar_cnn", "sophia", "gnb"): (120, 198),
    ("cifar_cnn", "sophia", "ggn_mc"): (120, 364),
    ("cifar_cnn", "diag_hessian", "hutchinson"): (137, 446),
    ("cifar_cnn", "diag_hessian", "gnb"): (137, 214),
    ("cifar_cnn", "hessian_lr_adaptation", None): (126, 126),
    ("resnet18", "sophia", "ggn_mc"): (189, 747),
    ("resnet18", "adahessian", "hutchinson"): (190, 814),
    ("resnet18", "diag_hessian", "gnb"): (206, 316),
    ("transformer", "sophia", "hutchinson"): (267, 1043),
    ("transformer", "sophia", "gnb"): (267, 470),
    ("transformer", "diag_hessian", "gnb"): (284, 486),
}

CAPTURED = 1.1
"""Times Adam's launches, captured steps of any rule here launch at an update_period of ``PERIOD``."""

STACKED = {"gnb": 127, "ggn_mc": 138, "ggn_exact": 144}
"""Launches of a refresh of a stack of 32 on mnist1d; with each member seen apart, those of ggn_mc were 1,657."""


def counted(task: str, optimizer: str, estimator: str | None, engine: Engine | None = None) -> Steps:
    arguments = {"estimator": estimator, "update_period": PERIOD} if estimator else {}
    engine = engine or Engine(precision="tf32" if task in TF32 else "fp32", capture="off")
    return steps_of(task, optimizer, arguments, engine, warm=1 if estimator else 2)


@pytest.mark.parametrize(("task", "optimizer", "estimator"), CEILINGS, ids=str)
def test_no_step_launches_more_than_it_did_or_waits(task: str, optimizer: str, estimator: str | None) -> None:
    steps = counted(task, optimizer, estimator)
    plain, refresh = CEILINGS[task, optimizer, estimator]
    assert steps.plain.launches <= plain and steps.refresh.launches <= refresh
    assert (steps.plain.synchronisations, steps.refresh.synchronisations) == (0, 0), steps.refresh.waits


@pytest.mark.parametrize("task", ["cifar_cnn", "resnet18", "transformer"])
def test_captured_steps_with_curvature_launch_no_more_than_those_of_adam(task: str) -> None:
    engine = Engine(precision="tf32" if task in TF32 else "fp32")
    adam = steps_of(task, "adam", engine=engine, warm=UNSETTLED_RUN).plain
    for optimizer, estimator in itertools.product(("sophia", "diag_hessian"), ("gnb", "hutchinson")):
        arguments = {"estimator": estimator, "update_period": 2}
        steps = steps_of(task, optimizer, arguments, engine, warm=UNSETTLED_RUN)
        mean = (steps.refresh.launches + (PERIOD - 1) * steps.plain.launches) / PERIOD
        assert mean <= CAPTURED * adam.launches, (optimizer, estimator)
    adapted = steps_of(task, "hessian_lr_adaptation", engine=engine, warm=UNSETTLED_RUN).plain
    assert adapted.launches <= CAPTURED * adam.launches


@pytest.mark.parametrize(("optimizer", "most"), [("adam", 9), ("diag_hessian", 7)])
def test_a_captured_stack_launches_at_most_half_as_much_again_as_a_captured_run(optimizer: str, most: float) -> None:
    """One whose rule is elementwise, and one whose is not: six launches are a run's."""
    arguments = {} if optimizer == "adam" else {"estimator": "hutchinson", "update_period": PERIOD}
    engine = Engine(precision="fp32")
    steps = steps_of("mnist1d", optimizer, arguments, engine, members=32, warm=UNSETTLED_STACK)
    assert steps.mean_launches <= most


@pytest.mark.parametrize("estimator", STACKED)
def test_a_refresh_of_a_stack_launches_as_much_for_all_members_as_for_few(estimator: str) -> None:
    arguments = {"estimator": estimator, "update_period": PERIOD}
    steps = steps_of("mnist1d", "sophia", arguments, members=32, seeds=4, warm=2)
    assert steps.refresh.launches <= STACKED[estimator] and steps.refresh.synchronisations == 0, steps.refresh.waits


def test_clipping_takes_a_few_launches_for_all_tensors() -> None:
    """Of the 34 of this network, where one by one it took two for each."""
    free, clipped = (
        counted("cifar_cnn", "sophia", "gnb", Engine(clip_grad_norm=bound, capture="off")) for bound in (None, 1.0)
    )
    assert clipped.plain.launches <= free.plain.launches + 11
    assert clipped.refresh.launches <= free.refresh.launches + 11


def test_a_resumed_run_launches_as_many_as_before() -> None:
    """Its parameters share a step count again."""
    engine = Engine(capture="off")
    first, second = (run_of("mnist1d", "adahessian", {"update_period": PERIOD}, engine) for _ in range(2))
    batches = itertools.islice(first.batches(EPOCHS), 6)
    for batch in itertools.islice(batches, 3):
        first.step(batch)
    with counting() as before:
        first.step(next(batches))
    second.restore_own(first.own_state())
    second.step(next(batches))
    with counting() as after:
        second.step(next(batches))
    assert after.launches == before.launches

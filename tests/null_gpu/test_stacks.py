"""Stacks on a GPU: launches that do not grow with the members, no waits, and recordings that hold no memory."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.null_gpu.runs import EPOCHS, run_of, steps_of
from tuner.training.engine import Engine

PEAK = 1.3
"""Times the memory of a replayed refresh that one may take while it is recorded."""


@pytest.mark.parametrize("name", ["adam", "sophia", "rmsprop", "schedule_free"])
def test_launches_are_as_many_for_few_members_as_for_many_and_no_step_waits(name: str) -> None:
    if name == "schedule_free":
        pytest.importorskip("pytorch_optimizer")
    few, many = (steps_of("mnist1d", name, members=members, warm=33) for members in (4, 32))
    assert few.plain.launches == many.plain.launches
    assert (many.plain.synchronisations, many.refresh.synchronisations) == (0, 0)


@pytest.mark.parametrize(("task", "members"), [("mnist1d", 32), ("cifar_cnn", 4)])
def test_an_elementwise_rule_is_one_call_for_all_tensors(task: str, members: int) -> None:
    """Some 18 launches for Adam, however many tensors there are; before there were 99 and 746 in a step."""
    engine = Engine(precision="tf32", capture="off")
    stacked = steps_of(task, "adam", engine=engine, members=members)
    plain = steps_of(task, "sgd", engine=engine, members=members)
    assert stacked.plain.launches - plain.plain.launches <= 18
    assert stacked.plain.launches <= {"mnist1d": 50, "cifar_cnn": 222}[task]


@pytest.mark.parametrize("name", ["adam", "sgd", "sgdm"])
def test_a_captured_stack_is_a_handful_of_launches_with_state_or_without(name: str) -> None:
    steps = steps_of("mnist1d", name, engine=Engine(capture="auto"), members=32, warm=12)
    assert (steps.plain.graphs, steps.plain.launches <= 14) == (2, True)


def test_a_refresh_of_gnb_is_of_the_whole_stack() -> None:
    few, many = (steps_of("mnist1d", "sophia", {"estimator": "gnb"}, members=members) for members in (4, 32))
    assert few.refresh.launches == many.refresh.launches <= 127


def test_what_is_recorded_takes_little_more_memory_than_what_is_replayed() -> None:
    engine, peaks = Engine(capture="off"), []
    with engine.settings():
        run = run_of("cifar_cnn", "sophia", {"estimator": "hutchinson", "update_period": 1}, engine, members=4)
        for batch in itertools.islice(run.batches(EPOCHS), 6):  # as it is, recorded, compared, replayed
            torch.cuda.reset_peak_memory_stats()
            run.step(batch)
            peaks.append(torch.cuda.max_memory_allocated())
    assert max(peaks) <= PEAK * peaks[-1]

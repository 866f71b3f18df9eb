"""Whether an optimizer's runs train as one stack, and as what, is found by trying on a few steps."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from optimizers.stacking.joined import OwnGradientsError
from optimizers.stacking.per_member import BeginAgainError, PerMemberOptimizer
from optimizers.stacking.random_state import OtherStreamsError
from optimizers.stacking.twin import STEPS, RoundingDecidesError
from tasks.base import Task
from tuner.training.engine import Engine
from tuner.training.isolation import ChangedProcessError
from tuner.training.single import MakeOptimizer
from tuner.training.stack import Member, Stack, stacks

Found = TypeVar("Found")
KNOWN = (OwnGradientsError, OtherStreamsError, RoundingDecidesError, ChangedProcessError)
MOST_TRIES = 5
"""So often may a stack find out that its members must step in another way."""
STEPS_OF_A_RULE = 2
"""Of a pure rule nothing is to be found out but whether the network can be stacked."""
LONGEST_S = 2.0
"""Steps that take longer are few."""
OTHER = 0.9
"""The second member's numbers are so many times the first one's."""


class Tried(NamedTuple):
    """What came of it, for a person.

    Attributes:
        alone: why runs train one at a time; empty where they are stacked.
        note: what is to be known of the stack, if anything.
    """

    alone: str
    note: str


def tried(task: Task, make_optimizer: MakeOptimizer, hp: Mapping[str, Any], engine: Engine) -> Tried:
    """Train two members for some steps.

    Args:
        hp: the first member's; the second one has other numbers.

    Raises:
        Exception: whatever a stack fails with, an operation without a batching rule, say.
    """
    members = [Member(dict(hp), 0), Member(_other(make_optimizer, task, hp), 1)]
    if len(stacks(task, make_optimizer, members, engine)) > 1:
        return Tried(_without_trying(engine), "")
    try:
        return Tried("", settled(lambda: _note_of_steps(Stack(task, make_optimizer, members, engine, epochs=STEPS))))
    except BeginAgainError:
        return Tried("it steps in another way each time", "")
    except KNOWN as error:
        return Tried(str(error), "")


def settled(act: Callable[[], Found]) -> Found:
    """What ``act`` on a stack returns, begun again where it was found out how the stack's members must step.

    Raises:
        BeginAgainError: too often.
    """
    for _ in range(MOST_TRIES):
        with suppress(BeginAgainError):
            return act()
    return act()


def _note_of_steps(stack: Stack) -> str:
    """What is to be known of a stack after some steps."""
    began = time.monotonic()
    steps = STEPS + 1 if isinstance(stack.optimizer, PerMemberOptimizer) else STEPS_OF_A_RULE
    for batch in itertools.islice(stack.batches(STEPS), steps):
        stack.step(batch)
        if time.monotonic() - began > LONGEST_S:
            break
    return stack.note


def _without_trying(engine: Engine) -> str:
    if engine.compile or engine.channels_last:
        return "train.compile and train.channels_last are for runs one at a time"
    return "it steps other tensors than the network's parameters, or takes its gradients in a way of its own"


def _other(make_optimizer: MakeOptimizer, task: Task, hp: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters with other numbers, where an optimizer can be made with them."""
    other = {name: OTHER * value if isinstance(value, float) else value for name, value in hp.items()}
    try:
        make_optimizer(list(task.build(0).parameters()), other)
    except Exception:
        return dict(hp)
    return other

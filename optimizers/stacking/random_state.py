"""PyTorch's global random streams are read and set: a member of a stack has its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

RandomState = dict[str, Tensor]
"""Of the generators of the CPU and, where that is the device, of the GPU."""
DRAWING: set[Hashable] = set()
"""Keys of optimizers that draw from these streams: for the next stacks."""


class OtherStreamsError(RuntimeError):
    """Members draw from random streams that they would share."""


class DrawsError(RuntimeError):
    """Members drew from PyTorch's stream that they shared."""


OTHER_STREAMS = "it draws from Python's or NumPy's random numbers, which members would share"


def random_state(device: torch.device) -> RandomState:
    """Of PyTorch's global generators, which dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: RandomState, device: torch.device) -> None:
    """Go on from there."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


class MemberStreams:
    """The random streams that the members' optimizers draw from, if they do.

    Args:
        states: each member's once its optimizer was made.
        key: of the optimizers.
    """

    def __init__(self, states: Sequence[RandomState], device: torch.device, key: Hashable) -> None:
        self.states = list(states)
        self.drawing: bool | None = True if key in DRAWING else None
        self._device = device
        self._key = key

    def step_each(self, step: Callable[[int], None]) -> None:
        """Call ``step`` with each row, within its member's stream unless none has drawn from it at the first step.

        Raises:
            OtherStreamsError: it draws from Python's or NumPy's random numbers.
            DrawsError: it draws from PyTorch's as it did not before.
        """
        before = random_state(self._device)
        if self.drawing is False:
            for row in range(len(self.states)):
                step(row)
            if not _same(before, random_state(self._device)):
                DRAWING.add(self._key)
                raise DrawsError("it draws random numbers")
            return
        others, drawn = other_states(), False
        for row, state in enumerate(self.states):
            set_random_state(state, self._device)
            step(row)
            self.states[row] = random_state(self._device)
            drawn = drawn or not _same(state, self.states[row])
        set_random_state(before, self._device)
        if other_states() != others:
            raise OtherStreamsError(OTHER_STREAMS)
        if drawn:
            DRAWING.add(self._key)
        self.drawing = self.drawing or drawn

    def run(self, row: int, act: Callable[[], None]) -> None:
        """Call ``act`` within a member's stream, which stays where it is."""
        before = random_state(self._device)
        set_random_state(self.states[row], self._device)
        act()
        set_random_state(before, self._device)


@contextmanager
def without_draws(device: torch.device) -> Iterator[None]:
    """Within it nothing may draw from a global stream; PyTorch's are put back.

    Raises:
        OtherStreamsError: Python's or NumPy's random numbers were drawn.
        DrawsError: PyTorch's were.
    """
    before, others = random_state(device), other_states()
    yield
    after = random_state(device)
    set_random_state(before, device)
    if other_states() != others:
        raise OtherStreamsError(OTHER_STREAMS)
    if not _same(before, after):
        raise DrawsError("it draws random numbers")


def _same(one: RandomState, other: RandomState) -> bool:
    """Whether nothing was drawn between the two."""
    return all(torch.equal(one[name], other[name]) for name in one)


def other_states() -> tuple[object, bytes]:
    """Of Python's and NumPy's random streams."""
    return random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[index]

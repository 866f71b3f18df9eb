"""A CUDA graph of PyTorch's, beside what its capture needs before and leaves behind where it fails."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimizers.stacking.replay import Results

SYNCHRONISES = "called a synchronizing CUDA operation"
"""Of PyTorch's warning."""
LAZY = torch.__version__ >= (2, 14)
"""Whether PyTorch sees by itself what is drawn from, and ends a capture that failed."""


class Held(NamedTuple):
    """What a function uses beside its inputs.

    Attributes:
        tensors: that it reads where they are.
        changed: those that it changes in place.
        generators: that it draws from, beside the device's own.
    """

    tensors: Sequence[Tensor]
    changed: Sequence[Tensor] = ()
    generators: Sequence[torch.Generator] = ()


@torch.no_grad()
def bring_to_places(values: Sequence[Tensor | None], places: Sequence[Tensor]) -> None:
    """Copy values to where a graph has them, of which some may be views of others' places or of another's."""
    own = {place.untyped_storage().data_ptr() for place in places}
    moved = [(v, place) for v, place in zip(values, places, strict=True) if v is not None and v is not place]
    if not moved:  # a rule without state, or one that wrote over the old
        return
    apart = [value.clone() if value.untyped_storage().data_ptr() in own else value for value, _ in moved]
    torch._foreach_copy_([place for _, place in moved], apart)


class CudaGraph:
    """What is done once in ``capture``, and again by ``replay``.

    Args:
        pool: of memory, shared with graphs that are replayed one after the other.
    """

    def __init__(self, device: torch.device, pool: Any, held: Held) -> None:
        self._device = device
        self._pool = pool
        self._generators = [*held.generators, torch.cuda.default_generators[torch.cuda._get_device_index(device, True)]]
        self._graph = torch.cuda.CUDAGraph()
        if not LAZY:
            for generator in held.generators:
                self._graph.register_generator_state(generator)

    def capture(self, run: Callable[[], Results]) -> Results:
        """What ``run`` returns, whose entries are known after ``replay``."""
        states = [generator.get_state() for generator in self._generators]
        try:
            # PyTorch's own context stays on its stream where the end of a capture fails.
            with (
                begin_aside(self._device),
                torch.cuda.graph(self._graph, self._pool, aside(self._device), capture_error_mode="thread_local"),
            ):
                return run()
        except Exception:
            if not LAZY:
                self._end(states)
            raise

    def replay(self) -> None:
        """Do again what was done to capture, with what is now in the places that it reads."""
        self._graph.replay()

    def _end(self, states: Sequence[Tensor]) -> None:
        """Where the device refuses to end a capture, memory and random streams of PyTorch remain in it."""
        with suppress(Exception):
            torch._C._cuda_endAllocateToPool(torch.cuda._get_device_index(self._device, True), self._pool)
        for generator, state in zip(self._generators, states, strict=True):
            fresh = torch.Generator(self._device)
            fresh.set_state(state)
            generator.graphsafe_set_state(fresh.graphsafe_get_state())


@cache
def aside(device: torch.device) -> torch.cuda.Stream:
    """The stream on which functions are captured, and run before: what libraries keep for a stream is there then."""
    return torch.cuda.Stream(device)


@contextmanager
def begin_aside(device: torch.device) -> Iterator[None]:
    """On a GPU, what is done within is done on another stream, after what was asked for before, and before what is
    asked for later."""
    if device.type != "cuda":
        yield
        return
    stream, present = aside(device), torch.cuda.current_stream(device)
    stream.wait_stream(present)
    with torch.cuda.stream(stream):
        yield
    present.wait_stream(stream)


def release_cached() -> None:
    """Give back the memory that functions took beside a graph of theirs, which has its own."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def synchronisations(device: torch.device) -> Iterator[list[str]]:
    """The list has, after the block, a line for each time that the host waited for the GPU in it."""
    found: list[str] = []
    if device.type != "cuda":
        yield found
        return
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        raised.clear()  # that the mode is a prototype
        try:
            yield found
        finally:
            others = [warning for warning in raised if SYNCHRONISES not in str(warning.message)]
            found.extend(str(warning.message) for warning in raised if warning not in others)
            torch.cuda.set_sync_debug_mode(mode)
    for warning in others:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)

"""A function of tensors is captured on a GPU as a CUDA graph: its launches, a hundred or more, become one.

What a graph reads and writes are places in memory. What comes in is copied there, what comes out is copied from there,
so that whoever keeps a result over a step keeps it. Tensors that stay where they are, parameters and buffers, are used
in place.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from optimizers.stacking.cuda_graph import CudaGraph, Held, begin_aside, release_cached, synchronisations
from optimizers.stacking.flat import ALIGNED
from optimizers.stacking.random_state import other_states
from optimizers.stacking.recording import Flat
from optimizers.stacking.replay import ChangedError, Results, all_alike, largest

WARM = 2
"""Calls before a capture: the first makes what libraries make once, the second is watched for what cannot be in it."""
COMPARED = 2
"""Replays in a row that are compared: the second finds random numbers that are the same each time."""
MOST_GRAPHS = 16
"""Functions and shapes of batches, of one run or stack, of which there is a graph each."""
WAITS = "an operation waits for the device or copies from the host"
DRAWS_ON_HOST = "random numbers are drawn on the host"
SPARSE = "a gradient is sparse"
DIFFERS = "what is captured comes to something else"
MOVES = "parameters or buffers do not stay where they are"


class Graph(Protocol):
    """A graph, as ``CudaGraph`` is one."""

    def capture(self, run: Callable[[], Results]) -> Results:
        """What ``run`` returns, whose entries are known after ``replay``."""

    def replay(self) -> None:
        """Do again what was done to capture, with what is now in the places that it reads."""


MakeGraph = Callable[[torch.device, Any, Held], Graph]
"""Of the device, a pool of memory, and what is used beside inputs."""


class Captures:
    """The captured functions of one run or stack on a GPU, whose graphs share their memory.

    Args:
        who: whose they are, for a person to read.
        why_not: why functions of a name are not captured: found out here, and heeded in the runs to come.
        graph: makes a graph.
    """

    def __init__(
        self,
        who: str,
        device: torch.device,
        why_not: MutableMapping[str, str],
        graph: MakeGraph = CudaGraph,
    ) -> None:
        self._device = device
        self._pool: Any = None
        self._who = who
        self._why_not = why_not
        self._graph = graph
        self._captured: dict[tuple[str, Hashable], Captured] = {}
        self._moved: set[str] = set()
        self._said: set[str] = set()

    def allows(self, name: str) -> bool:
        """Whether functions of this name are captured, or may be."""
        return name not in self._why_not and name not in self._moved

    def give_up(self, name: str, why: str) -> None:
        """Capture no more functions of this name, which a warning says once."""
        if self.allows(name):
            if why == MOVES:  # which is the optimizer's doing, not the network's
                self._moved.add(name)
            else:
                self._why_not[name] = why
            self._warn(name, f"no CUDA graph, since {why}")
        self.forget(name)

    def forget(self, name: str) -> None:
        """Let go of the graphs of functions of this name: what they use lies elsewhere now."""
        for key in [key for key in self._captured if key[0] == name]:
            del self._captured[key]

    def call(self, name: str, key: Hashable, function: Flat, inputs: Sequence[Tensor], held: Held) -> Results:
        """What ``function`` returns of ``inputs``, by its graph once there is one. The results are the caller's.

        Args:
            name: what it is, for a person to read.
            key: tells functions and shapes of inputs apart.
            held: the same objects at each call.

        Raises:
            ChangedError: the function no longer does what was captured of it.
        """
        if not self.allows(name):
            return function(*inputs)
        captured = self._captured.get((name, key))
        if captured is None:
            if len(self._captured) >= MOST_GRAPHS:
                self._warn(name, f"shapes of batches beyond the first {MOST_GRAPHS} have no CUDA graph")
                return function(*inputs)
            if self._pool is None and self._device.type == "cuda":
                self._pool = torch.cuda.graph_pool_handle()
            captured = self._captured[name, key] = Captured(partial(self._graph, self._device, self._pool))
        try:
            results = captured(function, inputs, held)
        except ChangedError as error:
            self.give_up(name, str(error))
            raise
        if captured.why_not:
            self.give_up(name, captured.why_not)
        if results is not None:
            return results
        # What a capture that failed took is given back with its pool, of which the other functions' graphs are, too.
        del captured
        self.clear()
        release_cached()
        return function(*inputs)

    def _warn(self, name: str, what: str) -> None:
        line = f"train.capture: {name} of {self._who}: {what}"
        if line not in self._said:
            self._said.add(line)
            warnings.warn(line, stacklevel=3)

    def recheck_next_replays(self) -> None:
        """Compare the next replay of each graph with the function itself."""
        for captured in self._captured.values():
            captured.recheck_next_replay()

    def clear(self) -> None:
        """Let go of all graphs and their memory: what they use will lie elsewhere."""
        self._captured.clear()
        self._pool = None


class Captured:
    """A function of tensors of one kind, called as it is at first, then captured, compared and replayed.

    Args:
        graph: makes a graph.

    Attributes:
        why_not: why it cannot be captured, once that is known.
    """

    def __init__(self, graph: Callable[[Held], Graph]) -> None:
        self.why_not = ""
        self._new_graph = graph
        self._graph: Graph | None = None
        self._calls = 0
        self._to_compare = COMPARED
        self._sound = False

    def __call__(self, function: Flat, inputs: Sequence[Tensor], held: Held) -> Results | None:
        """What ``function`` returns; ``None`` where it was not called, since it cannot be captured."""
        if self._calls < WARM:
            self._calls += 1
            return self._watched(function, inputs) if self._calls == WARM else _aside(function, inputs)
        addresses = [tensor.data_ptr() for tensor in held.tensors]
        if self._graph is None:
            self._at = addresses
            self._capture(function, inputs, held)
        elif addresses != self._at:
            self.why_not = MOVES
        if self.why_not:
            return None
        return self._compared(function, inputs, held) if self._to_compare else self._replay(inputs)

    def recheck_next_replay(self) -> None:
        """Compare the next replay with the function itself, if it is not going to be anyway."""
        self._to_compare = max(1, self._to_compare)

    def _watched(self, function: Flat, inputs: Sequence[Tensor]) -> Results:
        """As it is; notes what cannot be captured."""
        before = torch.get_rng_state(), other_states()
        with synchronisations(inputs[0].device) as waits:
            results = _aside(function, inputs)
        if waits or any(x.device != inputs[0].device for x in inputs):
            self.why_not = WAITS
        elif not torch.equal(before[0], torch.get_rng_state()) or before[1] != other_states():
            self.why_not = DRAWS_ON_HOST
        elif any(result is not None and result.layout != torch.strided for result in results):
            self.why_not = SPARSE
        return results

    def _capture(self, function: Flat, inputs: Sequence[Tensor], held: Held) -> None:
        drawn = _drawn(held)
        try:
            own = [_once_each(x).clone(memory_format=torch.preserve_format) for x in inputs]
            self._copied = list(_by_type(own).values())
            given = [copy.expand(x.shape) for copy, x in zip(own, inputs, strict=True)]
            graph = self._new_graph(held)
            self._results = list(graph.capture(lambda: function(*given)))
            self._laid = Laid([result for result in self._results if result is not None])
        except Exception as error:  # for want of memory, or of an operation that a graph may not have
            self.why_not = _first_line(error.__context__ or error)  # to end such a capture fails in turn
            return
        _draw_from(drawn, held)
        self._graph = graph

    def _replay(self, inputs: Sequence[Tensor]) -> Results:
        assert self._graph is not None
        with torch.no_grad():
            for places, of_type in self._copied:
                torch._foreach_copy_(of_type, [_once_each(inputs[place]) for place in places])
            self._graph.replay()
            copies = iter(self._laid.copies())
            return [None if result is None else next(copies) for result in self._results]

    def _compared(self, function: Flat, inputs: Sequence[Tensor], held: Held) -> Results | None:
        """What the function itself comes to, which a replay may differ from as much as the function does from itself:
        sums of which the order is left open."""
        drawn, before = _drawn(held), list[Tensor]()
        run = partial(_aside, function)
        ends = []
        try:
            before = [x.clone() for x in held.changed]
            for way in (self._replay, run, run):
                _draw_from(drawn, held)
                _put(before, held.changed)
                results = way(inputs)
                ends.append((results, [x.clone() for x in held.changed], _drawn(held)))
        except torch.OutOfMemoryError:
            if before:
                _put(before, held.changed)
            _draw_from(drawn, held)
            self.why_not = "there is no memory to compare it in"
            return None
        (replayed, put, left), (again, put_again, _), (own, put_own, left_own) = ends
        noise = [*map(_difference, own, again), *map(_difference, put_own, put_again)]
        same = all(map(torch.equal, left, left_own))
        ours, theirs = [*own, *put_own], [*replayed, *put]
        if same and all_alike(ours, theirs, largest(ours), noise):
            self._to_compare -= 1
            self._sound = self._sound or not self._to_compare
            if not self._to_compare:
                release_cached()
        elif self._sound:
            raise ChangedError("what is computed depends on something else than parameters, buffers and the batch")
        else:
            self.why_not = DIFFERS
        return own


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _aside(function: Flat, inputs: Sequence[Tensor]) -> Results:
    with begin_aside(inputs[0].device):
        return function(*inputs)


def _drawn(held: Held) -> list[Tensor]:
    """The states of the random streams that may be drawn from."""
    device = held.tensors[0].device
    own = [generator.get_state() for generator in held.generators]
    return [*own, torch.cuda.get_rng_state(device)] if device.type == "cuda" else own


def _draw_from(states: Sequence[Tensor], held: Held) -> None:
    device = held.tensors[0].device
    for generator, state in zip(held.generators, states, strict=False):
        generator.set_state(state)
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[-1], device)


def _difference(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None or not one.is_floating_point():
        return None
    return one.detach() - other.detach()


class Laid:
    """Places of tensors side by side, for all of which to be copied there is one call for each type.

    Args:
        tensors: their contents change, they do not.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._count = len(tensors)
        self._types: list[tuple[list[int], list[Tensor], list[tuple[Any, ...]], int]] = []
        for places, of_type in _by_type(tensors).values():
            views, width = [], 0
            for tensor in of_type:
                views.append((tensor.shape, torch.empty_like(tensor, device="meta").stride(), width))
                width += tensor.numel() + -tensor.numel() % ALIGNED
            self._types.append((places, of_type, views, width))

    def copies(self) -> list[Tensor]:
        """New tensors with the present contents, laid out as the tensors are where these have an entry of their own
        for each index."""
        found: dict[int, Tensor] = {}
        for places, tensors, views, width in self._types:
            whole = tensors[0].new_empty(width)
            copies = [whole.as_strided(*view) for view in views]
            torch._foreach_copy_(copies, tensors)
            found.update(zip(places, copies, strict=True))
        return [found[place] for place in range(self._count)]


def _by_type(tensors: Sequence[Tensor]) -> Mapping[torch.dtype, tuple[list[int], list[Tensor]]]:
    """Places and tensors, by their type."""
    types: dict[torch.dtype, tuple[list[int], list[Tensor]]] = {}
    for place, tensor in enumerate(tensors):
        places, of_type = types.setdefault(tensor.dtype, ([], []))
        places.append(place)
        of_type.append(tensor)
    return types


def _once_each(tensor: Tensor) -> Tensor:
    """Without the repetitions of what is expanded."""
    if 0 not in tensor.stride():
        return tensor.detach()
    return tensor.detach()[tuple(slice(None) if stride else slice(1) for stride in tensor.stride())]


def _put(contents: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor, content in zip(tensors, contents, strict=True):
            tensor.copy_(content)

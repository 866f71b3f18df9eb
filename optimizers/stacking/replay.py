"""Functions of tensors are recorded once per kind of inputs, as plain lists of operations, then replayed.

What ``vmap`` and autograd do at every call, a replay has behind it: of small tensors they are most of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from optimizers.stacking.recording import Flat, Program, Recorder
from optimizers.stacking.short_rows import ShortRows

ROUNDING = 1e-5
"""Of a tensor's largest entry: what a replay may differ by."""
NOISE = 32
"""So many roundings of the largest of all results it may differ by, too: a tensor may be of rounding errors alone."""
MOST_PROGRAMS = 256


SPREAD = 8
"""So many times what a function was seen to differ from itself by."""
Results = Sequence[Tensor | None]


class ChangedError(RuntimeError):
    """A function no longer does what was recorded of it."""


class Traced:
    """A function that is run as it is the first time, which may be the only one, recorded at the second call and
    replayed from then on. The first replay, and one after ``recheck_next_replay``, are compared with the function.

    Operations that change an input in place do so at each replay; random ones draw anew. What is replayed carries no
    gradients of its own. If the first comparison fails, the function stays in use.

    Args:
        function: to be called with inputs of one ``signature`` only.
        programs: what was recorded before of functions that should do the same, by key; a new recording is added.
        key: this function's.
        given: said once it was recorded: inputs that replays may write over, with the output that replaces each.
    """

    def __init__(
        self,
        function: Flat,
        programs: dict[Any, Program] | None = None,
        key: Any = None,
        given: Callable[[], Mapping[int, int]] = dict,
    ) -> None:
        self._function = function
        self._given = given
        self._programs = {} if programs is None else programs
        self._key = key
        self._program = self._programs.get(key)
        self._called = self._recorded = self._replayed = self._hopeless = False
        self._to_compare = True

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor | None]:
        if self._program is not None:
            if self._to_compare:
                return self._compared(self._program, inputs)
            with torch.no_grad():
                return self._program.replay(*inputs)
        if self._hopeless or not self._called:
            self._called = True
            return self.run(inputs)
        with Recorder(inputs) as recorder:
            outputs = self.run(inputs)
        self._keep(Program(recorder, outputs, self._given()))
        return outputs

    @property
    def settled(self) -> Flat | None:
        """What the next call replays, if it is not compared."""
        return None if self._program is None or self._to_compare else self._program.replay

    def recheck_next_replay(self) -> None:
        """Compare the next replay.

        It raises ``ChangedError`` if there is a difference after replays that were not compared.
        """
        self._to_compare = True

    def _keep(self, program: Program) -> None:
        if len(self._programs) >= MOST_PROGRAMS:
            self._programs.clear()
        self._program = self._programs[self._key] = program
        self._recorded = True

    def run(self, inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """What the function itself returns."""
        with torch.enable_grad(), ShortRows():
            return self._function(*inputs)

    def _compared(self, program: Program, inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """The function's own outputs, after a replay that must come to the same."""
        # Some operations do not declare what they change. What is expanded would not be by a copy.
        copies = [x.detach() if 0 in x.stride() else x.detach().clone() for x in inputs]
        device = inputs[0].device
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
                replayed = list(program.replay(*copies))
        except Exception:
            replayed = []
        outputs = self.run(inputs)
        given = self._given()
        left = [i for i in range(len(inputs)) if i not in given]
        own = [*outputs, *(inputs[i] for i in left)]
        if replayed and all_alike(own, [*replayed, *(copies[i] for i in left)], largest(outputs)):
            self._to_compare, self._replayed = False, True
            return outputs
        if self._replayed:
            raise ChangedError("what is computed depends on something else than parameters, buffers and the batch")
        self._program = None
        self._programs.pop(self._key, None)
        self._called, self._hopeless = True, self._recorded
        return outputs


def signature(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    """What a recording depends on of its inputs."""
    return tuple((t.shape, t.stride(), t.dtype, t.device, t.requires_grad) for t in tensors)


def all_alike(ones: Results, others: Results, scale: float, noise: Results | None = None) -> bool:
    """Whether results are the same up to rounding.

    Args:
        scale: that of the numbers that were calculated with.
        noise: what each was seen to differ by where it should not, if that was seen.
    """
    return all(map(partial(_alike, scale), ones, others, noise or [None] * len(ones)))


def _alike(scale: float, a: Tensor | None, b: Tensor | None, noise: Tensor | None) -> bool:
    if a is None or b is None or not a.is_floating_point():
        return a is b if a is None or b is None else torch.equal(a, b)
    if torch.equal(a, b):  # as it mostly is, to the bit
        return True
    if not torch.equal(a.isnan(), b.isnan()):
        return False
    a, b = a.detach().nan_to_num(), b.detach().nan_to_num()
    if not a.numel():
        return True
    allowed = ROUNDING * a.abs().amax() + NOISE * torch.finfo(a.dtype).eps * scale
    if noise is not None:
        allowed = allowed + SPREAD * noise.detach().nan_to_num().abs().amax()
    return bool(((a - b).abs() <= allowed).all())


def largest(tensors: Results) -> float:
    """Of all entries that are numbers."""
    given = [t.detach() for t in tensors if t is not None and t.is_floating_point() and t.numel()]
    return max((float(t.nan_to_num(0.0, 0.0, 0.0).abs().amax()) for t in given), default=0.0)

"""Functions of tensors are recorded once per kind of inputs, as plain lists of operations, then replayed.

What ``vmap`` and autograd do at every call, a replay has behind it: of small tensors they are most of the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Flat = Callable[..., Sequence[Tensor | None]]
"""Takes tensors, returns tensors (or ``None`` in place of some); what else it depends on must not change."""

ATEN = torch.ops.aten
SAME = {ATEN.alias.default, ATEN.detach.default}
RESHAPES = {ATEN.expand.default, ATEN.view.default, ATEN._unsafe_view.default}
ROUNDING = 1e-5
MOST_PROGRAMS = 256
LITERALS = (bool, int, str, type(None))


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
    """

    def __init__(self, function: Flat, programs: dict[Any, Program] | None = None, key: Any = None) -> None:
        self._function = function
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
            return self._run(inputs)
        with Recorder() as recorder:
            outputs = self._run(inputs)
        self._keep(Program(inputs, recorder.calls, outputs))
        return outputs

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

    def _run(self, inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
        with torch.enable_grad():
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
        outputs = self._run(inputs)
        if replayed and all(map(_alike, [*outputs, *inputs], [*replayed, *copies])):
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


class Recorder(TorchDispatchMode):
    """Notes every operation on tensors, below ``vmap`` and autograd, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, output))
        return output


class Program:
    """Recorded operations as lines of Python: without those that do nothing, that no output needs, or that depend on no
    input and so were done for good when they were recorded.

    Attributes:
        replay: takes tensors like the inputs; returns what the outputs would be.
    """

    def __init__(
        self, inputs: Sequence[Tensor], calls: Sequence[tuple[Any, Any, Any, Any]], outputs: Sequence[Tensor | None]
    ) -> None:
        self._names = {id(tensor): f"x{i}" for i, tensor in enumerate(inputs)}
        self._constants: dict[str, Any] = {}
        self._lines: list[Line] = []
        changed = {_storage(tensor) for func, args, kwargs, _ in calls for tensor in _written(func, args, kwargs)}
        for call in calls:  # the caller holds all tensors, so that each has an id of its own
            self._add(*call, changed)
        returned = ["None" if output is None else self._text(output) for output in outputs]
        arguments = ", ".join(f"x{i}" for i in range(len(inputs)))
        lines = [f"def replay({arguments}):", *_needed(self._lines, returned), f"return [{', '.join(returned)}]"]
        exec("\n    ".join(lines), self._constants)
        self.replay: Flat = self._constants["replay"]

    def _add(self, func: Any, args: Any, kwargs: Any, output: Any, changed: set[int]) -> None:
        if func in SAME or (func in RESHAPES and output.shape == args[0].shape):
            if id(args[0]) in self._names:
                self._names[id(output)] = self._names[id(args[0])]
            return
        results = [tensor for tensor in tree_leaves(output) if isinstance(tensor, Tensor)]
        given = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
        writes = bool(_written(func, args, kwargs))
        random = torch.Tag.nondeterministic_seeded in func.tags
        fresh = not any(id(tensor) in self._names for tensor in given)
        if fresh and not writes and not random and not any(_storage(tensor) in changed for tensor in results):
            return  # its results are constants
        sources = [self._text(tensor) for tensor in given]
        call = ", ".join([*map(self._text, args), *(f"{name}={self._text(value)}" for name, value in kwargs.items())])
        target, names = self._target(output)
        self._lines.append(Line(f"{target}{self._constant(func)}({call})", names, sources, writes or random))

    def _target(self, output: Any) -> tuple[str, list[str]]:
        parts = output if isinstance(output, tuple | list) else [output]
        names = []
        for part in parts:
            if isinstance(part, Tensor):
                if id(part) not in self._names:
                    self._names[id(part)] = f"t{len(self._names)}"
                names.append(self._names[id(part)])
            else:
                names.append("_")
        if not parts:
            return "", []
        text = ", ".join(names) + ("," if isinstance(output, tuple | list) else "")
        return f"{text} = ", [name for name in names if name != "_"]

    def _text(self, value: Any) -> str:
        if isinstance(value, Tensor):
            return self._names[id(value)] if id(value) in self._names else self._constant(value)
        if isinstance(value, LITERALS) or (isinstance(value, float) and math.isfinite(value)):
            return repr(value)
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self._text, value))}]"
        return self._constant(value)

    def _constant(self, value: Any) -> str:
        for name, known in self._constants.items():
            if known is value:
                return name
        name = f"c{len(self._constants)}"
        self._constants[name] = value
        return name


class Line(NamedTuple):
    """One operation.

    Attributes:
        results, sources: names of tensors.
        lasting: whether it has an effect beside its results.
    """

    text: str
    results: list[str]
    sources: list[str]
    lasting: bool


def _needed(lines: Sequence[Line], returned: Sequence[str]) -> list[str]:
    """The lines that count; each lets go of what no later one needs."""
    needed, kept = set(returned), []
    for text, results, sources, lasting in reversed(lines):
        if lasting or needed.intersection(results):
            last = [name for name in dict.fromkeys([*sources, *results]) if name not in needed and name[0] in "tx"]
            needed.update(sources)
            kept.append(text + (f"; {' = '.join(last)} = None" if last else ""))
    return kept[::-1]


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an operation changes in place."""
    if not func._schema.is_mutable:
        return []
    declared = func._schema.arguments
    given = dict(zip((argument.name for argument in declared), args, strict=False)) | kwargs
    written = [given.get(a.name) for a in declared if a.alias_info is not None and a.alias_info.is_write]
    return [tensor for tensor in tree_leaves(written) if isinstance(tensor, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _alike(a: Tensor | None, b: Tensor | None) -> bool:
    """Up to rounding."""
    if a is None or b is None or not a.is_floating_point():
        return a is b if a is None or b is None else torch.equal(a, b)
    if not torch.equal(a.isnan(), b.isnan()):
        return False
    a, b = a.detach().nan_to_num(), b.detach().nan_to_num()
    return bool(((a - b).abs() <= ROUNDING * a.abs().amax()).all()) if a.numel() else True

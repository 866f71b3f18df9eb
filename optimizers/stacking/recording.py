"""Operations are recorded as they are done, and become a function: lines of Python without what need not be done."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from optimizers.stacking.line import Line
from optimizers.stacking.written_over import in_place, written_over

Flat = Callable[..., Sequence[Tensor | None]]
"""Takes tensors, returns tensors (or ``None`` in place of some); what else it depends on must not change."""

ATEN = torch.ops.aten
SAME = {ATEN.alias.default, ATEN.detach.default}
RESHAPES = {ATEN.expand.default, ATEN.view.default, ATEN._unsafe_view.default}
LITERALS = (bool, int, str, type(None))
NOTHING: Mapping[int, int] = MappingProxyType({})
NAME = re.compile(r"\b[xt]\d+\b")


class Recorder(TorchDispatchMode):
    """Notes every operation on tensors, below ``vmap`` and autograd, while it is entered.

    It keeps no tensor alive but those that depend on no input.

    Args:
        inputs: known to the function by their place.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.inputs = len(inputs)
        self.lines: list[Line] = []
        self.constants: dict[str, Any] = {}
        self.changed: set[int] = set()
        """Numbers of the storages that are changed in place."""
        self._names: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._storages: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._variable = {f"x{i}" for i in range(len(inputs))}
        self._tensors = 0
        self._count = 0
        for i, tensor in enumerate(inputs):
            self._names[tensor] = f"x{i}"
        self.storage_of = {f"x{i}": self._storage(tensor) for i, tensor in enumerate(inputs)}
        self.of_inputs = {*self.storage_of.values()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = any(self._names.get(tensor, "c") in self._variable for tensor in given)
        sources = [self.text(tensor) for tensor in given]
        call = ", ".join([*map(self.text, args), *(f"{name}={self.text(value)}" for name, value in kwargs.items())])
        numbers = {_cdata(tensor): self._storage(tensor) for tensor in given}
        output = func(*args, **kwargs)
        if func in SAME or (func in RESHAPES and output.shape == args[0].shape):
            if args[0] in self._names:
                self._names[output] = self._names[args[0]]
                self._storages[output] = self._storages[args[0]]
            return output
        written = _written(func, args, kwargs)
        self.changed.update(self._storages[tensor] for tensor in written)
        random = torch.Tag.nondeterministic_seeded in func.tags
        results = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        for result in results:
            if result not in self._storages:
                self._storages[result] = numbers.get(_cdata(result), -1)
                if self._storages[result] < 0:
                    self._storages[result] = self._next_storage()
        constant = not known and not written and not random
        lasting = bool(written) or random
        several = isinstance(output, tuple | list)
        same = func is ATEN.mul.Scalar and args[1] == 1 and output.dtype == args[0].dtype
        storages = {self._storages[tensor] for tensor in (*given, *results)}
        names = self._target(output)
        if not constant:
            self._variable.update(names)
        values = results if constant else None
        self.storage_of |= {self._names[result]: int(self._storages[result]) for result in results}
        inplace, place = (None, 0) if lasting or constant else in_place(func, args, output)
        over = under = ""
        if inplace is not None and not (place and kwargs):  # of a multiple of the second the first is no multiple
            turned = [args[place], *args[:place], *args[place + 1 :]]
            words = [*map(self.text, turned), *(f"{name}={self.text(value)}" for name, value in kwargs.items())]
            over, under = f"{self.constant(inplace)}({', '.join(words)})", self.text(args[place])
        call = f"{self.constant(func)}({call})"
        self.lines.append(Line(call, names, sources, several, lasting, storages, values, same, over, under))
        return output

    def text(self, value: Any) -> str:
        """A value in a call: a name, or as Python writes it."""
        if isinstance(value, Tensor):
            return self._names[value] if value in self._names else self.constant(value)
        if isinstance(value, LITERALS) or (isinstance(value, float) and math.isfinite(value)):
            return repr(value)
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self.text, value))}]"
        return self.constant(value)

    def constant(self, value: Any) -> str:
        """The name of what is not made by the function."""
        for name, known in self.constants.items():
            if known is value:
                return name
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def _target(self, output: Any) -> list[str]:
        """Names of an operation's results; of what is no tensor, and not kept, ``_``."""
        names = []
        for part in output if isinstance(output, tuple | list) else [output]:
            if isinstance(part, Tensor):
                if part not in self._names:
                    self._names[part] = f"t{self._tensors}"
                    self._tensors += 1
                names.append(self._names[part])
            else:
                names.append("_")
        return names

    def _storage(self, tensor: Tensor) -> int:
        """A tensor's storage, numbered anew where it is seen for the first time."""
        if tensor not in self._storages:
            self._storages[tensor] = self._next_storage()
        return int(self._storages[tensor])

    def _next_storage(self) -> int:
        self._count += 1
        return self._count


class Program:
    """Recorded operations as lines of Python: without those that do nothing, that were done before, that no output
    needs, or that depend on no input and so were done for good when they were recorded.

    Args:
        recorder: what was recorded of a function.
        outputs: what the function returned.
        given: inputs that a replay may write over, with the output that replaces each; then that is the input itself.

    Attributes:
        replay: takes tensors like the inputs; returns what the outputs would be.
        text: its lines, with the operations' names.
    """

    def __init__(
        self, recorder: Recorder, outputs: Sequence[Tensor | None], given: Mapping[int, int] = NOTHING
    ) -> None:
        names = dict(recorder.constants)
        returned = ["None" if output is None else recorder.text(output) for output in outputs]
        names |= recorder.constants
        lines, renamed, constants = _simplified(recorder, returned)
        names |= constants
        returned = [renamed.get(name, name) for name in returned]
        lines = _in_place(recorder, _needed(lines, returned), returned, constants, renamed, given)
        arguments = ", ".join(f"x{i}" for i in range(recorder.inputs))
        body = [f"def replay({arguments}):", *_written_out(lines, returned, constants)]
        body.append(f"return [{', '.join(returned)}]")
        # What ``OpOverload.__call__`` calls: a frame of Python less, of some forty at each step.
        direct = {name: getattr(value, "_op", value) for name, value in names.items()}
        exec("\n    ".join(body), direct)
        functions = {name: str(value) for name, value in names.items() if isinstance(value, torch._ops.OpOverload)}
        self.text = "\n".join(re.sub(r"\bc\d+\b", lambda c: functions.get(c[0], c[0]), line) for line in body)
        self.replay: Flat = direct["replay"]


def _simplified(recorder: Recorder, returned: Sequence[str]) -> tuple[list[Line], dict[str, str], dict[str, Tensor]]:
    """The lines that do something new, what results are called in place of others, and what is constant."""
    renamed: dict[str, str] = {}
    constants: dict[str, Tensor] = {}
    done: dict[str, list[str]] = {}
    lines, theirs = [], {*returned}
    for line in recorder.lines:
        unchanged = not line.lasting and not line.storages & recorder.changed
        fixed = all(name in constants or not NAME.fullmatch(name) for name in line.sources)
        if line.constants is not None and unchanged and fixed:
            constants |= zip(line.results, line.constants, strict=False)
            continue
        call = _with_names(line.call, renamed)
        sources = [renamed.get(name, name) for name in line.sources]
        before = done.get(call) if unchanged else None
        if line.same and unchanged:
            before = sources[:1]
        # What is returned is the caller's, who may change it.
        given_away = bool(theirs.intersection(line.results))
        if given_away and not (
            line.same and not line.storages & recorder.of_inputs and not theirs.intersection(sources)
        ):
            before = None
        if before is not None:
            renamed |= zip(line.results, before, strict=True)
            theirs |= {*before} if given_away else set()
            continue
        if unchanged:
            done[call] = line.results
        over, under = (_with_names(text, renamed) for text in (line.over, line.under))
        lines.append(line._replace(call=call, sources=sources, over=over, under=under))
    return lines, renamed, constants


def _with_names(call: str, renamed: dict[str, str]) -> str:
    return NAME.sub(lambda found: renamed.get(found[0], found[0]), call)


def _needed(lines: Sequence[Line], returned: Sequence[str]) -> list[Line]:
    """The lines that count."""
    needed, kept = set(returned), []
    for line in reversed(lines):
        if line.lasting or needed.intersection(line.results):
            needed.update(line.sources)
            kept.append(line)
    return kept[::-1]


def _in_place(
    recorder: Recorder,
    lines: Sequence[Line],
    returned: Sequence[str],
    constants: Mapping[str, Any],
    renamed: Mapping[str, str],
    given: Mapping[int, int],
) -> list[Line]:
    """The lines, each writing over its first source where nobody needs that any more."""
    merged: dict[int, int] = {}

    def storage(name: str) -> int:
        number = recorder.storage_of.get(name, 0)
        while number in merged:
            number = merged[number]
        return number

    for name, other in renamed.items():  # a view of the one is a view of the other
        if storage(name) != storage(other):
            merged[storage(name)] = storage(other)
    kept = {*map(storage, [*constants, *(f"x{i}" for i in range(recorder.inputs))]), *recorder.changed}
    own = {f"x{i}": place for i, place in given.items() if recorder.storage_of[f"x{i}"] not in recorder.changed}
    return written_over(lines, returned, storage, kept, own)


def _written_out(lines: Sequence[Line], returned: Sequence[str], constants: Mapping[str, Any]) -> list[str]:
    """Each line lets go of what no later one needs."""
    needed, texts = set(returned), []
    for line in reversed(lines):
        names = [name for name in dict.fromkeys([*line.sources, *line.results]) if NAME.fullmatch(name)]
        last = [name for name in names if name not in needed and name not in constants]
        needed.update(line.sources)
        target = f"{', '.join(line.results)}{',' * line.several} = " if line.results else ""
        texts.append(target + line.call + (f"; {' = '.join(last)} = None" if last else ""))
    return texts[::-1]


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an operation changes in place."""
    if not func._schema.is_mutable:
        return []
    declared = func._schema.arguments
    given = dict(zip((argument.name for argument in declared), args, strict=False)) | kwargs
    written = [given.get(a.name) for a in declared if a.alias_info is not None and a.alias_info.is_write]
    return [tensor for tensor in tree_leaves(written) if isinstance(tensor, Tensor)]


def _cdata(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)

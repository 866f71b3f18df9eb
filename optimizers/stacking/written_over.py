"""Recorded operations write over what nobody needs any more: a place for each result costs time and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.stacking.line import Line

COMMUTE = {torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor}
"""Of two tensors, which may be given the other way round."""

Storage = Callable[[str], int]
"""The number of a named tensor's storage; names of views of one tensor have one."""


def in_place(func: Any, args: Sequence[Any], output: Any) -> tuple[Any, int]:
    """The operation that writes its result over one of its arguments, and which; ``None`` where there is none."""
    if torch.Tag.pointwise not in func.tags or func._schema.is_mutable or not isinstance(output, Tensor):
        return None, 0
    packet = getattr(torch.ops.aten, f"{func.overloadpacket.__name__}_", None)
    for i in range(min(len(args), 1 + (func in COMMUTE))):
        if isinstance(args[i], Tensor) and 0 not in args[i].stride() and _kind(args[i]) == _kind(output):
            return getattr(packet, func._overloadname, None), i
    return None, 0


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def written_over(
    lines: Sequence[Line], returned: Sequence[str], storage: Storage, kept: set[int], given: Mapping[str, int]
) -> list[Line]:
    """The lines, in place where they can be.

    Args:
        lines: all are needed.
        returned: names.
        kept: storages of what is not the function's own: constants, and what it changes in any case.
        given: inputs that may be written over, with the place among ``returned`` of what replaces each: only by that.
    """
    while True:
        found, memory = _tried(lines, returned, storage, kept, given)
        of_returned = [memory.get(name) for name in returned]
        wrong = {
            name
            for name in memory.values()
            if of_returned[given[name]] != name or of_returned.count(name) > 1 or name in returned
        }
        if not wrong:
            return found
        given = {name: place for name, place in given.items() if name not in wrong}


def _tried(
    lines: Sequence[Line], returned: Sequence[str], storage: Storage, kept: set[int], given: Mapping[str, int]
) -> tuple[list[Line], dict[str, str]]:
    """The lines, and in which given input's memory results are."""
    last: dict[int, int] = {}
    for i, line in enumerate(lines):
        last |= dict.fromkeys(map(storage, [*line.sources, *line.results]), i)
    last |= dict.fromkeys(map(storage, returned), len(lines))
    found: list[Line] = []
    memory: dict[str, str] = {}
    for i, line in enumerate(lines):
        first, others = line.under, [name for name in line.sources if name != line.under]
        own = first in given or (first.startswith("t") and storage(first) not in kept)
        alone = line.sources.count(first) == 1 and storage(first) not in map(storage, others)
        if line.over and own and alone and last[storage(first)] == i:
            line = line._replace(call=line.over)
            memory |= {name: memory.get(first, first) for name in line.results if first in {*given, *memory}}
        found.append(line)
    return found, memory

"""Optimizers of several members become one whose tensors and numbers are all members', and one of them again."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict, deque
from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from optimizers.stacking.as_one import NotAsOneError
from optimizers.stacking.direct import Stacked
from optimizers.stacking.member_numbers import MemberNumbers

PLAIN = (bool, int, str, bytes, complex, type(None), torch.dtype, torch.device, type, range, slice)
Params = Sequence[Tensor]


def join(members: Sequence[Any], params: Sequence[Params], stacked: Sequence[Stacked]) -> Any:
    """An optimizer like those of the members, of all their tensors and numbers.

    Args:
        members: optimizers of one class, that have been through the same steps.
        params: each member's own parameters.
        stacked: what stands for all members' of them, in the same order.

    Raises:
        NotAsOneError: they differ in something else.
    """
    stands_for = {
        tuple(id(p) for p in together): s for together, s in zip(zip(*params, strict=True), stacked, strict=True)
    }
    return _Joining(stands_for).join(list(members), type(members[0]).__name__)


class _Joining:
    """Args:
    stands_for: what is known to stand for members' objects, by their ids.
    """

    def __init__(self, stands_for: dict[tuple[int, ...], Any]) -> None:
        self.joined: dict[tuple[int, ...], Any] = dict(stands_for)
        self.kept: list[Any] = []  # an id is an object's as long as it lives

    def join(self, parts: list[Any], path: str) -> Any:
        key = tuple(map(id, parts))
        if key in self.joined:
            return self.joined[key]
        first = parts[0]
        if any(type(part) is not type(first) for part in parts):
            raise NotAsOneError(f"{path} is not of one type in all members")
        if isinstance(first, float):
            return (
                first
                if all(part == first or part != part != first != first for part in parts)
                else MemberNumbers(parts)
            )
        if isinstance(first, PLAIN):
            if any(part != first for part in parts):
                raise NotAsOneError(f"{path} differs: {first!r} and {next(p for p in parts if p != first)!r}")
            return first
        self.kept.append(parts)
        made = self._tensor(parts, path) if isinstance(first, Tensor) else self._object(parts, path, key)
        self.joined[key] = made
        return made

    def _tensor(self, parts: list[Tensor], path: str) -> Tensor:
        first = parts[0]
        if any(
            (p.shape, p.dtype, p.device, p.layout) != (first.shape, first.dtype, first.device, first.layout)
            for p in parts
        ):
            raise NotAsOneError(f"{path} is not of one shape and type in all members")
        if first.layout != torch.strided or isinstance(first, torch.nn.Parameter):
            raise NotAsOneError(f"{path} is neither a parameter that is trained nor a dense tensor")
        tensors = [part.detach() for part in parts]
        if first.dim() == 0 and all(torch.equal(tensor, tensors[0]) for tensor in tensors):
            return tensors[0].clone()
        return torch.stack(tensors).as_subclass(Stacked)

    def _object(self, parts: list[Any], path: str, key: tuple[int, ...]) -> Any:
        first = parts[0]
        if isinstance(first, dict):
            return self._mapping(parts, path, key)
        if isinstance(first, list | deque):
            self._same_length(parts, path)
            made = self.joined[key] = type(first)()
            made.extend(self.join(list(each), f"{path}[{i}]") for i, each in enumerate(zip(*parts, strict=True)))
            return made
        if isinstance(first, tuple):
            self._same_length(parts, path)
            each = [self.join(list(together), f"{path}[{i}]") for i, together in enumerate(zip(*parts, strict=True))]
            return type(first)(*each) if hasattr(first, "_fields") else type(first)(each)
        if isinstance(first, MethodType):
            if any(part.__func__ is not first.__func__ for part in parts):
                raise NotAsOneError(f"{path} is not one method in all members")
            return MethodType(first.__func__, self.join([part.__self__ for part in parts], path))
        if all(part is first for part in parts):
            return first
        if isinstance(first, torch.Generator) or (callable(first) and not isinstance(first, torch.optim.Optimizer)):
            raise NotAsOneError(f"{path}: each member has a {type(first).__name__} of its own")
        if not hasattr(first, "__dict__"):
            raise NotAsOneError(f"{path}: a {type(first).__name__} is not understood")
        made = self.joined[key] = object.__new__(type(first))
        vars(made).update(self.join([vars(part) for part in parts], path))
        return made

    def _mapping(self, parts: list[dict[Any, Any]], path: str, key: tuple[int, ...]) -> dict[Any, Any]:
        self._same_length(parts, path)
        made = self.joined[key] = _empty_like(parts[0])
        for keys in zip(*parts, strict=True):
            name = self.join(list(keys), f"a key of {path}") if isinstance(keys[0], Tensor) else keys[0]
            if not isinstance(keys[0], Tensor) and any(other != name for other in keys):
                raise NotAsOneError(f"{path} has other keys in other members")
            where = f"{path}.{name}" if isinstance(name, str) else f"{path}[...]"
            made[name] = self.join([part[own] for part, own in zip(parts, keys, strict=True)], where)
        return made

    @staticmethod
    def _same_length(parts: list[Any], path: str) -> None:
        if len({len(part) for part in parts}) > 1:
            raise NotAsOneError(f"{path} is not of one length in all members")


def part(
    joined: Any, member: Any, row: int, params: Params, stacked: Sequence[Stacked], *, double: bool = False
) -> None:
    """Make a member's optimizer what the joined one is of it.

    Args:
        row: the member's.
        params: its parameters.
        stacked: what stands for all members' of them.
        double: whether its tensors are to be in double precision.
    """
    known: dict[int, Any] = {id(s): p for s, p in zip(stacked, params, strict=True)} | {id(joined): member}
    own = _part(vars(joined), row, known, double)
    vars(member).clear()
    vars(member).update(own)


def _part(value: Any, row: int, known: dict[int, Any], double: bool) -> Any:
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, MemberNumbers):
        return float(value.values[row])
    if isinstance(value, Tensor):
        tensor = value.as_subclass(Tensor).detach()
        made: Any = (tensor[row] if isinstance(value, Stacked) else tensor).clone()
        made = made.double() if double and made.is_floating_point() else made
    elif isinstance(value, dict):
        made = known[id(value)] = _empty_like(value)
        for key, content in value.items():
            made[_part(key, row, known, double) if isinstance(key, Tensor) else key] = _part(
                content, row, known, double
            )
    elif isinstance(value, list | deque):
        made = known[id(value)] = type(value)()
        made.extend(_part(content, row, known, double) for content in value)
    elif isinstance(value, tuple):
        each = [_part(content, row, known, double) for content in value]
        made = type(value)(*each) if hasattr(value, "_fields") else type(value)(each)
    elif isinstance(value, MethodType):
        made = MethodType(value.__func__, _part(value.__self__, row, known, double))
    elif isinstance(value, PLAIN) or (callable(value) and not isinstance(value, torch.optim.Optimizer)):
        return value
    elif hasattr(value, "__dict__"):
        made = known[id(value)] = object.__new__(type(value))
        vars(made).update(_part(vars(value), row, known, double))
    else:
        made = copy.copy(value)
    known[id(value)] = made
    return made


def _empty_like(mapping: dict[Any, Any]) -> dict[Any, Any]:
    if isinstance(mapping, defaultdict):
        return defaultdict(mapping.default_factory)
    return OrderedDict() if isinstance(mapping, OrderedDict) else {}

"""Where an optimizer treats each entry of all tensors alike, the tensors of a parameter group become one.

A joined optimizer that steps for the parameters of a group one after the other then steps for a single one, the part of
the stack's buffer in which they lie, and so does what it keeps of them.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimizers.stacking.as_one import NotAsOneError
from optimizers.stacking.direct import Stacked
from optimizers.stacking.entries import Entries
from optimizers.stacking.flat import Places, Room
from optimizers.stacking.joining import PLAIN
from optimizers.stacking.member_numbers import MemberNumbers


class Group(NamedTuple):
    """A parameter group.

    Attributes:
        param: stands for all of its parameters, (members, width).
        params: which it stands for, (members, ...) each.
        numbers: theirs among all of the stack's.
        places: where they lie in it.
    """

    param: Entries
    params: list[Stacked]
    numbers: list[int]
    places: Places


class SideBySide:
    """Changes a joined optimizer so that it has one parameter a group.

    Args:
        optimizer: the joined one.
        params: the stack's, which it has.
        buffer: in which they lie, (members, width).

    Attributes:
        groups: its parameter groups.

    Raises:
        NotAsOneError: it cannot be changed so, and was not.
    """

    def __init__(self, optimizer: Any, params: Sequence[Stacked], buffer: Tensor) -> None:
        self._optimizer = optimizer
        own = vars(optimizer)
        if type(own.get("param_groups")) is not list or type(own.get("state")) is not defaultdict:
            raise NotAsOneError("its groups and state are not where PyTorch's optimizers have them")
        _refuse_other_tensors(optimizer)
        self.groups = [_group(group["params"], params, buffer) for group in own["param_groups"]]
        state: defaultdict[Any, Any] = defaultdict(own["state"].default_factory)
        _refuse_shared(own["state"], params)
        if len(own["state"]) not in (0, sum(len(group.params) for group in self.groups)):
            raise NotAsOneError("it keeps something of some parameters only")
        for group in self.groups if own["state"] else []:
            state[group.param] = _merged([own["state"][param] for param in group.params], group)
        own["state"] = state
        for group, settings in zip(self.groups, own["param_groups"], strict=True):
            group.param.trained = True
            settings["params"] = [group.param]
        self._rooms = [_FreeRoom(group) for group in self.groups]

    def grads(self, grads: Sequence[Tensor | None]) -> list[Entries]:
        """The stack's gradients, as one for each group; those of the step before must not be held by the caller."""
        whole = []
        for group, room in zip(self.groups, self._rooms, strict=True):
            given = [grad for grad in (grads[number] for number in group.numbers) if grad is not None]
            if len(given) < len(group.numbers):
                raise NotAsOneError("a parameter has no gradient")
            whole.append(room.filled(given).as_subclass(Entries))
        return whole

    def apart(self) -> Any:
        """The optimizer as it would be with all its parameters; it shares its tensors' memory with the changed one.

        Raises:
            NotAsOneError: since it was changed it has put tensors somewhere else than into its parameters' state, or in
                a way that is not understood.
        """
        _refuse_other_tensors(self._optimizer)
        known = {id(group.param) for group in self.groups}
        if any(id(key) not in known for key in vars(self._optimizer)["state"]):
            raise NotAsOneError("it keeps something that is not of a parameter")
        apart = object.__new__(type(self._optimizer))
        own = vars(apart)
        own.update(vars(self._optimizer))
        own["param_groups"] = [
            {**settings, "params": group.params}
            for settings, group in zip(own["param_groups"], self.groups, strict=True)
        ]
        state: defaultdict[Any, Any] = defaultdict(own["state"].default_factory)
        for group in self.groups:
            if group.param in own["state"]:
                kept = own["state"][group.param]
                state.update((param, _of_one(kept, group, i)) for i, param in enumerate(group.params))
        own["state"] = state
        return apart


class _FreeRoom:
    """A room in the same memory at every step, unless what was there is still used."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._make()

    def filled(self, grads: Sequence[Tensor]) -> Tensor:
        """(members, width)"""
        if _uses(self._room.buffer) > self._unused:
            self._make()
        return self._room.filled(grads)

    def _make(self) -> None:
        self._room = Room(self._group.places, self._group.param.as_subclass(Tensor))
        self._unused = _uses(self._room.buffer)


def _uses(tensor: Tensor) -> int:
    """How many tensors are of its memory."""
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


def _group(params: Sequence[Any], all_params: Sequence[Stacked], buffer: Tensor) -> Group:
    """The group of these parameters, which must lie side by side in the buffer."""
    ids = [id(param) for param in all_params]
    numbers = [ids.index(id(param)) for param in params]
    if not numbers or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise NotAsOneError("the parameters of a group do not lie side by side")
    whole, places = (Places([param.size()[1:] for param in group]) for group in (all_params, params))
    start = sum(whole.sizes[: numbers[0]]) + sum(whole.gaps[: numbers[0]])
    part = buffer[:, start : start + places.width]
    lying = all(view.data_ptr() == p.data_ptr() for view, p in zip(places.views(part), params, strict=True))
    if not lying or any(param.dtype != buffer.dtype for param in params):
        raise NotAsOneError("the parameters do not lie in a buffer")
    return Group(part.as_subclass(Entries), list(params), numbers, places)


def _refuse_other_tensors(optimizer: Any) -> None:
    """Raises ``NotAsOneError`` where it has parameters, what it keeps of them, or itself, somewhere else as well."""
    own = vars(optimizer)
    groups = [{key: x for key, x in group.items() if key != "params"} for group in own["param_groups"]]
    others = [x for key, x in own.items() if key not in ("param_groups", "state")]
    known = {id(optimizer), id(own["state"]), id(own["param_groups"]), *map(id, own["param_groups"])}
    for value in _reached([*others, groups], set()):
        if id(value) in known or (isinstance(value, Stacked) and value.dim() > 1):
            raise NotAsOneError("it has tensors beside its state")


def _reached(value: Any, seen: set[int]) -> Iterator[Any]:
    """All that an object consists of."""
    if id(value) in seen or (isinstance(value, PLAIN) and not isinstance(value, tuple)):
        return
    seen.add(id(value))
    yield value
    if isinstance(value, dict):
        parts: list[Any] = [*value, *value.values()]
    elif isinstance(value, list | tuple | deque | set | frozenset):
        parts = [*value]
    elif isinstance(value, MethodType):
        parts = [value.__self__]
    else:
        parts = [] if isinstance(value, Tensor) or callable(value) else [*getattr(value, "__dict__", {}).values()]
    for part in parts:
        yield from _reached(part, seen)


def _refuse_shared(state: Mapping[Any, Any], params: Sequence[Stacked]) -> None:
    """Raises ``NotAsOneError`` where two tensors share memory."""
    kept = [value for value in _reached([*state.values()], set()) if isinstance(value, Tensor)]
    memory = [tensor.untyped_storage().data_ptr() for tensor in kept]
    if len({*memory}) < len(memory) or {*memory} & {param.untyped_storage().data_ptr() for param in params}:
        raise NotAsOneError("it keeps tensors that share memory")


def _merged(values: Sequence[Any], group: Group) -> Any:
    """What is kept of each parameter, as of one."""
    first = values[0]
    if any(type(value) is not type(first) for value in values):
        raise NotAsOneError("it keeps something else of other parameters")
    if isinstance(first, Tensor):
        of_entries = all(v.size() == p.size() and v.dim() > 1 for v, p in zip(values, group.params, strict=True))
        if isinstance(first, Stacked) and of_entries and len({v.dtype for v in values}) == 1:
            return group.places.buffer([v.as_subclass(Tensor) for v in values]).as_subclass(Entries)
        numbers = first.dim() == isinstance(first, Stacked)
        if numbers and all(v.dtype == first.dtype and torch.equal(v, first) for v in values):
            return first.clone().as_subclass(Entries) if isinstance(first, Stacked) else first.clone()
    elif isinstance(first, dict | list | tuple) and not hasattr(first, "_fields"):
        if len({len(value) for value in values}) > 1:
            raise NotAsOneError("it keeps something else of other parameters")
        if not isinstance(first, dict):
            return type(first)([_merged(each, group) for each in zip(*values, strict=True)])
        if type(first) is dict and all(list(value) == list(first) for value in values):
            return {key: _merged([value[key] for value in values], group) for key in first}
    elif isinstance(first, MemberNumbers):
        if all(value.values.tolist() == first.values.tolist() for value in values):
            return first
    elif isinstance(first, (float, *PLAIN)) and all(value == first for value in values):
        return first
    raise NotAsOneError("it keeps something else of other parameters")


def _of_one(value: Any, group: Group, i: int) -> Any:
    """What is kept of a parameter of a group, of what is kept of all."""
    if value is group.param:
        return group.params[i]
    if isinstance(value, Stacked) and value.size() == group.param.size():
        return group.places.views(value.as_subclass(Tensor))[i].as_subclass(Stacked)
    if isinstance(value, Tensor):
        return value.detach().clone().as_subclass(Stacked if isinstance(value, Stacked) else Tensor)
    if type(value) is dict:
        return {key: _of_one(x, group, i) for key, x in value.items()}
    if type(value) is list or type(value) is tuple:
        return type(value)([_of_one(x, group, i) for x in value])
    if isinstance(value, (float, *PLAIN)):
        return value
    raise NotAsOneError(f"it keeps a {type(value).__name__} of its parameters")

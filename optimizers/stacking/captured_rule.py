"""The rule of a single run is captured: parameters and states change where they lie."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimizers.apply import State
from optimizers.base import CurvatureOptimizer
from optimizers.stacking.capture import WARM, Captures
from optimizers.stacking.cuda_graph import Held, bring_to_places
from optimizers.stacking.replay import ChangedError
from optimizers.stacking.step_of_tensors import count_on_device, in_place, obstacle, stepping
from optimizers.tensor_list import Places

Tensors = Sequence[Tensor | None]
Owned = tuple[torch.optim.Optimizer, Tensor, State]
"""Whose state, of which parameter."""
MOST_SETTLED = 8
"""Times that states may become of other kinds."""


class Entry(NamedTuple):
    """A tensor of a parameter's state.

    Attributes:
        stays: whether the optimizer leaves it where it is.
    """

    state: State
    name: str
    tensor: Tensor
    stays: bool


class CapturedRule:
    """The steps of one run's optimizer, given gradients, by their CUDA graphs once there are some.

    States are the optimizer's own as ever, but for their places: they stay where they are for as long as the optimizer
    has states of the same kinds and nobody else puts others there.

    Args:
        scheduled: whether learning rates change, and so are tensors, in every step that may be captured.

    Attributes:
        params: the optimizer's.
    """

    def __init__(self, captures: Captures, optimizer: torch.optim.Optimizer, *, scheduled: bool) -> None:
        self._captures = captures
        self._optimizers = stepping(optimizer)
        self._name = f"the rule of {type(optimizer).__name__}"
        params = {id(param): param for group in self._groups for param in group["params"]}
        self.params: list[Tensor] = list(params.values())
        curved = isinstance(optimizer, CurvatureOptimizer)
        self._step = optimizer._apply if curved else partial(_step_of_gradients, optimizer, self.params)
        self._scheduled = scheduled
        self._rates: list[Tensor] = []
        self._numbers: list[float] = []
        self._own: list[Owned] | None = None
        self._entries: list[Entry] = []
        self._settled = 0
        self._ran: dict[Any, int] = {}
        if self._optimizers and captures.allows(self._name) and (why := obstacle(self._optimizers, scheduled)):
            captures.give_up(self._name, why)

    @property
    def _groups(self) -> list[dict[str, Any]]:
        """Which are others once a state was loaded."""
        groups = {id(group): group for each in self._optimizers for group in each.param_groups}
        return list(groups.values())

    @property
    def allowed(self) -> bool:
        """Whether steps may come of a graph."""
        return bool(self._optimizers) and self._captures.allows(self._name)

    def apply(self, grads: Tensors, curvatures: Tensors) -> None:
        """One step, by a gradient and a curvature, or ``None``, of each parameter.

        Raises:
            ChangedError: it is no longer what was captured of it.
        """
        if not self.allowed:
            self._step(grads, curvatures)
            return
        if not self._stays():
            self._captures.forget(self._name)
            self._ran.clear()
            count_on_device(self._optimizers)
            with self._rates_as_tensors():
                self._step(grads, curvatures)
            self._settle()
            return
        given = (*grads, *curvatures)
        key = repr((self._constants(), [tensor is None for tensor in given]))

        def step(*inputs: Tensor) -> list[Tensor | None]:
            rest = iter(inputs)
            every = [None if tensor is None else next(rest) for tensor in given]
            with torch.no_grad(), self._rates_as_tensors():
                self._step(every[: len(grads)], every[len(grads) :])
            self._ran[key] = self._ran.get(key, 0) + 1
            self._put_back(early=self._ran[key] <= WARM)
            return []

        if self._scheduled:
            self._set_rates()
        places = [*self.params, *{id(entry.tensor): entry.tensor for entry in self._entries}.values()]
        inputs = [tensor for tensor in given if tensor is not None]
        if not inputs:
            self._step(grads, curvatures)
            return
        self._captures.call(self._name, key, step, inputs, Held([*places, *self._rates], places))

    def _constants(self) -> list[list[tuple[str, Any]]]:
        """What a graph has of hyperparameters."""
        moving = {"params", "lr", "initial_lr"} if self._scheduled else {"params"}
        return [[item for item in group.items() if item[0] not in moving] for group in self._groups]

    @contextmanager
    def _rates_as_tensors(self) -> Iterator[None]:
        """Learning rates are tensors within it, where a schedule changes them."""
        if not self._scheduled:
            yield
            return
        self._set_rates()
        groups = self._groups
        numbers = [group["lr"] for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate
        try:
            yield
        finally:
            for group, number in zip(groups, numbers, strict=True):
                group["lr"] = number

    def _set_rates(self) -> None:
        numbers = [float(group["lr"]) for group in self._groups]
        if not self._rates:
            like = self.params[0]
            dtype = torch.promote_types(like.dtype, torch.float32)
            self._rates = [torch.zeros((), dtype=dtype, device=like.device) for _ in numbers]
            self._numbers = [math.nan] * len(numbers)
        for rate, number, last in zip(self._rates, numbers, self._numbers, strict=True):
            if number != last:
                rate.fill_(number)
        self._numbers = numbers

    def _stays(self) -> bool:
        return self._own is not None and all(each.state.get(param) is state for each, param, state in self._own)

    def _find(self) -> tuple[list[Owned], list[Entry]]:
        """What the optimizers have now."""
        own = [(each, p, each.state[p]) for each in self._optimizers for p in self.params if p in each.state]
        entries = [
            Entry(state, name, tensor, in_place(each)) for each, _, state in own for name, tensor in state.items()
        ]
        return own, entries

    def _settle(self) -> None:
        """Give the states that have none places of their own, in which those of a name lie side by side, as lists of
        them are read."""
        own, entries = self._find()
        self._kinds = _kinds(own, entries)
        device, self._settled = self.params[0].device, self._settled + 1
        if any(not isinstance(entry.tensor, Tensor) or entry.tensor.device != device for entry in entries):
            self._captures.give_up(self._name, "its states are not all tensors on the device")
            return
        if self._settled > MOST_SETTLED:
            self._captures.give_up(self._name, "its states are never of the same kinds")
            return
        alike: dict[Any, dict[int, Tensor]] = {}
        seen: set[int] = set()
        for entry in entries:
            if not entry.stays and id(entry.tensor) not in seen:
                seen.add(id(entry.tensor))
                alike.setdefault((entry.name, entry.tensor.dtype), {})[id(entry.tensor)] = entry.tensor
        places: dict[int, Tensor] = {}
        for tensors in alike.values():
            side_by_side = Places(list(tensors.values()))
            whole = side_by_side.together(list(tensors.values())).detach().clone()
            places.update(zip(tensors, side_by_side.apart(whole), strict=True))
        self._entries = [entry._replace(tensor=places.get(id(entry.tensor), entry.tensor)) for entry in entries]
        self._own = own
        self._bring_back()

    def _put_back(self, *, early: bool) -> None:
        """Bring what the states have become to the places of those before."""
        assert self._own is not None
        own, entries = self._find()
        if _kinds(own, entries) != self._kinds:
            if self.allowed and not early:
                raise ChangedError("its states are of other kinds than before")
            self._own = None
            return
        became = {
            id(place.tensor): (new.tensor, place.tensor) for place, new in zip(self._entries, entries, strict=True)
        }
        bring_to_places([new for new, _ in became.values()], [place for _, place in became.values()])
        self._bring_back()

    def _bring_back(self) -> None:
        assert self._own is not None
        for each, param, state in self._own:
            each.state[param] = state
        for entry in self._entries:
            entry.state[entry.name] = entry.tensor


def _step_of_gradients(optimizer: torch.optim.Optimizer, params: Sequence[Tensor], grads: Tensors, _: Tensors) -> None:
    """Of an optimizer without curvature, whose parameters have the gradients that they had when it is done."""
    before = [param.grad for param in params]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    optimizer.step()
    for param, grad in zip(params, before, strict=True):
        param.grad = grad


def _kinds(own: Sequence[Owned], entries: Sequence[Entry]) -> Any:
    """Whose states they are, of which names and shapes, and which of them are one tensor."""
    first: dict[int, int] = {}
    kinds = [
        (name, getattr(tensor, "shape", None), getattr(tensor, "dtype", None), first.setdefault(id(tensor), i))
        for i, (_, name, tensor, _) in enumerate(entries)
    ]
    return [(id(each), id(param), len(state)) for each, param, state in own], kinds

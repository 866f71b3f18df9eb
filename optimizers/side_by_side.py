"""Small tensors lie side by side, and a rule that allows it is given the entries of all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from itertools import chain
from operator import is_
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C._nn import flatten_dense_tensors as flatten
from torch._C._nn import unflatten_dense_tensors as unflatten

from optimizers.apply import FEWEST, Hyperparameters, Rule, State

ENTRIES = 2**18
"""More of them would leave the cache from one operation to the next."""
MEAN = 2**12
"""Entries of a tensor, of few tensors, up to which copying them costs less than calls for each."""

AnyRule = TypeVar("AnyRule", bound=Callable[..., Any])


def side_by_side(rule: AnyRule) -> AnyRule:
    """Says that a rule works entry by entry: given tensors of one dimension, in which several lie, it does the same.

    One that also needs something of each whole tensor takes ``sizes``, how many entries each of several has.
    """
    rule.takes_sizes = "sizes" in signature(rule).parameters  # type: ignore[attr-defined]
    return rule


class SideBySide:
    """Parameters of a group on a CPU, whose states lie side by side from one step to the next.

    What each parameter's own state has are views, which change in place.
    """

    def __init__(self) -> None:
        self._params: list[Tensor] = []
        self._apart: list[Tensor] = []  # that are too large
        self._parts: list[Tensor] = []
        self._flat: State = {}
        self._sizes: list[int] = []
        self._shapes: list[torch.Size] = []

    def step(
        self,
        rule: Rule,
        params: list[Tensor],
        grads: list[Any],
        curvatures: Sequence[Tensor | None],
        states: Mapping[Tensor, State],
        hp: Hyperparameters,
    ) -> bool:
        """A step of all parameters, in place; ``False``, and no step, where it cannot be one for all of them."""
        takes_sizes = getattr(rule, "takes_sizes", None)
        if takes_sizes is None or _are_same(params, self._apart):
            return False
        curved = [curvature for curvature in curvatures if curvature is not None]
        if {*map(type, grads)} != {Tensor} or (curved and len(curved) < len(params)):
            return False
        if not self._lie_here(params, states) and not self._join(params, states):
            return False
        given = flatten(params), flatten(grads), flatten(curved) if curved else None, self._flat, hp
        new, state = rule(*given, self._sizes) if takes_sizes else rule(*given)  # type: ignore[call-arg]
        if state.keys() == self._flat.keys():
            places, values = self._changes(state)
            torch._foreach_copy_([*params, *places], [*unflatten(new, params), *values])
        else:
            torch._foreach_copy_(params, unflatten(new, params))
            self._settle(state, params, states)
        return True

    def _lie_here(self, params: list[Tensor], states: Mapping[Tensor, State]) -> bool:
        """Whether these are the parameters of the last step, and nobody has put other tensors into their states."""
        same = _are_same(params, self._params) and [param.shape for param in params] == self._shapes
        return same and _are_same(_parts(params, states), self._parts)

    def _join(self, params: list[Tensor], states: Mapping[Tensor, State]) -> bool:
        """Bring the states together, if the tensors are alike, and small."""
        own = [states[param] for param in params]
        if len(params) < 2 or len({(p.dtype, p.device, *state) for p, state in zip(params, own, strict=True)}) > 1:
            return False
        sizes = [param.numel() for param in params]
        most = ENTRIES if len(params) >= FEWEST else MEAN * len(params)
        if not all(param.is_cpu for param in params) or not all(sizes) or sum(sizes) > most:
            self._apart = [*params]
            return False
        flat: State = {}
        for name, first in own[0].items():
            values = [state[name] for state in own]
            if all(value is first for value in values):
                flat[name] = first
            elif all(value.shape == param.shape for value, param in zip(values, params, strict=True)):
                flat[name] = flatten(values)
            else:
                return False
        self._settle(flat, params, states)
        return True

    def _settle(self, flat: State, params: list[Tensor], states: Mapping[Tensor, State]) -> None:
        """Keep a copy of these; the parameters' own states become views of it."""
        self._params, self._sizes = [*params], [param.numel() for param in params]
        self._shapes = [param.shape for param in params]
        self._flat = {name: value.clone() for name, value in flat.items()}
        for name, value in self._flat.items():
            views = unflatten(value, params) if value.ndim else [value] * len(params)
            for param, view in zip(params, views, strict=True):
                states[param][name] = view
        self._parts = _parts(params, states)

    def _changes(self, new: State) -> tuple[list[Tensor], list[Tensor]]:
        """Which of the tensors that are kept change, and to what."""
        kept = {*map(id, self._flat.values())}
        changed = [name for name, value in new.items() if value is not self._flat[name]]
        values = [new[name] for name in changed]
        # What may be another of them, or a part of one, would have changed before its turn.
        values = [value.clone() if value._base is not None or id(value) in kept else value for value in values]
        return [self._flat[name] for name in changed], values


def _are_same(tensors: list[Tensor], others: list[Tensor]) -> bool:
    return len(tensors) == len(others) and all(map(is_, tensors, others))


def _parts(params: list[Tensor], states: Mapping[Tensor, State]) -> list[Tensor]:
    """The tensors of all states; this is done at every step."""
    return [*chain.from_iterable(map(dict.values, map(states.__getitem__, params)))]

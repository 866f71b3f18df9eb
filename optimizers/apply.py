"""A pure rule is applied to many tensors: one by one, as lists with foreach kernels, or compiled.

Each takes the rule, its members and the hyperparameters, and returns the new parameter and state of every member.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping, Sequence
from functools import lru_cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from optimizers.tensor_list import Places, TensorList

State = dict[str, Tensor]
Hyperparameters = dict[str, Any]
Rule = Callable[[Any, Any, Any, Any, Hyperparameters], tuple[Any, Any]]
Member = tuple[Tensor, Tensor, Tensor | None, State]
"""A parameter, its gradient, its curvature and its state."""
Applied = list[tuple[Tensor, State]]
FEWEST = 8
"""Tensors that a list pays for on a CPU."""


def evaluate(closure: Callable[[], Tensor] | None) -> Tensor | None:
    """What the closure of a step, PyTorch's usual one, returned; a step itself runs without gradients."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def take(
    run: Callable[[Rule, Sequence[Member], Hyperparameters], Applied],
    rule: Rule,
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    curvatures: Sequence[Tensor | None],
    states: MutableMapping[Tensor, State],
    hp: Hyperparameters,
) -> None:
    """One step: parameters with a gradient, and their states, become what the rule returns."""
    given = zip(params, grads, curvatures, strict=True)
    members = [(p, g, c, states[p]) for p, g, c in given if g is not None and p.numel()]
    if not members:
        return
    used, applied = [param for param, *_ in members], run(rule, members, hp)
    torch._foreach_copy_(used, [param for param, _ in applied])
    states.update(zip(used, (state for _, state in applied), strict=True))


def one_by_one(rule: Rule, members: Sequence[Member], hp: Hyperparameters) -> Applied:
    """A call per tensor."""
    return [rule(*member, hp) for member in members]


def as_lists(
    rule: Rule, members: Sequence[Member], hp: Hyperparameters, fewest: int = 2, largest: float = math.inf
) -> Applied:
    """A call per list of tensors that are alike, at least ``fewest`` and none with more than ``largest`` entries."""
    alike: dict[Any, list[int]] = {}
    for i, (param, _, curvature, state) in enumerate(members):
        # The host knows a count on the CPU, if all have the same.
        counts = tuple(id(v) for v in state.values() if v.ndim == 0) if param.is_cpu else ()
        key = (param.dtype, param.device, curvature is None, tuple(state), counts)
        alone = param.numel() > largest or (param.ndim == 0 and param.dtype.itemsize < 4)  # a count would widen it
        alike.setdefault(i if alone else key, []).append(i)
    applied: dict[int, tuple[Tensor, State]] = {}
    for rows in alike.values():
        run = _as_list if len(rows) >= fewest else one_by_one
        applied |= zip(rows, run(rule, [members[i] for i in rows], hp), strict=True)
    return [applied[i] for i in range(len(members))]


def where_it_pays(rule: Rule, members: Sequence[Member], hp: Hyperparameters) -> Applied:
    """As lists on a GPU. On a CPU they save time per call, but large tensors would leave the cache between calls."""
    if members[0][0].is_cuda:
        return as_lists(rule, members, hp)
    return one_by_one(rule, members, hp) if len(members) < FEWEST else as_lists(rule, members, hp, FEWEST, 2**16)


def directions(
    direction: Callable[[Any, Any, Hyperparameters], Any], members: Sequence[Member], hp: Hyperparameters
) -> list[Tensor]:
    """``direction(grad, state, hp)`` of each member, where it pays as lists."""

    def rule(param: Any, grad: Any, curvature: Any, state: Any, hp: Hyperparameters) -> tuple[Any, Any]:
        return direction(grad, state, hp), {}

    return [found for found, _ in where_it_pays(rule, members, hp)] if members else []


def _as_list(rule: Rule, members: Sequence[Member], hp: Hyperparameters) -> Applied:
    params, grads, curvatures, states = zip(*members, strict=True)
    places = Places(params)
    curvature = None if curvatures[0] is None else TensorList(curvatures, places)
    state = {name: _together([s[name] for s in states], places) for name in states[0]}
    new, new_state = rule(TensorList(params, places), TensorList(grads, places), curvature, state, hp)
    columns = [
        value.side_by_side() if isinstance(value, TensorList) else [value] * len(members)
        for value in new_state.values()
    ]
    return [(param, dict(zip(new_state, row, strict=True))) for param, *row in zip(new, *columns, strict=True)]


def _together(tensors: list[Tensor], places: Places) -> Tensor | TensorList:
    """A step count that all share stays one tensor."""
    if all(t is tensors[0] for t in tensors):
        return tensors[0]
    return TensorList(tensors, places if [t.shape for t in tensors] == places.shapes else None)


def numbers_of(states: Sequence[State], params: Sequence[Tensor]) -> list[State]:
    """The 0-dim tensors of states that were saved, on the parameters' devices, for each parameter.

    Their dtype is their own: PyTorch loads them in the parameter's, and a count would stop growing in half precision.
    Equal counts are one tensor, as they were, so that a list of parameters has one.
    """
    shared: dict[Any, Tensor] = {}
    loaded: list[State] = []
    for state, param in zip(states, params, strict=True):
        loaded.append({})
        for name, value in state.items():
            if torch.is_tensor(value) and value.ndim == 0:
                key = (name, param.device, value.dtype, float(value))
                loaded[-1][name] = shared.setdefault(key, value.to(param.device, copy=True))
    return loaded


def compiled(rule: Rule, members: Sequence[Member], hp: Hyperparameters) -> Applied:
    """All tensors in one compiled graph. The first step, which makes the state, is not worth a graph of its own."""
    if not all(state for *_, state in members):
        return one_by_one(rule, members, hp)
    kind = tuple((param.shape, param.dtype, param.device, c is None) for param, _, c, _ in members)
    numbers = {k: _as_tensor(v, members[0][0]) for k, v in hp.items()}
    applied = _compiled(rule, kind)(rule, list(members), numbers)
    # A number as a tensor makes 0-dim results double, too.
    old = (state for *_, state in members)
    return [(p, {k: v.to(s[k].dtype) for k, v in new.items()}) for (p, new), s in zip(applied, old, strict=True)]


@lru_cache(maxsize=256)
def _compiled(rule: Rule, kind: Any) -> Callable[..., Applied]:
    # A code object for each kind of members: PyTorch counts graphs by code object, and stops to compile at eight.
    code = one_by_one.__code__.replace(co_name=f"one_by_one_{rule.__qualname__}")
    return torch.compile(FunctionType(code, one_by_one.__globals__), dynamic=False)


def _as_tensor(value: Any, like: Tensor) -> Any:
    """Numbers as tensors: a new value of a hyperparameter is no new graph. In double precision, as they were."""
    if isinstance(value, tuple):
        return tuple(_as_tensor(v, like) for v in value)
    return torch.full((), value, dtype=torch.float64, device=like.device) if isinstance(value, float) else value

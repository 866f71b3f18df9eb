"""Three ways to run a pure rule over many tensors: one by one, as lists with foreach kernels, or compiled.

Each takes the rule, then parameters, gradients, curvatures and states, all of them lists in the same order, and the
hyperparameters; and returns the new parameters and the new states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from optimizers.tensor_list import TensorList

State = dict[str, Tensor]
Hyperparameters = dict[str, Any]
Rule = Callable[[Any, Any, Any, Any, Hyperparameters], tuple[Any, Any]]
Applied = tuple[Sequence[Tensor], list[State]]


def one_by_one(
    rule: Rule,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    curvatures: Sequence[Tensor | None],
    states: Sequence[State],
    hp: Hyperparameters,
) -> Applied:
    """A call per tensor."""
    results = [rule(p, g, c, s, hp) for p, g, c, s in zip(params, grads, curvatures, states, strict=True)]
    return [param for param, _ in results], [state for _, state in results]


def as_lists(
    rule: Rule,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    curvatures: Sequence[Tensor | None],
    states: Sequence[State],
    hp: Hyperparameters,
    *,
    fewest: int = 2,
    largest: float = math.inf,
) -> Applied:
    """A call per list of tensors that are alike, at least ``fewest`` and none with more than ``largest`` entries."""
    alike: dict[Any, list[int]] = {}
    for i, (param, curvature, state) in enumerate(zip(params, curvatures, states, strict=True)):
        key = (param.dtype, param.device, curvature is None, tuple(state)) if param.numel() <= largest else i
        alike.setdefault(key, []).append(i)
    new_params, new_states = list(params), list(states)
    for rows in alike.values():
        apply = _as_list if len(rows) >= fewest else one_by_one
        some_params, some_states = apply(
            rule,
            [params[i] for i in rows],
            [grads[i] for i in rows],
            [curvatures[i] for i in rows],
            [states[i] for i in rows],
            hp,
        )
        for i, param, state in zip(rows, some_params, some_states, strict=True):
            new_params[i], new_states[i] = param, state
    return new_params, new_states


def where_it_pays(
    rule: Rule,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    curvatures: Sequence[Tensor | None],
    states: Sequence[State],
    hp: Hyperparameters,
) -> Applied:
    """As lists on a GPU. On a CPU they save time per call, but large tensors would leave the cache between calls."""
    limits = {} if params[0].is_cuda else {"fewest": 8, "largest": 2**16}
    return as_lists(rule, params, grads, curvatures, states, hp, **limits)


def _as_list(
    rule: Rule,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    curvatures: Sequence[Tensor | None],
    states: Sequence[State],
    hp: Hyperparameters,
) -> Applied:
    curvature = None if curvatures[0] is None else TensorList(curvatures)
    state = {name: _together([s[name] for s in states]) for name in states[0]}
    new, new_state = rule(TensorList(params), TensorList(grads), curvature, state, hp)
    each = range(len(params))
    return new, [{k: v[i] if isinstance(v, TensorList) else v for k, v in new_state.items()} for i in each]


def _together(tensors: list[Tensor]) -> Tensor | TensorList:
    """A step count that all share stays one tensor."""
    return tensors[0] if all(t is tensors[0] for t in tensors) else TensorList(tensors)


def compiled(
    rule: Rule,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    curvatures: Sequence[Tensor | None],
    states: Sequence[State],
    hp: Hyperparameters,
) -> Applied:
    """All tensors in one compiled graph. The first step, which makes the state, is not worth a graph of its own."""
    if not all(states):
        return one_by_one(rule, params, grads, curvatures, states, hp)
    return _compiled(rule)(
        rule, params, grads, curvatures, states, {k: _as_tensor(v, params[0]) for k, v in hp.items()}
    )


@cache
def _compiled(rule: Rule) -> Callable[..., Applied]:
    # A code object of its own: PyTorch counts graphs by code object, and stops to compile at eight.
    code = one_by_one.__code__.replace(co_name=f"one_by_one_{rule.__qualname__}")
    return torch.compile(FunctionType(code, one_by_one.__globals__), dynamic=False)


def _as_tensor(value: Any, like: Tensor) -> Any:
    """Numbers as tensors: a new value of a hyperparameter is no new graph."""
    if isinstance(value, tuple):
        return tuple(_as_tensor(v, like) for v in value)
    return torch.full((), value, dtype=like.dtype, device=like.device) if isinstance(value, float) else value

"""A pure rule runs over a stack of members, under ``vmap``: which optimizers can be in one, and what in them may
differ."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from inspect import getattr_static, unwrap
from typing import Any

import torch
from torch import Tensor

from optimizers.apply import Hyperparameters, Rule
from optimizers.base import CurvatureOptimizer
from optimizers.curvature.interface import Estimator
from optimizers.first_order import FirstOrderOptimizer
from optimizers.stacking import replay
from optimizers.stacking.first_order import PURE
from optimizers.stacking.recording import Program

Constants = tuple[tuple[str, Any], ...]
Layout = tuple[tuple[int, bool, tuple[str, ...]], ...]
"""Per tensor: which parameter it is, whether there is a curvature, and the names of its state."""


def stack_key(optimizer: torch.optim.Optimizer) -> Hashable | None:
    """What must be the same in all members of a stack; ``None`` for an optimizer that cannot be in one.

    That is one with several parameter groups, without a pure rule, or with steps or hooks of its own.
    """
    hooked = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    if hooked or len(optimizer.param_groups) != 1 or optimizer.param_groups[0].get("maximize"):
        return None
    hp = hyperparameters(optimizer)
    constants = tuple((name, None if _is_number(value) else value) for name, value in sorted(hp.items()))
    if not isinstance(optimizer, CurvatureOptimizer):
        known = first_order_rule(optimizer) is not None and not any(isinstance(value, Tensor) for value in hp.values())
        return (type(optimizer), repr(constants)) if known else None
    estimator = optimizer.estimator
    if any(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval")):
        return None
    if not all(isinstance(getattr_static(optimizer, name), staticmethod) for name in ("update", "direction")):
        return None
    own_step = any(
        unwrap(getattr(type(optimizer), name)) is not unwrap(getattr(CurvatureOptimizer, name))  # PyTorch wraps steps
        for name in ("step", "differentiate", "curvature_shape", "_refreshes", "_apply")
    )
    if own_step or (estimator.previous_gradients and not stacks(estimator)) or isinstance(hp.get("lr"), Tensor):
        return None
    return (
        type(optimizer),
        repr(constants),
        type(estimator),
        repr(sorted(vars(estimator).items())),
        optimizer.update_period,
    )


def first_order_rule(optimizer: torch.optim.Optimizer) -> Rule | None:
    """The pure rule of an optimizer without curvature; ``None`` where there is none that does all of a step."""
    if not isinstance(optimizer, FirstOrderOptimizer):
        return PURE.get(type(optimizer))
    own_step = unwrap(type(optimizer).step) is not unwrap(FirstOrderOptimizer.step)  # PyTorch wraps steps
    switched = any(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval"))
    pure = isinstance(getattr_static(optimizer, "update"), staticmethod)
    return optimizer.update if pure and not own_step and not switched else None


def stacks(estimator: Estimator) -> bool:
    """Whether its own class says so: what a subclass does may be something else."""
    return bool(vars(type(estimator)).get("stacks", False))


PROGRAMS: dict[Any, Program] = {}
"""What was recorded of rules, for the next stacks; which rules, layouts and shapes there are, is for a task to say."""


def traced(
    rule: Rule, layout: Layout, numbers: tuple[str, ...], constants: Constants, kinds: tuple[Any, ...]
) -> tuple[replay.Traced, list[tuple[str, ...]]]:
    """A rule over a stack of several tensors, and the names of each tensor's new state, known once it has been called.

    It takes for each tensor parameter, gradient, curvature where there is one, and state; then the numbers. It returns
    the new parameters, then the new states. A replay may write them over the old ones.
    """
    names: list[tuple[str, ...]] = []

    def member(*inputs: Tensor) -> list[Tensor]:
        rest = iter(inputs)
        tensors = []
        for _, curved, state in layout:
            param, grad = next(rest), next(rest)
            tensors.append((param, grad, next(rest) if curved else None, {name: next(rest) for name in state}))
        hp = merge(constants, {name: next(rest) for name in numbers})
        applied = [rule(param, grad, curvature, state, hp) for param, grad, curvature, state in tensors]
        names[:] = [tuple(state) for _, state in applied]
        return [*(param for param, _ in applied), *(value for _, state in applied for value in state.values())]

    def given() -> dict[int, int]:
        """Places of parameters and states among the inputs, and of what replaces them among the outputs."""
        old = [name for i, (_, curved, state) in enumerate(layout) for name in _named(i, ("", *state), curved)]
        new = [(i, "") for i in range(len(layout))] + [(i, name) for i, state in enumerate(names) for name in state]
        return {place: new.index(name) for place, name in enumerate(old) if name in new}

    return replay.Traced(torch.vmap(member), PROGRAMS, (rule, layout, numbers, constants, kinds), given), names


def _named(tensor: int, own: tuple[str, ...], curved: bool) -> list[tuple[int, str] | None]:
    """A tensor's inputs by name: the parameter, with no name, and states; gradient and curvature are ``None``."""
    return [(tensor, own[0]), None, *([None] if curved else []), *((tensor, name) for name in own[1:])]


def merge(constants: Constants, numbers: Mapping[str, Tensor]) -> Hyperparameters:
    """A member's hyperparameters; a number named ``betas.1`` is the second of a tuple."""
    hp = dict(constants)
    for name, value in numbers.items():
        whole, _, index = name.partition(".")
        hp[whole] = (*hp[whole][: int(index)], value, *hp[whole][int(index) + 1 :]) if index else value
    return hp


def stack_numbers(
    members: Sequence[Hyperparameters], like: Tensor, always: Sequence[str]
) -> tuple[Constants, dict[str, Tensor]]:
    """The hyperparameters as the first member has them; and those in which members differ, (members,) each."""
    numbers: dict[str, Tensor] = {}
    constants: dict[str, Any] = {}
    dtype = torch.promote_types(like.dtype, torch.float32)  # as ``new_count``: in half precision 0.999 would be 1
    for name, first in members[0].items():
        several = _is_tuple(first)
        entries = list(first) if several else [first]
        for i in range(len(entries)):
            values = [hp[name][i] if several else hp[name] for hp in members]
            if name in always or any(value != values[0] for value in values):
                numbers[f"{name}.{i}" if several else name] = torch.tensor(values, dtype=dtype, device=like.device)
                entries[i] = 0.0  # whatever it is: a recording is known by the constants
        constants[name] = tuple(entries) if several else entries[0]
    return tuple(constants.items()), numbers


def hyperparameters(optimizer: torch.optim.Optimizer) -> Hyperparameters:
    group = optimizer.param_groups[0]
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in group.items() if name != "params"
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_tuple(value)


def _is_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(v, float) for v in value)

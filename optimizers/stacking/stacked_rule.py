"""A pure rule is applied to a stack: where it is elementwise, to the buffer in which all tensors lie, else to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.apply import Rule, State
from optimizers.stacking import replay
from optimizers.stacking.capture import Captures, Held
from optimizers.stacking.cuda_graph import bring_to_places
from optimizers.stacking.flat import Operations, Places, Room
from optimizers.stacking.recording import Flat
from optimizers.stacking.rule import Constants, Layout, traced

Given = tuple[Tensor, Tensor, Tensor | None, State]
"""A stacked parameter, its gradient, its curvature and its state."""
ELEMENTWISE: dict[Any, bool] = {}
"""Whether rules were found to be elementwise, by all that what they do may depend on."""
CAPTURED = "the rule of stacks"


class StackedRule:
    """A rule and its states in a stack.

    Args:
        rule: of one member's tensor.
        constants: the hyperparameters, without those in which members differ.
        params: the stack's, (members, ...) each, changed in row.
        buffer: in which they lie, (members, width), if they do.
        captures: where steps become CUDA graphs, for which states stay where they are.
    """

    def __init__(
        self,
        rule: Rule,
        constants: Constants,
        params: Sequence[Tensor],
        buffer: Tensor | None,
        captures: Captures | None = None,
    ) -> None:
        self.rule = rule
        self.constants = constants
        self._captures = captures
        self._owner: tuple[int, ...] | None = None
        self._each: list[State] = [{} for _ in params]
        self._whole: State | None = None
        self.take(params, buffer)

    def take(self, params: Sequence[Tensor], buffer: Tensor | None) -> None:
        """Go on with these in place of the parameters."""
        self._data = [param.detach() for param in params]
        self._buffer = buffer
        self._places = Places([param.shape[1:] for param in params])
        self._rules: dict[Layout, tuple[replay.Traced, list[tuple[str, ...]]]] = {}
        self._elementwise: dict[tuple[bool, tuple[str, ...]], bool] = {}
        self._rooms: dict[str, Room] = {}
        self._of_params = {param.untyped_storage().data_ptr() for param in self._data if param.numel()}

    @property
    def states(self) -> list[State]:
        """For each parameter, (members, ...) each, or (members,) for a number."""
        if self._whole is None:
            return self._each
        split = {name: self._split(value) for name, value in self._whole.items()}
        return [{name: values[i] for name, values in split.items()} for i in range(len(self._data))]

    @states.setter
    def states(self, states: list[State]) -> None:
        self._each, self._whole, self._owner = states, None, None

    def recheck_next_step(self) -> None:
        """Compare the next replay with the rule itself."""
        for rule, _ in self._rules.values():
            rule.recheck_next_replay()

    def apply(
        self, grads: Sequence[Tensor | None], curvatures: Sequence[Tensor | None], numbers: Mapping[str, Tensor]
    ) -> None:
        """One step.

        Args:
            grads, curvatures: of each parameter, or ``None``.
            numbers: the hyperparameters in which members differ, (members,) each.
        """
        used = [i for i, grad in enumerate(grads) if grad is not None and grad.numel()]
        if not used:
            return
        whole = self._as_whole(grads, curvatures, numbers) if len(used) == len(self._data) > 1 else None
        if whole is not None:
            (self._whole,) = self._run((-1,), [whole], numbers)
            return
        states = self.states
        given: list[Given] = [(self._data[i], grads[i], curvatures[i], states[i]) for i in used]
        for i, state in zip(used, self._run(tuple(used), given, numbers), strict=True):
            states[i] = state
        self._each, self._whole = states, None

    def _run(self, which: tuple[int, ...], given: Sequence[Given], numbers: Mapping[str, Tensor]) -> list[State]:
        """Set the parameters; the new states."""
        layout = tuple(
            (i, curvature is not None, tuple(state)) for i, (*_, curvature, state) in zip(which, given, strict=True)
        )
        inputs = [t for param, grad, curvature, state in given for t in (param, grad, curvature, *state.values())]
        tensors = [tensor for tensor in (*inputs, *numbers.values()) if tensor is not None]
        if layout not in self._rules:
            signature = replay.signature(tensors)
            self._rules[layout] = traced(self.rule, layout, tuple(numbers), self.constants, signature)
        rule, names = self._rules[layout]
        alike = names == [tuple(state) for *_, state in given]
        if self._captures is not None and rule.settled is not None and self._owner == which and alike:
            self._run_captured(self._captures, layout, rule.settled, given, tensors)
            return [state for *_, state in given]
        new = iter(rule(*tensors))
        params = [next(new) for _ in given]
        states = [{name: self._own(next(new)) for name in of_state} for of_state in names]
        moved = [(param, value) for (param, *_), value in zip(given, params, strict=True) if value is not param]
        if moved:
            torch._foreach_copy_(*map(list, zip(*moved, strict=True)))
        return states if self._captures is None else self._in_their_places(self._captures, which, given, states)

    def _own(self, value: Tensor) -> Tensor:
        """A state that is not where parameters are, nor what the next step's gradients are brought to."""
        storage = value.untyped_storage().data_ptr()
        held = (room.buffer.untyped_storage().data_ptr() for room in self._rooms.values())
        return value.clone() if storage in self._of_params or storage in held else value

    def _in_their_places(
        self, captures: Captures, which: tuple[int, ...], given: Sequence[Given], new: list[State]
    ) -> list[State]:
        """The states, where those before were if they are the rule's own, and like them."""
        old = [state for *_, state in given]
        if self._owner == which and list(map(_kinds, old)) == list(map(_kinds, new)):
            bring_to_places(
                [value for state in new for value in state.values()], [v for state in old for v in state.values()]
            )
            return old
        captures.forget(CAPTURED)
        self._owner = which
        return [{name: value.clone() for name, value in state.items()} for state in new]

    def _run_captured(
        self, captures: Captures, layout: Layout, rule: Flat, given: Sequence[Given], tensors: Sequence[Tensor]
    ) -> None:
        """Set parameters and states, where they are, by a CUDA graph once there is one."""
        places = [place for param, *_, state in given for place in (param, *state.values())]
        used = [*places, *(room.buffer for room in self._rooms.values())]
        kept = set(map(id, used))
        moving = [i for i, tensor in enumerate(tensors) if id(tensor) not in kept]

        def in_place(*inputs: Tensor) -> list[Tensor | None]:
            with torch.no_grad():
                every = list(tensors)
                for i, tensor in zip(moving, inputs, strict=True):
                    every[i] = tensor
                new = iter(rule(*every))
                params = [next(new) for _ in given]
                states = [[next(new) for _ in state] for *_, state in given]
                bring_to_places(
                    [value for param, state in zip(params, states, strict=True) for value in (param, *state)], places
                )
            return []

        captures.call(CAPTURED, layout, in_place, [tensors[i] for i in moving], Held(used, places))

    def _as_whole(
        self, grads: Sequence[Tensor | None], curvatures: Sequence[Tensor | None], numbers: Mapping[str, Tensor]
    ) -> Given | None:
        """All parameters as one, where the rule is elementwise and there is a buffer."""
        curved = {curvature is not None for curvature in curvatures}
        names = self._names()
        if self._buffer is None or len(curved) > 1 or names is None:
            return None
        kind = (True in curved, names)
        # One that reduces at some steps is of each tensor at all: states that came together later would not stay.
        if False in self._elementwise.values() or not self._join_states(names):
            return None
        assert self._whole is not None
        curvature = self._side_by_side("curvature", curvatures) if True in curved else None
        whole: Given = (self._buffer, self._side_by_side("grad", grads), curvature, self._whole)
        if kind not in self._elementwise:
            each = list(zip(self._data, grads, curvatures, self.states, strict=True))
            self._elementwise[kind] = self._is_elementwise(kind, whole, each, numbers)
        if self._elementwise[kind]:
            return whole
        self._rooms.clear()
        return None

    def _side_by_side(self, name: str, tensors: Sequence[Tensor | None]) -> Tensor:
        """All parameters' tensors of a step in the buffer that is theirs."""
        given = [tensor for tensor in tensors if tensor is not None]
        if name not in self._rooms:
            self._rooms[name] = Room(self._places, given[0])
        return self._rooms[name].filled(given)

    def _is_elementwise(
        self, kind: tuple[bool, tuple[str, ...]], whole: Given, each: Sequence[Any], numbers: Mapping[str, Tensor]
    ) -> bool:
        """As it was found out for this rule, here or in an earlier stack."""
        ranks = frozenset(param.dim() for param in self._data)
        of_buffer = (whole[0].dtype, whole[0].device, ranks)
        key = (self.rule, self.constants, *numbers, of_buffer, kind)
        if key not in ELEMENTWISE:
            ELEMENTWISE[key] = self._does_the_same(whole, each, numbers)
        return ELEMENTWISE[key]

    def _does_the_same(self, whole: Given, each: Sequence[Given], numbers: Mapping[str, Tensor]) -> bool:
        """Whether the rule does the same elementwise operations to the whole as to each tensor."""
        done = []
        for param, grad, curvature, state in (whole, *(given for given in each if given[0][0].numel() > 1)):
            inputs = [t for t in (param, grad, curvature, *state.values(), *numbers.values()) if t is not None]
            layout = ((0, curvature is not None, tuple(state)),)
            rule, _ = traced(self.rule, layout, tuple(numbers), self.constants, ())
            with Operations(len(param)) as operations:
                rule.run(inputs)
            if not operations.elementwise:
                return False
            done.append(operations.done)
        return len(done) > 1 and all(other == done[0] for other in done)

    def _split(self, value: Tensor) -> list[Tensor]:
        return [value] * len(self._data) if value.dim() == 1 else self._places.views(value)

    def _names(self) -> tuple[str, ...] | None:
        """Of the states; ``None`` where they are not alike."""
        if self._whole is not None:
            return tuple(self._whole)
        names = tuple(self._each[0])
        return names if all(tuple(state) == names for state in self._each) else None

    def _join_states(self, names: tuple[str, ...]) -> bool:
        """Bring the parameters' states together, where they are alike."""
        if self._whole is not None:
            return True
        whole: State = {}
        for name in names:
            values = [state[name] for state in self._each]
            if all(_alike(value, param, values[0]) for value, param in zip(values, self._data, strict=True)):
                whole[name] = self._places.buffer(values)
            elif all(value.dim() == 1 for value in values) and all(torch.equal(value, values[0]) for value in values):
                whole[name] = values[0]
            else:
                return False
        self._whole = whole
        return True


def _alike(value: Tensor, param: Tensor, first: Tensor) -> bool:
    return value.shape == param.shape and value.dtype == first.dtype


def _kinds(state: State) -> list[tuple[Any, ...]]:
    return [(name, value.shape, value.dtype) for name, value in state.items()]

"""A stacked optimizer steps many members as one: every tensor has them as its first dimension.

The members' optimizers are ordinary ones; what they share becomes one rule, under ``vmap``, with the hyperparameters in
which they differ as tensors of one number per member.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from optimizers.apply import State
from optimizers.base import CURVATURE_KEY, PROBE_SALT, CurvatureOptimizer
from optimizers.curvature.estimators import Hutchinson
from optimizers.curvature.interface import Estimator, Refresh
from optimizers.curvature.probes import Draw, Streams
from optimizers.stacking.capture import Captures
from optimizers.stacking.problem import (
    Problem,
    bounds_of,
    clipped,
    gradients,
    gradients_with_graph,
    plain_gradients,
)
from optimizers.stacking.replay import ChangedError
from optimizers.stacking.rule import first_order_rule, hyperparameters, merge, stack_numbers, stacks
from optimizers.stacking.stacked_rule import StackedRule

APART = "members seen apart"
"""Noted where the estimator cannot see the whole stack."""


class StackedOptimizer:
    """The optimizers of members that train in lockstep, as one.

    Args:
        members: one optimizer each, of the same ``stack_key``, made with one and the same list of parameters.
        params: the stack's, (members, ...) each, changed in row.
        buffer: in which they lie, (members, width), if they do.
        scheduled: whether ``step`` will be given factors of the learning rate.
        captures: where steps of the rule become CUDA graphs.
    """

    def __init__(
        self,
        members: Sequence[torch.optim.Optimizer],
        params: list[Tensor],
        buffer: Tensor | None = None,
        *,
        scheduled: bool,
        captures: Captures | None = None,
    ) -> None:
        self.members = list(members)
        self.params = params
        self.steps = 0
        self.grad_equivalents = 0.0
        self._previous: list[Tensor | None] = [None] * len(params)
        self._used: list[int] = []
        self._cost = 0.0
        self._memory: dict[str, Any] = {}
        self._now: dict[str, Tensor] = {}
        first = members[0]
        rule = first.update if isinstance(first, CurvatureOptimizer) else first_order_rule(first)
        if rule is None:
            raise ValueError(f"{type(first).__name__} has no pure rule")
        self._curved = first if isinstance(first, CurvatureOptimizer) else None
        self._constants, self._numbers = stack_numbers(
            [hyperparameters(member) for member in members], params[0], ("lr",) if scheduled else ()
        )
        self._captures = captures
        self._rule = StackedRule(rule, self._constants, params, buffer, captures)
        seeds = [member._seed for member in members if isinstance(member, CurvatureOptimizer)]
        self._streams = _streams(seeds, params[0].device) if self._curved else None

    @property
    def update_period(self) -> int:
        """See ``OfMembers``."""
        return self._curved.update_period if self._curved else 1

    @torch.no_grad()
    def step(
        self, problem: Problem, lr_factors: Sequence[float] = (1.0,), max_grad_norm: float | Tensor | None = None
    ) -> Tensor:
        """See ``OfMembers``."""
        optimizer = self._curved
        self._now = self._numbers
        if "lr" in self._numbers and (len(lr_factors) > 1 or lr_factors[0] != 1.0):
            lr = self._numbers["lr"]
            of_each = lr_factors[0] if len(lr_factors) == 1 else lr.new_tensor(lr_factors)
            self._now = self._numbers | {"lr": lr * of_each}
        refresh = self.steps % self.update_period == 0
        if optimizer is None or not refresh:
            losses, grads = plain_gradients(problem)
            self.grad_equivalents += 1.0
            applied = clipped(grads, max_grad_norm)
            curvatures: list[Tensor | None] = [None] * len(grads)
        elif stacks(optimizer.estimator) and (refreshed := self._refresh(optimizer, problem, max_grad_norm)):
            losses, grads, applied, curvatures = refreshed
        else:
            self._not_captured(optimizer.estimator)
            losses, applied, curvatures = self._refresh_each(problem, max_grad_norm)
            grads = applied
        self._rule.apply(applied, curvatures, self._now)
        if optimizer is not None and optimizer.estimator.previous_gradients:
            self._previous = grads
        self.steps += 1
        return losses

    def member_optimizer(self, row: int) -> torch.optim.Optimizer:
        """See ``OfMembers``."""
        member = self.members[row]
        params = [param for group in member.param_groups for param in group["params"]]
        for param, state in zip(params, self._rule.states, strict=True):
            if state:
                member.state[param] = {name: value[row] for name, value in state.items()}
        return member

    @property
    def costs(self) -> list[float]:
        """See ``OfMembers``."""
        return [self.grad_equivalents] * len(self.members)

    note = ""
    """There is nothing to be known of how a pure rule steps."""

    def switch(self, mode: str) -> None:
        """No pure rule keeps weights for evaluation apart from those to train."""

    def recheck_next_step(self) -> None:
        """Compare the next step of the rule as it was recorded with the rule itself."""
        self._rule.recheck_next_step()

    def state_dict(self) -> dict[str, Any]:
        """See ``OfMembers``; the tensors are the stack's own."""
        generators = self._streams.generators if self._streams else []
        curved = [member for member in self.members if isinstance(member, CurvatureOptimizer)]
        return {
            "steps": self.steps,
            "grad_equivalents": self.grad_equivalents,
            "states": self._rule.states,
            "previous": self._previous,
            "used": self._used,
            "cost": self._cost,
            "memory": self._memory,
            "generators": [generator.get_state() for generator in generators],
            "members": [member.state_dict()[CURVATURE_KEY] for member in curved],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``OfMembers``."""
        device = self.params[0].device
        self.steps, self.grad_equivalents = state["steps"], state["grad_equivalents"]
        states = [{name: value.to(device) for name, value in saved.items()} for saved in state["states"]]
        self._rule.states = states
        self._previous = [None if grad is None else grad.to(device) for grad in state["previous"]]
        self._used, self._cost, self._memory = list(state["used"]), state["cost"], state["memory"]
        generators = self._streams.generators if self._streams else []
        for generator, saved in zip(generators, state["generators"], strict=True):
            generator.set_state(saved.cpu())
        curved = [member for member in self.members if isinstance(member, CurvatureOptimizer)]
        for member, saved in zip(curved, state["members"], strict=True):
            member.load_state_dict(member.state_dict() | {CURVATURE_KEY: saved})

    def keep(self, rows: Tensor, params: list[Tensor], buffer: Tensor | None = None) -> None:
        """See ``OfMembers``."""
        self.params = params
        states = [{name: value[rows] for name, value in state.items()} for state in self._rule.states]
        self._rule.take(params, buffer)
        self._rule.states = states
        chosen = rows.tolist()
        self.members = [self.members[row] for row in chosen]
        self._previous = [None if grad is None else grad[rows] for grad in self._previous]
        self._numbers = {name: value[rows] for name, value in self._numbers.items()}
        if self._streams:
            self._streams.stream_of = self._streams.stream_of[rows]

    def _refresh(
        self, optimizer: CurvatureOptimizer, problem: Problem, max_grad_norm: float | Tensor | None
    ) -> tuple[Tensor, list[Tensor | None], list[Tensor | None], list[Tensor | None]] | None:
        """Losses, gradients as they are and as the rule is to see them, curvatures.

        ``None`` where the estimator needs outputs of the whole stack, and there are none.
        """
        estimator = optimizer.estimator
        if type(estimator) is Hutchinson and self._used:
            losses, grads, estimates = self._replayed(estimator, problem)
            applied = clipped([None if g is None else g.detach() for g in grads], max_grad_norm)
        else:
            if (differentiated := self._differentiate(estimator, problem)) is None:
                return None
            losses, grads, outputs, record = differentiated
            applied = clipped([None if g is None else g.detach() for g in grads], max_grad_norm)
            self._used = [i for i, grad in enumerate(grads) if grad is not None]
            with torch.enable_grad():
                assert self._streams is not None
                previous, directions = [self._previous[i] for i in self._used], lambda: self._directions(applied)
                refresh = _as_seen(losses, self.params, grads, self._streams, previous, directions)
                refresh = replace(refresh, outputs=outputs, record=record, memory=self._memory)
                estimates = list(estimator(refresh))
            self._cost = estimator.cost(refresh)
        curvatures: list[Tensor | None] = [None] * len(grads)
        for i, estimate in zip(self._used, estimates, strict=True):
            curvatures[i] = None if estimate is None else estimate.detach()
        self.grad_equivalents += self._cost
        self.grad_equivalents += 1.0
        return losses.detach(), [None if g is None else g.detach() for g in grads], applied, curvatures

    def _differentiate(
        self, estimator: Estimator, problem: Problem
    ) -> tuple[Tensor, list[Tensor | None], Tensor | None, Any] | None:
        """Losses, their gradients, the outputs, with what of their graph the estimator goes back through, and what it
        saw of the forward pass."""
        if estimator.differentiates and type(estimator) is not Hutchinson:
            self._not_captured(estimator)
        if estimator.needs_outputs:
            return self._with_outputs(estimator, problem)
        if estimator.differentiates:
            return *gradients_with_graph(problem, self.params), None, None
        return *plain_gradients(problem), None, None

    def _with_outputs(
        self, estimator: Estimator, problem: Problem
    ) -> tuple[Tensor, list[Tensor | None], Tensor, Any] | None:
        """As ``_differentiate``; the forward pass of a first refresh that finds members to be seen apart is undone."""
        if self._memory.get(APART):
            return None
        before = [] if self._used else [buffer.clone() for buffer in problem.buffers()]
        with torch.enable_grad(), estimator.watch_stack(self.params) as record:
            found = problem.losses_and_outputs()
            if found is not None:
                estimator.follow_stack(record, *found, self.params, self._memory)
        if found is None or estimator.sees_apart(record):
            if self._used:
                raise ChangedError("members of a stack that could be seen at once no longer can")
            self._memory[APART] = True
            for buffer, kept in zip(problem.buffers(), before, strict=True):
                buffer.copy_(kept)
            return None
        return found[0], gradients(found[0], self.params, retain_graph=True), found[1], record

    def _not_captured(self, estimator: Estimator) -> None:
        if self._captures is not None:
            self._captures.give_up(f"the refresh of stacks by {type(estimator).__name__}", "it is not recorded")

    def _replayed(
        self, estimator: Hutchinson, problem: Problem
    ) -> tuple[Tensor, list[Tensor | None], list[Tensor | None]]:
        """Losses, gradients and estimates from probes that are drawn before."""
        used, streams = self._used, self._streams
        assert streams is not None
        params = [self.params[i] for i in used]
        probes = [probe for _ in range(estimator.samples) for probe in streams.draw(estimator.draw, params)]

        def finish(losses: Tensor, params: list[Tensor], probes: list[Tensor]) -> list[Tensor | None]:
            grads = gradients(losses, params, create_graph=True)
            return [losses.detach(), *grads, *estimator(_as_seen(losses, params, grads, Given(probes)))]

        losses, *rest = problem.replay(("hutchinson", estimator.samples, tuple(used)), finish, probes, exact=True)
        assert losses is not None
        return losses, rest[: len(self.params)], rest[len(self.params) :]

    def _refresh_each(
        self, problem: Problem, max_grad_norm: float | Tensor | None
    ) -> tuple[Tensor, list[Tensor | None], list[Tensor | None]]:
        """An estimator that knows nothing of stacks: each member for itself."""
        differentiated = []
        bounds = bounds_of(max_grad_norm, len(self.members))
        for row in range(len(self.members)):
            member = self.member_optimizer(row)
            assert isinstance(member, CurvatureOptimizer)
            member._steps, member.grad_equivalents = self.steps, self.grad_equivalents
            params = [param for group in member.param_groups for param in group["params"]]
            closure = problem.closure(row, params, lambda: True)
            differentiated.append(member.differentiate(closure, max_grad_norm=bounds[row]))
        self.grad_equivalents = member.grad_equivalents
        losses, grads, curvatures = zip(*differentiated, strict=True)
        return (
            torch.stack(losses),
            [_stack_given(tensors) for tensors in zip(*grads, strict=True)],
            [_stack_given(tensors) for tensors in zip(*curvatures, strict=True)],
        )

    def _directions(self, grads: list[Tensor | None]) -> list[Tensor]:
        assert self._curved is not None
        direction, constants = self._curved.direction, self._constants

        def of_member(grad: Tensor, state: State, numbers: dict[str, Tensor]) -> Tensor:
            return direction(grad, state, merge(constants, numbers))

        given = [(grad, state) for grad, state in zip(grads, self._rule.states, strict=True) if grad is not None]
        return [torch.vmap(of_member)(grad, state, self._now) for grad, state in given]


def _as_seen(
    losses: Tensor,
    params: list[Tensor],
    grads: list[Tensor | None],
    streams: Streams,
    previous: Sequence[Tensor | None] = (),
    directions: Callable[[], list[Tensor]] = list,
) -> Refresh:
    """A stack's step as an estimator sees it."""
    used = [i for i, grad in enumerate(grads) if grad is not None]
    return Refresh(
        loss=losses.sum(),
        outputs=None,
        params=[params[i] for i in used],
        indices=used,
        grads=[grad for grad in grads if grad is not None],
        previous_grads=previous,
        directions=directions,
        generator=streams,
        record=None,
        memory={},
    )


class Given(Streams):
    """Draws that were made before."""

    def __init__(self, drawn: list[Tensor]) -> None:
        self.drawn = iter(drawn)

    def draw(self, draw: Draw, like: Sequence[Tensor]) -> list[Tensor]:
        return [next(self.drawn) for _ in like]


def _streams(seeds: Sequence[int], device: torch.device) -> Streams:
    """Probes' generators as ``CurvatureOptimizer`` makes them."""
    different = list(dict.fromkeys(seeds))
    generators = [torch.Generator(device).manual_seed(seed ^ PROBE_SALT) for seed in different]
    return Streams(generators, torch.tensor([different.index(seed) for seed in seeds], device=device))


def _stack_given(tensors: Sequence[Tensor | None]) -> Tensor | None:
    given = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(given) if len(given) == len(tensors) else None

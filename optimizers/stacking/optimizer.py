"""A stacked optimizer steps many members as one: every tensor has them as its first dimension.

The members' optimizers are ordinary ones; what they share becomes one rule, under ``vmap``, with the hyperparameters in
which they differ as tensors of one number per member.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from optimizers.apply import Rule, State
from optimizers.arithmetic import CLIP_EPS
from optimizers.base import CURVATURE_KEY, PROBE_SALT, Closure, CurvatureOptimizer
from optimizers.curvature.estimators import Hutchinson
from optimizers.curvature.interface import Refresh, twice_differentiable
from optimizers.curvature.probes import Draw, Streams
from optimizers.stacking import replay
from optimizers.stacking.rule import Layout, first_order_rule, hyperparameters, merge, stack_numbers, stacks, traced

Finish = Callable[[Tensor, list[Tensor], list[Tensor]], list[Tensor | None]]
"""What is wanted of losses, (members,) with their graph, of the stacked parameters and of further tensors."""


class Problem(Protocol):
    """What a stack minimises at one step."""

    def replay(self, name: Hashable, finish: Finish, further: list[Tensor], *, exact: bool) -> list[Tensor | None]:
        """What ``finish`` returns, which must depend on its arguments alone: it is traced once per name.

        Args:
            exact: whether the network runs in full precision.
        """

    def losses(self) -> Tensor:
        """The losses, (members,), in full precision and with their graph, which can be differentiated twice."""

    def closure(self, row: int) -> Closure:
        """That of one member alone, over the parameters that the members' optimizers were made with."""


class StackedOptimizer:
    """The optimizers of members that train in lockstep, as one.

    Args:
        members: one optimizer each, of the same ``stack_key``, made with one and the same list of parameters.
        params: the stack's, (members, ...) each, changed in row.
        scheduled: whether ``step`` will be given factors of the learning rate.
    """

    def __init__(self, members: Sequence[torch.optim.Optimizer], params: list[Tensor], *, scheduled: bool) -> None:
        self.members = list(members)
        self._take(params)
        self.steps = 0
        self.grad_equivalents = 0.0
        self.states: list[State] = [{} for _ in params]
        self._previous: list[Tensor | None] = [None] * len(params)
        self._used: list[int] = []
        self._cost = 0.0
        self._now: dict[str, Tensor] = {}
        first = members[0]
        rule = first.update if isinstance(first, CurvatureOptimizer) else first_order_rule(first)
        if rule is None:
            raise ValueError(f"{type(first).__name__} has no pure rule")
        self.rule: Rule = rule
        self._curved = first if isinstance(first, CurvatureOptimizer) else None
        self._constants, self._numbers = stack_numbers(
            [hyperparameters(member) for member in members], params[0], ("lr",) if scheduled else ()
        )
        seeds = [member._seed for member in members if isinstance(member, CurvatureOptimizer)]
        self._streams = _streams(seeds, params[0].device) if self._curved else None

    @property
    def update_period(self) -> int:
        """Steps from one refresh to the next, at which steps are alike."""
        return self._curved.update_period if self._curved else 1

    @torch.no_grad()
    def step(
        self, problem: Problem, lr_factor: float | Tensor = 1.0, max_grad_norm: float | Tensor | None = None
    ) -> Tensor:
        """One step of every member; the losses before it, (members,), detached.

        Args:
            lr_factor: of all members, or of each, (members,).
            max_grad_norm: of all members, or of each, (members,), infinite for none.
        """
        optimizer = self._curved
        self._now = self._numbers
        if "lr" in self._numbers and (isinstance(lr_factor, Tensor) or lr_factor != 1.0):
            self._now = self._numbers | {"lr": self._numbers["lr"] * lr_factor}
        refresh = self.steps % self.update_period == 0
        if optimizer is None or not refresh:
            losses, grads = _plain(problem)
            self.grad_equivalents += 1.0
            applied = _clipped(grads, max_grad_norm)
            curvatures: list[Tensor | None] = [None] * len(grads)
        elif stacks(optimizer.estimator):
            losses, grads, applied, curvatures = self._refresh(optimizer, problem, max_grad_norm)
        else:
            losses, applied, curvatures = self._refresh_each(problem, max_grad_norm)
            grads = applied
        self._apply(applied, curvatures)
        if optimizer is not None and optimizer.estimator.previous_gradients:
            self._previous = grads
        self.steps += 1
        return losses

    def member_optimizer(self, row: int) -> torch.optim.Optimizer:
        """A member's own optimizer, with the state that it would have by now."""
        member = self.members[row]
        params = [param for group in member.param_groups for param in group["params"]]
        for param, state in zip(params, self.states, strict=True):
            if state:
                member.state[param] = {name: value[row] for name, value in state.items()}
        return member

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` needs in a stack of the same members; the tensors are the stack's own."""
        generators = self._streams.generators if self._streams else []
        curved = [member for member in self.members if isinstance(member, CurvatureOptimizer)]
        return {
            "steps": self.steps,
            "grad_equivalents": self.grad_equivalents,
            "states": self.states,
            "previous": self._previous,
            "used": self._used,
            "cost": self._cost,
            "generators": [generator.get_state() for generator in generators],
            "members": [member.state_dict()[CURVATURE_KEY] for member in curved],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        device = self.params[0].device
        self.steps, self.grad_equivalents = state["steps"], state["grad_equivalents"]
        self.states = [{name: value.to(device) for name, value in saved.items()} for saved in state["states"]]
        self._previous = [None if grad is None else grad.to(device) for grad in state["previous"]]
        self._used, self._cost = list(state["used"]), state["cost"]
        generators = self._streams.generators if self._streams else []
        for generator, saved in zip(generators, state["generators"], strict=True):
            generator.set_state(saved.cpu())
        curved = [member for member in self.members if isinstance(member, CurvatureOptimizer)]
        for member, saved in zip(curved, state["members"], strict=True):
            member.load_state_dict(member.state_dict() | {CURVATURE_KEY: saved})

    def _take(self, params: list[Tensor]) -> None:
        self.params = params
        self._data = [param.detach() for param in params]
        self._rules: dict[Layout, tuple[replay.Traced, list[tuple[str, ...]]]] = {}

    def keep(self, rows: Tensor, params: list[Tensor]) -> None:
        """Go on with some of the members, whose stacked parameters these are."""
        self._take(params)
        chosen = rows.tolist()
        self.members = [self.members[row] for row in chosen]
        self.states = [{name: value[rows] for name, value in state.items()} for state in self.states]
        self._previous = [None if grad is None else grad[rows] for grad in self._previous]
        self._numbers = {name: value[rows] for name, value in self._numbers.items()}
        if self._streams:
            self._streams.stream_of = self._streams.stream_of[rows]

    def _refresh(
        self, optimizer: CurvatureOptimizer, problem: Problem, max_grad_norm: float | Tensor | None
    ) -> tuple[Tensor, list[Tensor | None], list[Tensor | None], list[Tensor | None]]:
        """Losses, gradients as they are and as the rule is to see them, curvatures."""
        estimator = optimizer.estimator
        if type(estimator) is Hutchinson and self._used:
            losses, grads, estimates = self._replayed(estimator, problem)
            applied = _clipped(grads, max_grad_norm)
        else:
            losses, grads = _with_graph(problem, self.params) if estimator.differentiates else _plain(problem)
            applied = _clipped([None if g is None else g.detach() for g in grads], max_grad_norm)
            self._used = [i for i, grad in enumerate(grads) if grad is not None]
            with torch.enable_grad():
                assert self._streams is not None
                previous, directions = [self._previous[i] for i in self._used], lambda: self._directions(applied)
                refresh = _as_seen(losses, self.params, grads, self._streams, previous, directions)
                estimates = list(estimator(refresh))
            self._cost = estimator.cost(refresh)
        curvatures: list[Tensor | None] = [None] * len(grads)
        for i, estimate in zip(self._used, estimates, strict=True):
            curvatures[i] = None if estimate is None else estimate.detach()
        self.grad_equivalents += self._cost
        self.grad_equivalents += 1.0
        return losses.detach(), [None if g is None else g.detach() for g in grads], applied, curvatures

    def _replayed(
        self, estimator: Hutchinson, problem: Problem
    ) -> tuple[Tensor, list[Tensor | None], list[Tensor | None]]:
        """Losses, gradients and estimates from probes that are drawn before."""
        used, streams = self._used, self._streams
        assert streams is not None
        params = [self.params[i] for i in used]
        probes = [probe for _ in range(estimator.samples) for probe in streams.draw(estimator.draw, params)]

        def finish(losses: Tensor, params: list[Tensor], probes: list[Tensor]) -> list[Tensor | None]:
            grads = _gradients(losses, params, create_graph=True)
            return [losses.detach(), *grads, *estimator(_as_seen(losses, params, grads, Given(probes)))]

        losses, *rest = problem.replay(("hutchinson", estimator.samples, tuple(used)), finish, probes, exact=True)
        assert losses is not None
        return losses, rest[: len(self.params)], rest[len(self.params) :]

    def _refresh_each(
        self, problem: Problem, max_grad_norm: float | Tensor | None
    ) -> tuple[Tensor, list[Tensor | None], list[Tensor | None]]:
        """An estimator that knows nothing of stacks: each member for itself."""
        differentiated = []
        if isinstance(max_grad_norm, Tensor):
            bounds = [bound if math.isfinite(bound) else None for bound in max_grad_norm.tolist()]
        else:
            bounds = [max_grad_norm] * len(self.members)
        for row in range(len(self.members)):
            member = self.member_optimizer(row)
            assert isinstance(member, CurvatureOptimizer)
            member._steps, member.grad_equivalents = self.steps, self.grad_equivalents
            differentiated.append(member.differentiate(problem.closure(row), max_grad_norm=bounds[row]))
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

        given = [(grad, state) for grad, state in zip(grads, self.states, strict=True) if grad is not None]
        return [torch.vmap(of_member)(grad, state, self._now) for grad, state in given]

    def _apply(self, grads: list[Tensor | None], curvatures: list[Tensor | None]) -> None:
        used = [i for i, grad in enumerate(grads) if grad is not None and grad.numel()]
        if not used:
            return
        layout = tuple((i, curvatures[i] is not None, tuple(self.states[i])) for i in used)
        inputs: list[Tensor] = []
        for i in used:
            inputs += [t for t in (self._data[i], grads[i], curvatures[i]) if t is not None]
            inputs += self.states[i].values()
        inputs += self._now.values()
        if layout not in self._rules:
            self._rules[layout] = traced(self.rule, layout, tuple(self._now), self._constants, replay.signature(inputs))
        rule, names = self._rules[layout]
        new = iter(rule(*inputs))
        torch._foreach_copy_([self._data[i] for i in used], [next(new) for _ in used])
        for i, state in zip(used, names, strict=True):
            self.states[i] = {name: next(new) for name in state}


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


def _gradients(losses: Tensor, params: list[Tensor], *, create_graph: bool = False) -> list[Tensor | None]:
    """Of each member's loss; ``None`` for a parameter that is not used."""
    needed = [p for p in params if p.requires_grad]
    ones = torch.ones(losses.shape, dtype=losses.dtype, device=losses.device)
    gradients = iter(torch.autograd.grad(losses, needed, ones, create_graph=create_graph, allow_unused=True))
    return [next(gradients) if p.requires_grad else None for p in params]


def _plain(problem: Problem) -> tuple[Tensor, list[Tensor | None]]:
    """Losses and their gradients."""

    def finish(losses: Tensor, params: list[Tensor], _: list[Tensor]) -> list[Tensor | None]:
        return [losses.detach(), *_gradients(losses, params)]

    losses, *grads = problem.replay("gradients", finish, [], exact=False)
    assert losses is not None
    return losses, grads


def _with_graph(problem: Problem, params: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
    """Losses and their gradients, which can be differentiated again."""
    with torch.enable_grad(), twice_differentiable():
        losses = problem.losses()
        return losses, _gradients(losses, params, create_graph=True)


def _streams(seeds: Sequence[int], device: torch.device) -> Streams:
    """Probes' generators as ``CurvatureOptimizer`` makes them."""
    different = list(dict.fromkeys(seeds))
    generators = [torch.Generator(device).manual_seed(seed ^ PROBE_SALT) for seed in different]
    return Streams(generators, torch.tensor([different.index(seed) for seed in seeds], device=device))


def _clipped(grads: list[Tensor | None], max_grad_norm: float | Tensor | None) -> list[Tensor | None]:
    """Each member's gradient scaled down to that norm over all parameters, or to its own."""
    if max_grad_norm is None or not any(grad is not None for grad in grads):
        return grads
    norms = [torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) for g in grads if g is not None]
    scale = (max_grad_norm / (torch.linalg.vector_norm(torch.stack(norms), dim=0) + CLIP_EPS)).clamp(max=1.0)
    if isinstance(max_grad_norm, Tensor):  # an infinite norm over an infinite bound is no number
        scale = torch.where(max_grad_norm.isinf(), torch.ones_like(scale), scale)
    return [None if g is None else g * scale.view(-1, *[1] * (g.ndim - 1)) for g in grads]


def _stack_given(tensors: Sequence[Tensor | None]) -> Tensor | None:
    given = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(given) if len(given) == len(tensors) else None

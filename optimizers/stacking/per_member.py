"""Any optimizer steps for the members of a stack, of which forward and backward pass are shared.

Each member has its own optimizer, over parameters that are views of the stacked ones. Where what its class does can be
done for all members in one (``joined``), it is: that is tried beside the members' own steps, and compared again later.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from optimizers.base import CurvatureOptimizer
from optimizers.closures import Closures, takes_closure
from optimizers.stacking.as_one import NotAsOneError
from optimizers.stacking.given_step import step_with
from optimizers.stacking.joined import Joined, NotSideBySideError, has_own_zero_grad, refuse
from optimizers.stacking.member_numbers import DisagreeError
from optimizers.stacking.problem import Problem, bounds_of, clipped, plain_gradients
from optimizers.stacking.random_state import DrawsError, MemberStreams, OtherStreamsError, RandomState
from optimizers.stacking.twin import STEPS as TWIN_STEPS
from optimizers.stacking.twin import Twin

COMPARED_STEPS = frozenset([0, 1, 2, 9, 10, 11, 24, 25, 26, 49, 50, 51, 99, 100, 101])
"""Steps at which the step for all members in one is compared with each one's own: what an optimizer does now and then,
it does at round numbers."""
APART: dict[Hashable, str] = {}
"""Why optimizers of a key do not step as one: for the next stacks."""
COMPARED: set[tuple[Hashable, int]] = set()
"""Keys and steps at which the two came to the same before."""
SIDE_BY_SIDE: dict[Hashable, int | None] = {}
"""The step at which optimizers of a key were found to treat each entry of all tensors alike; ``None`` for those that
later did not."""


class BeginAgainError(RuntimeError):
    """What was done so far is not what each member alone would have done; how it can be, is known now."""


class PerMemberOptimizer:
    """The optimizers of members that train in lockstep.

    Args:
        members: one each, over its own of ``member_params``.
        params: the stack's, (members, ...) each.
        member_params: leaf views of them, for each member in the order of ``params``.
        streams: each member's random state once its optimizer was made.
        key: of the optimizers' class and constants: what is remembered of them.
        twin: of the first member, where it is not known yet whether rounding errors decide what it does.
        scheduled: whether ``step`` will be given factors of the learning rate.
        buffer: in which ``params`` lie, (members, width), if they do.

    Attributes:
        apart: why the members do not step as one; empty where they do, or may.
        rounded: whether rounding errors decide what the optimizer does: members are as alone in distribution only.
    """

    update_period = 1

    def __init__(
        self,
        members: Sequence[Any],
        params: list[Tensor],
        member_params: list[list[nn.Parameter]],
        streams: list[RandomState],
        key: Hashable,
        twin: Twin | None = None,
        *,
        scheduled: bool,
        buffer: Tensor | None = None,
    ) -> None:
        self.members = list(members)
        self.params = params
        self.member_params = member_params
        self._buffer = buffer
        self.steps = 0
        self._key = key
        self.rounded = False
        self._twin = twin
        self._streams = MemberStreams(streams, params[0].device, key)
        self._bases = [[g["lr"] for g in member.param_groups] for member in members] if scheduled else []
        self._curved = isinstance(members[0], CurvatureOptimizer)
        closing = takes_closure(members[0]) and not self._curved
        self._closures = [Closures(own) for own in member_params] if closing else []
        self._has_own_zero_grad = has_own_zero_grad(members[0])
        self.apart = APART.get(key, "") or ("each estimates curvature for itself" if self._curved else "")
        self._joined: Joined | None = None
        self._recheck = False
        self._mode = ""

    @property
    def costs(self) -> list[float]:
        """Each member's so far, in gradients: one a step, but where it estimates curvature."""
        if self._curved:
            return [member.grad_equivalents for member in self.members]
        return [float(self.steps)] * len(self.members)

    @property
    def note(self) -> str:
        """See ``OfMembers``."""
        return "rounding errors decide its steps: in a stack runs are those alone in distribution only" * self.rounded

    @torch.no_grad()
    def step(
        self, problem: Problem, lr_factors: Sequence[float] = (1.0,), max_grad_norm: float | Tensor | None = None
    ) -> Tensor:
        """See ``OfMembers``.

        Raises:
            OwnGradientsError: an optimizer wants gradients that are not those of the step.
            OtherStreamsError: it draws random numbers that members would share.
            BeginAgainError: the members did not step as they should have.
            RoundingDecidesError: how they step is decided by rounding errors.
        """
        self.switch("train")
        self._set_rates(lr_factors)
        if self._curved:
            losses = self._step_curved(problem, max_grad_norm)
        else:
            losses, grads = plain_gradients(problem)
            grads = clipped(grads, max_grad_norm)
            if self._twin is not None:
                self._step_twin(self._twin, losses, grads)
            if not self.apart and self._to_compare():
                self._compare(losses, grads)
            if self.apart:
                self._step_each(losses, grads)
            else:
                self._step_as_one(losses, grads)
            if self._twin is not None:
                self.rounded = self._twin.compare([param.detach()[0] for param in self.params])
                self._twin = self._twin if self._twin.steps < TWIN_STEPS and not self.rounded else None
        self.steps += 1
        return losses

    def switch(self, mode: str) -> None:
        """See ``OfMembers``."""
        if mode == self._mode or not (self._mode or callable(getattr(self.members[0], mode, None))):
            return
        self._mode = mode
        if self._joined is not None:
            with self._beginning_again():
                self._joined.call(lambda optimizer: getattr(optimizer, mode)())
            return
        for member in self.members:
            getattr(member, mode)()

    def recheck_next_step(self) -> None:
        """Compare the next step as one with each member's own."""
        self._recheck = True

    def member_optimizer(self, row: int) -> Any:
        """See ``OfMembers``."""
        if self._joined is not None:
            with self._beginning_again():
                self._joined.part(self.members[row], row, self.member_params[row])
        return self.members[row]

    def state_dict(self) -> dict[str, Any]:
        """See ``OfMembers``."""
        return {
            "steps": self.steps,
            "members": [self.member_optimizer(row).state_dict() for row in range(len(self.members))],
            "streams": self._streams.states if self._streams.drawing else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``OfMembers``."""
        self.steps = state["steps"]
        self._streams.drawing = state["streams"] is not None
        self._streams.states = state["streams"] or self._streams.states
        self._twin = None
        for member, saved in zip(self.members, state["members"], strict=True):
            member.load_state_dict(saved)
        self._join_again()

    def keep(self, rows: Tensor, params: list[Tensor], buffer: Tensor | None = None) -> None:
        """Go on with some of the members, whose stacked parameters these are, wherever they lie."""
        chosen = rows.tolist()
        self._twin = self._twin if chosen[0] == 0 else None
        self.members = [self.member_optimizer(row) for row in chosen]
        self.member_params = [self.member_params[row] for row in chosen]
        for row, own in enumerate(self.member_params):
            for param, stacked in zip(own, params, strict=True):
                param.data = stacked.detach()[row]
        self.params, self._buffer = params, buffer
        self._streams.states = [self._streams.states[row] for row in chosen]
        self._bases = [self._bases[row] for row in chosen] if self._bases else []
        self._closures = [self._closures[row] for row in chosen] if self._closures else []
        self._join_again()

    def _join_again(self) -> None:
        """Make one of the members' optimizers anew, of what they are now."""
        self._joined = None
        if self.steps and not self.apart:
            self._recheck = True
            try:
                self._joined = self._join()
            except NotAsOneError as error:
                self.apart = str(error)

    def _set_rates(self, factors: Sequence[float]) -> None:
        if not self._bases:
            return
        of_each = factors if len(factors) > 1 else [*factors] * len(self.members)
        rates = [[base * factor for base in bases] for bases, factor in zip(self._bases, of_each, strict=True)]
        if self._joined is not None:
            self._joined.set_rates(rates)
        else:
            for member, own in zip(self.members, rates, strict=True):
                _set_rates_of(member, own)
        if self._twin is not None:
            _set_rates_of(self._twin.optimizer, rates[0])

    def _step_as_one(self, losses: Tensor, grads: Sequence[Tensor | None]) -> None:
        assert self._joined is not None
        try:
            with self._beginning_again():
                self._joined.step(losses, grads)
        except BeginAgainError:
            raise
        except Exception as error:
            APART[self._key] = _why(error)
            raise BeginAgainError(APART[self._key]) from error

    @contextmanager
    def _beginning_again(self) -> Iterator[None]:
        """Know from now on that tensors side by side are not to be taken for one, should that be found out."""
        try:
            yield
        except NotSideBySideError as error:
            SIDE_BY_SIDE[self._key] = None
            raise BeginAgainError(str(error)) from error

    def _to_compare(self) -> bool:
        unknown = self.steps in COMPARED_STEPS and (self._key, self.steps) not in COMPARED
        to_lay = self.steps == SIDE_BY_SIDE.get(self._key) and not (self._joined and self._joined.side_by_side)
        return self.steps == 0 or self._recheck or unknown or to_lay

    def _compare(self, losses: Tensor, grads: Sequence[Tensor | None]) -> None:
        """The step to come as one, with each member's own."""
        try:
            if self._joined is None:
                self._joined = self._join()
            with self._beginning_again():
                why = self._joined.compare(losses, grads)
            if self._joined.side_by_side is not None:
                SIDE_BY_SIDE.setdefault(self._key, self.steps)
        except (OtherStreamsError, BeginAgainError):
            raise
        except Exception as error:
            why = _why(error)
        if not why:
            self._recheck = False
            COMPARED.add((self._key, self.steps))
            return
        APART[self._key] = self.apart = why
        self._joined = None
        if self.steps:
            raise BeginAgainError(why)

    def _join(self) -> Joined:
        buffer = None if SIDE_BY_SIDE.get(self._key, 0) is None else self._buffer
        return Joined(self.members, self.params, self.member_params, closes=bool(self._closures), buffer=buffer)

    def _step_twin(self, twin: Twin, losses: Tensor, grads: Sequence[Tensor | None]) -> None:
        """Before the first member's step, from the same state of its random stream."""
        own = [None if grad is None else grad[0].contiguous() for grad in grads]
        self._streams.run(0, lambda: twin.step(own, losses[0]))

    def _step_each(self, losses: Tensor, grads: Sequence[Tensor | None]) -> None:
        """Each member for itself."""
        given = [None if grad is None else grad.contiguous() for grad in grads]

        def step(row: int) -> None:
            member = self.members[row]
            if self._has_own_zero_grad:
                member.zero_grad()
            for param, grad in zip(self.member_params[row], given, strict=True):
                param.grad = None if grad is None else grad[row]
            if self._closures:
                member.step(self._closures[row].make(losses[row], refuse))
            else:
                member.step()

        self._each(step)

    def _step_curved(self, problem: Problem, max_grad_norm: float | Tensor | None) -> Tensor:
        """Those that estimate curvature at this step take a pass of their own; the others share one."""
        rows = range(len(self.members))
        refreshing = [row for row in rows if self.members[row]._refreshes(self.member_params[row])]
        bounds = bounds_of(max_grad_norm, len(self.members))
        found: dict[int, Tensor] = {}
        grads: list[Tensor | None] = []
        if len(refreshing) < len(self.members):
            before = [buffer[refreshing].clone() for buffer in problem.buffers()]
            shared, grads = plain_gradients(problem)
            grads = clipped(grads, max_grad_norm)
            found = dict(enumerate(shared))
            for buffer, own in zip(problem.buffers(), before, strict=True):
                buffer[refreshing] = own

        def step(row: int) -> None:
            member = self.members[row]
            if row in refreshing:
                closure = problem.closure(row, self.member_params[row], lambda: member.refreshing)
                found[row] = member.step(closure, max_grad_norm=bounds[row])
            else:
                step_with(member, [None if grad is None else grad[row] for grad in grads])

        self._each(step)
        return torch.stack([found[row] for row in rows])

    def _each(self, step: Callable[[int], None]) -> None:
        """Step each member, by its row."""

        def mended(row: int) -> None:
            step(row)
            self._mend_views(row)

        try:
            self._streams.step_each(mended)
        except DrawsError as error:
            raise BeginAgainError(str(error)) from error

    def _mend_views(self, row: int) -> None:
        """An optimizer may have put other tensors in the place of its parameters' data."""
        for param, stacked in zip(self.member_params[row], self.params, strict=True):
            if param.data_ptr() != stacked.data_ptr() + row * stacked.stride(0) * stacked.element_size():
                stacked.detach()[row] = param.detach()
                param.data = stacked.detach()[row]


def _set_rates_of(optimizer: Any, rates: Sequence[float]) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _why(error: Exception) -> str:
    if isinstance(error, NotAsOneError | DisagreeError | DrawsError):
        return str(error)
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]

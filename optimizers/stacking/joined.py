"""Members' optimizers of one class as one, which steps for all of them, and is compared with each one's own step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import unwrap
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from optimizers.closures import Closures
from optimizers.stacking.as_one import AsOne, NotAsOneError
from optimizers.stacking.direct import Stacked
from optimizers.stacking.entries import EntriesAlone
from optimizers.stacking.flat import Places
from optimizers.stacking.joining import join, part
from optimizers.stacking.member_numbers import MemberNumbers
from optimizers.stacking.random_state import without_draws
from optimizers.stacking.side_by_side import SideBySide

ROUNDING = 1e-6
"""Of the largest change of a tensor: what two ways to compute a step in double precision may differ by."""
WEIGHT_ROUNDING = 8
"""Roundings of the weights that they may differ by."""

STEP_WRAPPER = torch.optim.Optimizer.profile_hook_step(lambda *_: None).__code__
"""Of what PyTorch wraps a class's ``step`` in when the first optimizer of that class is made."""
OF_ALL_STEPS = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)


class OwnGradientsError(RuntimeError):
    """An optimizer asks for gradients at other weights than those of the step."""


class NotSideBySideError(RuntimeError):
    """An optimizer that was taken to treat each entry of all tensors alike does not."""


class Joined:
    """An optimizer of all members' tensors and numbers.

    Args:
        members: optimizers of one class, that have been through the same steps.
        params: the stack's, (members, ...) each.
        member_params: each member's own.
        closes: whether ``step`` is given a closure.
        buffer: in which the stack's lie, (members, width), where the tensors of a group may be taken for one.

    Attributes:
        side_by_side: the groups whose tensors are taken for one, if they are.

    Raises:
        NotAsOneError: the members differ in more than tensors and numbers.
    """

    def __init__(
        self,
        members: Sequence[Any],
        params: Sequence[Tensor],
        member_params: Sequence[Sequence[nn.Parameter]],
        *,
        closes: bool,
        buffer: Tensor | None = None,
    ) -> None:
        self._params = [param.detach().as_subclass(Stacked) for param in params]
        self._as_one = AsOne(len(members))
        for param in self._params:
            param.trained = True
        self._closes = closes
        self._calls_at_once = False
        self._has_own_zero_grad = has_own_zero_grad(members[0])
        self._buffer = buffer
        self.side_by_side: SideBySide | None = None
        self.optimizer = join(members, member_params, self._params)

    def step(self, losses: Tensor, grads: Sequence[Tensor | None]) -> None:
        """One step of each member.

        Args:
            losses: (members,), for an optimizer that asks for its own.
            grads: the stack's; they may be changed.
        """
        if self._has_own_zero_grad:
            self.call(lambda optimizer: optimizer.zero_grad())
        self._give(grads)
        closure = _once(losses) if self._calls_at_once else refuse
        self.call(lambda optimizer: step_of(optimizer)(*([closure] if self._closes else [])))

    def _give(self, grads: Sequence[Tensor | None]) -> None:
        """Have these gradients in the parameters."""
        if self.side_by_side is None:
            for param, grad in zip(self._params, grads, strict=True):
                param.grad = None if grad is None else grad.contiguous().as_subclass(Stacked)
            return
        for group in self.side_by_side.groups:
            group.param.grad = None
        for group, whole in zip(self.side_by_side.groups, self.side_by_side.grads(grads), strict=True):
            group.param.grad = whole

    def _lay_side_by_side(self, buffer: Tensor) -> None:
        """Step from now on for the tensors of each group as for one."""
        self.side_by_side = SideBySide(self.optimizer, self._params, buffer)
        self._as_one = EntriesAlone(self._as_one.members)

    def call(self, method: Callable[[Any], object]) -> None:
        """Have it done for all members.

        Raises:
            NotSideBySideError: it cannot be, of tensors side by side.
        """
        try:
            with torch.no_grad(), self._as_one:
                method(self.optimizer)
        except Exception as error:
            if self.side_by_side is None:
                raise
            raise NotSideBySideError(str(error)) from error

    def set_rates(self, rates: Sequence[Sequence[float]]) -> None:
        """Set the learning rates of each member's parameter groups."""
        for group, of_members in zip(self.optimizer.param_groups, zip(*rates, strict=True), strict=True):
            alike = all(rate == of_members[0] for rate in of_members)
            group["lr"] = of_members[0] if alike else MemberNumbers(of_members)

    def part(self, member: Any, row: int, params: Sequence[nn.Parameter]) -> None:
        """Make a member's own optimizer what this one is of it.

        Raises:
            NotSideBySideError: what it is of each tensor is not known.
        """
        part(self._apart(), member, row, params, self._params)

    def _apart(self) -> Any:
        """The optimizer with all its parameters."""
        if self.side_by_side is None:
            return self.optimizer
        try:
            return self.side_by_side.apart()
        except NotAsOneError as error:
            raise NotSideBySideError(str(error)) from error

    def compare(self, losses: Tensor, grads: Sequence[Tensor | None]) -> str:
        """What is wrong with the step to come, beside each member's own; nothing is changed.

        Both are taken on copies in double precision, where they differ in what they do or hardly at all.

        Raises:
            OtherStreamsError, DrawsError: the optimizers draw random numbers.
            NotSideBySideError: tensors were taken for one that are not.
        """
        members, params = self._doubles()
        stack = [torch.stack([p.detach() for p in together]) for together in zip(*params, strict=True)]
        before = [tensor.clone() for tensor in stack]
        one = Joined(members, stack, params, closes=self._closes)
        beside = self._doubled_side_by_side(members, stack, params)
        doubles = [None if grad is None else grad.to(torch.float64, copy=True) for grad in grads]
        with without_draws(stack[0].device):
            closures = [Closures(own) for own in params] if self._closes else []
            for row, (member, own) in enumerate(zip(members, params, strict=True)):
                if self._has_own_zero_grad:
                    member.zero_grad()
                for param, grad in zip(own, doubles, strict=True):
                    param.grad = None if grad is None else grad[row].clone()
                member.step(*[each.make(losses[row], refuse) for each in closures[row : row + 1]])
        at_once = bool(closures) and all(each.calls_at_once for each in closures)
        if any(each.called and not each.calls_at_once for each in closures):
            return "it does not call its closure at once"
        each = [torch.stack([p.detach() for p in together]) for together in zip(*params, strict=True)]

        def comes_to_the_same(joined: Joined) -> bool:
            joined._calls_at_once = at_once
            joined.step(losses, doubles)
            return all(map(_came_to_the_same, [p.as_subclass(Tensor) for p in joined._params], each, before))

        self._calls_at_once = at_once
        self._settle(beside is not None and _succeeds(lambda: comes_to_the_same(beside)))
        return (
            "" if comes_to_the_same(one) else "what it does for all members in one differs from what it does for each"
        )

    def _doubles(self) -> tuple[list[Any], list[list[nn.Parameter]]]:
        """Each member's optimizer and parameters as copies in double precision."""
        members, params, apart = [], [], self._apart()
        for row in range(self._as_one.members):
            own = [nn.Parameter(p.as_subclass(Tensor)[row].to(torch.float64, copy=True)) for p in self._params]
            member = object.__new__(type(self.optimizer))
            part(apart, member, row, own, self._params, double=True)
            members.append(member)
            params.append(own)
        return members, params

    def _doubled_side_by_side(
        self, members: Sequence[Any], stack: Sequence[Tensor], params: Sequence[Sequence[nn.Parameter]]
    ) -> Joined | None:
        """What steps for copies of the tensors side by side, if that can be."""
        if self._buffer is None:
            return None
        places = Places([tensor.shape[1:] for tensor in stack])
        buffer = places.buffer(stack)
        joined = Joined(members, places.views(buffer), params, closes=self._closes)
        return joined if _succeeds(lambda: joined._lay_side_by_side(buffer)) else None

    def _settle(self, beside: bool) -> None:
        """Step for tensors side by side from now on if that came to the same.

        Raises:
            NotSideBySideError: it does no more.
        """
        if self.side_by_side is not None and not beside:
            raise NotSideBySideError("what it does for tensors side by side differs from what it does for each")
        if self.side_by_side is None and beside and self._buffer is not None:
            buffer = self._buffer
            _succeeds(lambda: self._lay_side_by_side(buffer))


def _succeeds(act: Callable[[], bool | None]) -> bool:
    """Whether it can be done for tensors side by side, and does not return ``False``."""
    try:
        return act() is not False
    except Exception:
        return False


def refuse() -> Tensor:
    """A closure that cannot be called: of a stack there are the gradients of the step alone."""
    raise OwnGradientsError("it asks for gradients at other weights than those of the step")


def _once(losses: Tensor) -> Callable[[], Tensor]:
    """A closure that may be called once, at the weights at which the losses, (members,), are known."""
    called, loss = False, losses.as_subclass(Stacked)

    def closure() -> Tensor:
        nonlocal called
        if called:
            raise OwnGradientsError("it asks for the gradient more than once a step")
        called = True
        return loss

    return closure


def step_of(optimizer: Any) -> Callable[..., object]:
    """Its ``step``, without what PyTorch does around it for hooks and the profiler where there are no hooks."""
    step: Callable[..., object] = optimizer.step
    function: Any = getattr(step, "__func__", None)
    if getattr(function, "__code__", None) is not STEP_WRAPPER:
        return step
    own = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    if any([*own, *OF_ALL_STEPS]):
        return step
    return MethodType(function.__wrapped__, optimizer)


def has_own_zero_grad(optimizer: Any) -> bool:
    """Whether it does something else than PyTorch's, which need not be done where gradients are given."""
    own = getattr(type(optimizer), "zero_grad", None)
    return own is not None and unwrap(own) is not unwrap(torch.optim.Optimizer.zero_grad)


def _came_to_the_same(one: Tensor, other: Tensor, before: Tensor) -> bool:
    """Whether two ways to change a stack of tensors came to the same for each member, up to rounding."""
    if not torch.equal(one.isfinite(), other.isfinite()) or not one.numel():
        return not one.numel()
    a, b, start = (tensor.nan_to_num(0.0, 0.0, 0.0).view(len(tensor), -1) for tensor in (one, other, before))
    allowed = ROUNDING * (b - start).abs().amax(1) + WEIGHT_ROUNDING * torch.finfo(one.dtype).eps * b.abs().amax(1)
    return bool(((a - b).abs().amax(1) <= allowed).all())

"""What a stack minimises at a step, and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from optimizers.arithmetic import CLIP_EPS
from optimizers.base import Closure
from optimizers.curvature.interface import twice_differentiable

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

    def losses_and_outputs(self) -> tuple[Tensor, Tensor] | None:
        """As ``losses``, with the outputs that they are computed from: all members' samples, (members * samples, ...).

        ``None`` where the losses are not of one call of the network.
        """

    def closure(self, row: int, params: Sequence[Tensor], exact: Callable[[], bool]) -> Closure:
        """That of one member alone, over these parameters of its.

        Args:
            exact: whether the network runs in full precision, asked at each call.
        """

    def buffers(self) -> list[Tensor]:
        """The stack's, (members, ...) each, which a forward pass changes in row."""


def gradients(
    losses: Tensor, params: list[Tensor], *, create_graph: bool = False, retain_graph: bool = False
) -> list[Tensor | None]:
    """Of each member's loss; ``None`` for a parameter that is not used."""
    needed = [p for p in params if p.requires_grad]
    ones = torch.ones(losses.shape, dtype=losses.dtype, device=losses.device)
    kept = create_graph or retain_graph
    found = iter(torch.autograd.grad(losses, needed, ones, kept, create_graph, allow_unused=True))
    return [next(found) if p.requires_grad else None for p in params]


def plain_gradients(problem: Problem) -> tuple[Tensor, list[Tensor | None]]:
    """Losses and their gradients."""

    def finish(losses: Tensor, params: list[Tensor], _: list[Tensor]) -> list[Tensor | None]:
        return [losses.detach(), *gradients(losses, params)]

    losses, *grads = problem.replay("gradients", finish, [], exact=False)
    assert losses is not None
    return losses, grads


def gradients_with_graph(problem: Problem, params: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
    """Losses and their gradients, which can be differentiated again."""
    with torch.enable_grad(), twice_differentiable():
        losses = problem.losses()
        return losses, gradients(losses, params, create_graph=True)


def clipped(grads: list[Tensor | None], max_grad_norm: float | Tensor | None) -> list[Tensor | None]:
    """Each member's gradient scaled down to that norm over all parameters, or to its own."""
    if max_grad_norm is None or not any(grad is not None for grad in grads):
        return grads
    norms = [torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) for g in grads if g is not None]
    scale = (max_grad_norm / (torch.linalg.vector_norm(torch.stack(norms), dim=0) + CLIP_EPS)).clamp(max=1.0)
    if isinstance(max_grad_norm, Tensor):  # an infinite norm over an infinite bound is no number
        scale = torch.where(max_grad_norm.isinf(), torch.ones_like(scale), scale)
    return [None if g is None else g * scale.view(-1, *[1] * (g.ndim - 1)) for g in grads]


def bounds_of(max_grad_norm: float | Tensor | None, members: int) -> list[float | None]:
    """For each member, ``None`` for no bound."""
    if not isinstance(max_grad_norm, Tensor):
        return [max_grad_norm] * members
    return [bound if bound != float("inf") else None for bound in max_grad_norm.tolist()]

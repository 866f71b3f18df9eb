"""What the optimizer of a stack is to the stack, whether one rule steps for all members or each has its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from optimizers.stacking.problem import Problem


class OfMembers(Protocol):
    """The optimizer of a stack's members.

    Attributes:
        members: each one's own optimizer.
        steps: taken so far.
    """

    members: list[Any]
    steps: int

    @property
    def update_period(self) -> int:
        """Steps from one refresh to the next, at which steps are alike."""

    @property
    def costs(self) -> list[float]:
        """Each member's so far, in gradients."""

    @property
    def note(self) -> str:
        """What is to be known of how the members step, if anything."""

    def step(
        self, problem: Problem, lr_factors: Sequence[float] = (1.0,), max_grad_norm: float | Tensor | None = None
    ) -> Tensor:
        """One step of every member; the losses before it, (members,), detached.

        Args:
            lr_factors: of all members, or of each.
            max_grad_norm: of all members, or of each, (members,), infinite for none.
        """

    def switch(self, mode: str) -> None:
        """Tell optimizers that keep the weights to evaluate apart from those to train: "train" or "eval"."""

    def recheck_next_step(self) -> None:
        """Compare the next step with what it is to come to."""

    def member_optimizer(self, row: int) -> Any:
        """A member's own optimizer, with the state that it has by now, or would have."""

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` needs in a stack of the same members; the tensors may be the stack's own."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""

    def keep(self, rows: Tensor, params: list[Tensor], buffer: Tensor | None = None) -> None:
        """Go on with some of the members, whose stacked parameters these are, and lie in this buffer."""

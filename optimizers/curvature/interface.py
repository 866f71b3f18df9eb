"""The interface of a curvature estimator says what it is given at a refresh, and what it costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends import cuda

from optimizers.curvature.closed_forms import closed_forms
from optimizers.curvature.probes import Streams

HESSIAN_VECTOR_COST = 2.0
"""Nominal cost of a Hessian-vector product in gradients: reverse over reverse runs the gradient's graph twice."""

BACKWARD_COST = 2 / 3
"""Nominal cost of a backward pass in gradients: a gradient is a forward pass and a backward pass of twice its work."""


@dataclass(frozen=True)
class Refresh:
    """A refresh step as an estimator sees it: one forward pass, the gradient taken from it, what the optimizer knows.

    Attributes:
        loss: what is minimised, 0-dim, its graph kept.
        outputs: what the closure returned beside the loss, or ``None``.
        params: the parameters that have a gradient.
        indices: their places among all of the optimizer's parameters.
        grads: their gradients; with a graph where the estimator says ``double_backward``.
        previous_grads: their gradients one step before; ``None`` at the first step.
        directions: the vectors that the rule wants the Hessian multiplied with, one per parameter, of its shape.
        generator: the optimizer's own random stream, on the parameters' device; of a stack, those of its members.
        record: what ``Estimator.watch`` gave.
        memory: the estimator's notes from one refresh to the next, part of the ``state_dict``: plain numbers,
            text, ``None`` and mappings of such.
    """

    loss: Tensor
    outputs: Any
    params: list[Tensor]
    indices: list[int]
    grads: Sequence[Tensor]
    previous_grads: Sequence[Tensor | None]
    directions: Callable[[], list[Tensor]]
    generator: torch.Generator | Streams
    record: Any
    memory: dict[str, Any]


class Estimator(ABC):
    """Called once per refresh, after the gradient, with that gradient's own forward pass."""

    double_backward: bool = False
    """Whether the gradients it is given must carry a graph."""

    previous_gradients: bool = False
    """Whether it needs the gradients of the step before."""

    stacks: bool = False
    """Whether, given the summed losses of a stack of members, and their stacked parameters, gradients and streams, it
    finds the curvature of each member. It draws through ``Streams`` then."""

    differentiates: bool = True
    """Whether it goes back through the forward pass itself, which then must not be compiled or in half precision."""

    needs_outputs: bool = False
    """Whether the closure must return the network's outputs beside the loss."""

    costs: str = ""
    """What ``cost`` counts, in words: a number of gradients, per sample (of its own), class or parameter entry."""

    @abstractmethod
    def __call__(self, refresh: Refresh) -> Sequence[Tensor | None]:
        """The curvature: one tensor per parameter of the refresh, of its shape; ``None`` for one without refresh."""

    @abstractmethod
    def cost(self, refresh: Refresh) -> float:
        """Nominal cost of one call in gradients, beyond the gradient that the step takes anyway."""

    def watch(self, params: Sequence[Tensor]) -> AbstractContextManager[Any]:
        """Surrounds the forward pass of a refresh; what it yields comes back as ``Refresh.record``."""
        return twice_differentiable() if self.double_backward else nullcontext()

    def follow(self, record: Any, outputs: Any, params: Sequence[Tensor | None], memory: dict[str, Any]) -> None:
        """Between the forward pass and the backward pass of a refresh, which may be listened to.

        Args:
            record: what ``watch`` gave.
            outputs: what the closure returned beside the loss, or ``None``.
            params: all of the optimizer's.
            memory: see ``Refresh``.
        """
        return

    def follow_stack(
        self, record: Any, losses: Tensor, outputs: Tensor, params: Sequence[Tensor], memory: dict[str, Any]
    ) -> None:
        """As ``follow`` of all members of a stack.

        Args:
            record: what ``watch_stack`` gave.
            losses: (members,).
            outputs: of all members' samples.
            params: (members, ...) each.
        """
        return

    def watch_stack(self, params: Sequence[Tensor]) -> AbstractContextManager[Any]:
        """As ``watch`` for the forward pass of all members of a stack, whose parameters these are, at once."""
        return nullcontext()

    def sees_apart(self, record: Any) -> bool:
        """Whether, by what ``watch_stack`` gave, the members of this stack are to be seen one by one."""
        return False


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """As ``in_operations``, with second derivatives that are written out."""
    with in_operations(), closed_forms():
        yield


@contextmanager
def in_operations() -> Iterator[None]:
    """Neither fused attention kernels, nor compiled modules, nor cuDNN's recurrent networks have a double backward."""
    eager = torch.compiler.set_stance("force_eager")
    with _attention_by_products(), eager, _recurrent_without_cudnn():
        yield


@contextmanager
def _attention_by_products() -> Iterator[None]:
    """As ``sdpa_kernel(SDPBackend.MATH)``, which takes ten times as long to enter and to leave."""
    before = [enabled() for enabled, _ in ATTENTION]
    for (_, enable), value in zip(ATTENTION, (True, False, False, False), strict=True):
        enable(value)
    try:
        yield
    finally:
        for (_, enable), value in zip(ATTENTION, before, strict=True):
            enable(value)


ATTENTION = (
    (cuda.math_sdp_enabled, cuda.enable_math_sdp),
    (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
    (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
)
"""Which of its kernels PyTorch may use, on any device: first the one made of matrix products."""


@contextmanager
def _recurrent_without_cudnn() -> Iterator[None]:
    """``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` run as PyTorch's own kernels, and do not lay their weights out for cuDNN,
    as they would when called with others; cuDNN's convolutions stay."""
    functions, flatten = vars(torch._VF), nn.RNNBase.flatten_parameters
    before = {name: functions[name] for name in RECURRENT if name in functions}
    functions.update(RECURRENT)
    nn.RNNBase.flatten_parameters = _as_they_lie
    try:
        yield
    finally:
        nn.RNNBase.flatten_parameters = flatten
        for name in RECURRENT:
            del functions[name]
        functions.update(before)


def _as_they_lie(module: nn.RNNBase) -> None:
    """Leaves the weights where they are."""


def _without_cudnn(call: Callable[..., Any], *args: Any) -> Any:
    before = torch._C._get_cudnn_enabled()
    torch._C._set_cudnn_enabled(False)
    try:
        return call(*args)
    finally:
        torch._C._set_cudnn_enabled(before)


RECURRENT = {
    name: partial(_without_cudnn, getattr(torch._VF, name)) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
}
"""The functions behind these modules, which cuDNN has on a GPU."""

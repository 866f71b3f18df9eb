"""An operation of a network's graph has a second derivative of its own: how it is drawn, and found for any function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from optimizers.curvature.graph import edges

LINEAR, ELEMENTWISE, UNKNOWN = "linear", "elementwise", "unknown"
TOLERANCE = 1e-3

Draw = Callable[["Curved", torch.Size], Tensor]
"""Random signs in a shape, for an operation."""
Kinds = dict[str, str]
"""What was found out about operations by trying, by their names."""


@dataclass(frozen=True)
class Root:
    """What is added to the gradient at a place of the graph.

    Attributes:
        edge: the place.
        positive, negative: in the pass for what adds to the diagonal, and in that for what is taken away from it.
    """

    edge: GradientEdge
    positive: Tensor
    negative: Tensor


class Curved(ABC):
    """An operation that has, or may have, a second derivative.

    Args:
        node: its place in the graph.
        reach: the parameters that it matters to.

    Attributes:
        number: its place among all operations.
        grads: the gradient of the loss in each of its outputs, once they are known; none where they do not matter.
        members_at: of a stack, the dimension that is its members', who may share the first with others.
    """

    grads: tuple[Tensor | None, ...] = ()
    members_at = 0
    number = 0

    def __init__(self, node: Node, reach: int) -> None:
        self.node = node
        self.reach = reach

    @property
    def grad(self) -> Tensor:
        """The gradient in its only output."""
        (grad,) = self.grads[:1]
        assert grad is not None
        return grad

    @abstractmethod
    def roots(self, draw: Draw) -> Iterator[Root]:
        """One draw."""

    def diagonals(self) -> Iterator[tuple[GradientEdge, Tensor]]:
        """The diagonal of the second derivative, for inputs where it is not zero."""
        yield from ()


class Elementwise(Curved):
    """A function of each entry, as far as is known: the first time it is tried.

    Attributes:
        edge: of its input.
    """

    def __init__(self, node: Node, reach: int) -> None:
        super().__init__(node, reach)
        (self.edge,) = (edge for edge in edges(node) if edge is not None)
        self.residual: Tensor | None = None

    def find(self, kinds: Kinds) -> bool:
        """Find the residual, ``None`` for zero; whether this is a function of each entry, or linear."""
        self.residual = None
        with torch.enable_grad():
            found = [grad for grad in of_inputs(self.node, self.grads) if grad is not None]
        name = kind_of(self.node)
        if not found or not found[0].requires_grad:
            kinds[name] = LINEAR
            return True
        (grad,) = found
        try:
            if kinds.get(name) == ELEMENTWISE:
                self.residual = self._product(grad, torch.ones_like(grad))
                return True
            vector = torch.randn(grad.shape, generator=torch.Generator().manual_seed(0)).to(grad)
            product = self._product(grad, vector)
            if product is None or not product.any():  # linear, or so at this batch
                return True
            residual = self._product(grad, torch.ones_like(grad))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # it has no second derivative
            return False
        several = sum(each is not None for each in self.grads) > 1
        if several or residual is None or grad.shape != self.grad.shape or not _alike(product, residual * vector):
            return False
        kinds[name] = ELEMENTWISE
        self.residual = residual
        return True

    def _product(self, grad: Tensor, vector: Tensor) -> Tensor | None:
        """Of the second derivative with a vector."""
        found = torch.autograd.grad(grad, [self.edge], vector, retain_graph=True, allow_unused=True)
        return found[0]

    def roots(self, draw: Draw) -> Iterator[Root]:
        for edge, residual in self.diagonals():
            yield Root(edge, *roots_of(residual, draw(self, residual.shape)))

    def diagonals(self) -> Iterator[tuple[GradientEdge, Tensor]]:
        if self.residual is not None:
            yield self.edge, self.residual


class Linear(Curved):
    """An operation of several inputs that is linear in all of them together, as far as is known."""

    def find(self, kinds: Kinds) -> bool:
        """Whether it is."""
        with torch.enable_grad():
            grads = of_inputs(self.node, self.grads)
        linear = not any(grad is not None and grad.requires_grad for grad in grads)
        if linear:
            kinds[kind_of(self.node)] = LINEAR
        return linear

    def roots(self, draw: Draw) -> Iterator[Root]:
        yield from ()


class Unknown(Curved):
    """Nothing is known of its second derivative."""

    def roots(self, draw: Draw) -> Iterator[Root]:
        raise NotImplementedError


def short_name(node: Node) -> str:
    """The operation's name without what is said of its derivative."""
    return node.name().rstrip("0123456789").removesuffix("Backward")


def kind_of(node: Node) -> str:
    """The operation's name, what else says which function it is, and which of its inputs have a gradient."""
    given: Any = node
    own = getattr(given, "_forward_cls", None)  # of a torch.autograd.Function
    name = node.name() if own is None else f"{own.__module__}.{own.__qualname__}"
    exponent = getattr(given, "_saved_exponent", "")
    of = "" if isinstance(exponent, torch.Tensor) else str(exponent)
    return " ".join([name, of, *("-" if edge is None else "+" for edge in edges(node))])


def of_inputs(node: Node, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients of an operation's inputs, ``None`` for those that have none, given those of its outputs."""
    places = edges(node)
    if callable(node):
        found = node(*grads)
        each = iter(found if isinstance(found, tuple) else (found,))
        return [grad if edge is not None else None for grad, edge in zip(each, places, strict=True)]
    own: Any = node  # of a torch.autograd.Function, whose arguments need not be tensors
    found = own.apply(*grads)
    found = found if isinstance(found, tuple) else (found,)
    needed = iter([grad for grad, needs in zip(found, own.needs_input_grad, strict=True) if needs])
    return [None if edge is None else next(needed) for edge in places]


def roots_of(residual: Tensor, signs: Tensor | float) -> tuple[Tensor, Tensor]:
    """Signs times the roots of the positive and of the negative part."""
    return residual.clamp(min=0).sqrt() * signs, (-residual).clamp(min=0).sqrt() * signs


def _alike(product: Tensor, expected: Tensor) -> bool:
    return bool((product - expected).norm() <= TOLERANCE * expected.norm())

"""Each operation of a network adds its own second derivative to the Hessian; it is read off the graph here.

The Hessian of a loss L in the parameters is the sum, over all operations f, of J^T M J: J is the Jacobian of f's inputs
in the parameters, and M the Hessian of <g, f> in these inputs, g being the gradient of L in f's output. M is zero where
f is linear; the loss itself contributes the Gauss-Newton matrix. Of each M a random vector u with covariance its
positive part and a vector v with that of its negative part are drawn: E[(J^T u)^2 - (J^T v)^2] is the diagonal of
J^T M J. Where nothing is said of the source it is this calculation.

    a function of each entry    M = diag(r), r = g f''(z), the residual
    a product of a and b        one random vector c a in a's place and one in b's, added and subtracted
    softmax, p its outputs      diag(w) - w p^T - p w^T, w = p (g - <g, p>)
    log-softmax                 -sum(g) (diag(p) - p p^T)
    normalisation               with n the normalised inputs, s the inverse of their standard deviation, <> the mean:
                                -s^2 ((q n^T + n q^T) / D + <g n> (I - 1 1^T / D - n n^T / D)), q = g - <g> - n <g n>
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from optimizers.curvature.graph import edges, shape_of
from optimizers.curvature.operation import Curved, Draw, Root, roots_of, short_name


class Product(Curved):
    """Tensor times tensor, entry by entry, each perhaps expanded."""

    def roots(self, draw: Draw) -> Iterator[Root]:
        for edge, residual in self.diagonals():
            yield Root(edge, *roots_of(residual, draw(self, residual.shape)))
        first, second = edges(self.node)
        if first is None or second is None or first == second:
            return
        mixed, shape = self.mixed(), shape_of(second)
        size, signs = mixed.square().sum_to_size(shape).sqrt().sqrt(), draw(self, shape)
        one = (mixed * _divided(signs, size)).sum_to_size(shape_of(first))
        yield from _crossed(first, one, second, size * signs)

    def mixed(self) -> Tensor:
        """What the second derivative by both is for each entry."""
        return self.grad

    def diagonals(self) -> Iterator[tuple[GradientEdge, Tensor]]:
        first, second = edges(self.node)
        if first is not None and first == second:
            yield first, 2 * self.mixed()


class Quotient(Product):
    """Tensor over tensor, entry by entry."""

    def mixed(self) -> Tensor:
        saved: Any = self.node
        return -self.grad / saved._saved_other.detach().square()

    def diagonals(self) -> Iterator[tuple[GradientEdge, Tensor]]:
        saved: Any = self.node
        _, second = edges(self.node)
        if second is not None:
            slope = -2 * self.mixed() * saved._saved_self.detach() / saved._saved_other.detach()
            yield second, slope.sum_to_size(shape_of(second))


class MatrixProduct(Curved):
    """A matrix times a matrix, or so many, with something added."""

    def roots(self, draw: Draw) -> Iterator[Root]:
        first, second = edges(self.node)[-2:]
        assert first is not None and second is not None
        mixed = self.grad * getattr(self.node, "_saved_alpha", 1)
        signs = draw(self, shape_of(second))  # (..., inner, columns)
        size = mixed.square().sum(-2, keepdim=True).sqrt().sqrt()
        yield from _crossed(first, mixed @ _divided(signs, size).mT, second, signs * size)


class Softmax(Curved):
    """A softmax."""

    def roots(self, draw: Draw) -> Iterator[Root]:
        edge, p, w, dim = self._parts()
        yield Root(edge, *roots_of(w, draw(self, w.shape)))
        sign = draw(self, w.select(dim, 0).shape).unsqueeze(dim)
        yield Root(edge, *_rank_two(-w, p, sign, dim))

    def diagonals(self) -> Iterator[tuple[GradientEdge, Tensor]]:
        edge, p, w, _ = self._parts()
        yield edge, w * (1 - 2 * p)

    def _parts(self) -> tuple[GradientEdge, Tensor, Tensor, int]:
        """The input's place, p, w and the dimension."""
        saved: Any = self.node
        (edge,), p, dim = edges(self.node), saved._saved_result.detach(), saved_dim(self.node)
        assert edge is not None
        return edge, p, p * (self.grad - (self.grad * p).sum(dim, keepdim=True)), dim


class LogSoftmax(Curved):
    """The logarithm of a softmax."""

    def roots(self, draw: Draw) -> Iterator[Root]:
        edge, p, weight, dim = self._parts()
        columns = p.sqrt() * draw(self, p.shape)
        drawn = columns - p * columns.sum(dim, keepdim=True)
        yield Root(edge, *(drawn * part for part in roots_of(weight, 1.0)))

    def diagonals(self) -> Iterator[tuple[GradientEdge, Tensor]]:
        edge, p, weight, _ = self._parts()
        yield edge, weight * (p - p.square())

    def _parts(self) -> tuple[GradientEdge, Tensor, Tensor, int]:
        """The input's place, p, what diag(p) - p p^T is multiplied with, and the dimension."""
        saved: Any = self.node
        (edge,), p, dim = edges(self.node), saved._saved_result.detach().exp(), saved_dim(self.node)
        assert edge is not None
        return edge, p, -self.grad.sum(dim, keepdim=True), dim


class Normalisation(Curved):
    """LayerNorm or GroupNorm."""

    def roots(self, draw: Draw) -> Iterator[Root]:
        rows, q, along = self._parts()
        n, s, size = rows.normal, rows.scale, rows.normal.shape[-1]
        mass = n.square().mean(-1, keepdim=True)
        signs = draw(self, rows.shape).reshape(n.shape)
        centred = signs - signs.mean(-1, keepdim=True)
        # Its square is I - n n^T / D on what is centred.
        shrink = _divided(1 - (1 - mass).clamp(min=0).sqrt(), mass)
        drawn = s * (centred - n * (shrink * (centred * n).mean(-1, keepdim=True)))
        yield self._root(rows, *(drawn * part for part in roots_of(-along, 1.0)))
        sign = draw(self, rows.each).reshape(s.shape)
        yield self._root(rows, *_rank_two(-q * s, n * s / size, sign, -1))

    def diagonals(self) -> Iterator[tuple[GradientEdge, Tensor]]:
        rows, q, along = self._parts()
        n, size = rows.normal, rows.normal.shape[-1]
        diagonal = 2 * q * n / size + along * (1 - (1 + n.square()) / size)
        yield rows.edge, (-rows.scale.square() * diagonal).reshape(rows.shape)

    def _parts(self) -> tuple[Rows, Tensor, Tensor]:
        """The rows, q and <g n>."""
        rows = rows_of(self.node)
        g = (self.grad if rows.weight is None else self.grad * rows.weight).reshape(rows.normal.shape)
        along = (g * rows.normal).mean(-1, keepdim=True)
        return rows, g - g.mean(-1, keepdim=True) - rows.normal * along, along

    def _root(self, rows: Rows, positive: Tensor, negative: Tensor) -> Root:
        return Root(rows.edge, positive.reshape(rows.shape), negative.reshape(rows.shape))


@dataclass(frozen=True)
class Rows:
    """What a normalisation did, a row for each that is normalised together.

    Attributes:
        edge: the input's place.
        shape: the input's.
        each: the shape of one number for each row.
        normal: the normalised input, (..., entries).
        scale: the inverse of its standard deviation, (..., 1).
        weight: of the entries, as wide as the input or to be expanded to it.
    """

    edge: GradientEdge
    shape: torch.Size
    each: torch.Size
    normal: Tensor
    scale: Tensor
    weight: Tensor | None


def rows_of(node: Node) -> Rows:
    """Of LayerNorm or GroupNorm."""
    saved: Any = node
    edge, input, weight = edges(node)[0], saved._saved_input.detach(), saved._saved_weight
    weight = None if weight is None else weight.detach()
    assert edge is not None
    if short_name(node) == "NativeGroupNorm":
        each = saved._saved_result2.shape
        weight = None if weight is None else weight.view(-1, *[1] * (input.dim() - 2))
    else:
        each = input.shape[: input.dim() - len(saved._saved_normalized_shape)]
    mean, scale = (value.reshape(*each, 1) for value in (saved._saved_result1, saved._saved_result2))
    return Rows(edge, input.shape, each, (input.reshape(*each, -1) - mean) * scale, scale, weight)


OWN: dict[str, type[Curved]] = {
    "Mul": Product,
    "Div": Quotient,
    "Mm": MatrixProduct,
    "Addmm": MatrixProduct,
    "Bmm": MatrixProduct,
    "Baddbmm": MatrixProduct,
    "Softmax": Softmax,
    "SafeSoftmax": Softmax,
    "LogSoftmax": LogSoftmax,
    "NativeLayerNorm": Normalisation,
    "NativeGroupNorm": Normalisation,
}


def _crossed(first: GradientEdge, one: Tensor, second: GradientEdge, other: Tensor) -> Iterator[Root]:
    """Of a pair of random vectors whose product is that of the inputs' second derivative."""
    one, other = one * 0.5**0.5, other * 0.5**0.5
    yield Root(first, one, one)
    yield Root(second, other, -other)


def _rank_two(one: Tensor, other: Tensor, sign: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Of one other^T + other one^T in each row."""
    length, of_other = (torch.linalg.vector_norm(t, dim=dim, keepdim=True) for t in (one, other))
    ratio = _divided(of_other, length).sqrt()
    one, other = one * ratio * (0.5**0.5 * sign), _divided(other, ratio) * (0.5**0.5 * sign)
    return one + other, one - other


def _divided(value: Tensor, by: Tensor) -> Tensor:
    """Zero where it is divided by zero."""
    return torch.where(by == 0, 0.0, value / by)


def saved_dim(node: Node) -> int:
    """An operation's dimension."""
    dim: int = node._saved_dim
    return signed(dim)


def signed(number: int) -> int:
    """A whole number that an operation saves, which PyTorch gives unsigned."""
    return number - 2**64 if number >= 2**63 else number

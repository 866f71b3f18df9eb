"""The whole diagonal of the Hessian is estimated here: that of Gauss-Newton, and what it misses.

Gauss-Newton is all of the Hessian where a network is piecewise linear. Elsewhere each operation that is not linear adds
a term of its own, of either sign: see ``second_derivatives``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from optimizers.curvature.carried import carried
from optimizers.curvature.estimators import Hutchinson
from optimizers.curvature.gauss_newton import GGNMC, MEMBERS, Layerwise
from optimizers.curvature.graph import add_at, set_of
from optimizers.curvature.interface import BACKWARD_COST, HESSIAN_VECTOR_COST, Refresh
from optimizers.curvature.operation import Curved, Elementwise
from optimizers.curvature.operations import Operations
from optimizers.curvature.output_hessian import OutputHessian
from optimizers.curvature.per_sample import PerSample
from optimizers.curvature.probes import random_signs, rows_of_members

SAID = "said what is not known"


class HessianMC(GGNMC):
    """Signed Monte Carlo: unbiased for the Hessian's diagonal, at any depth, for the price of two backward passes.

    As ``GGNMC``, with a random vector of each nonlinearity's own second derivative added on the way back. What adds to
    the diagonal and what is taken from it go back in two passes, of which each sample's squares are summed; the
    estimate is their difference, which may be negative. A layer's part of the second derivative of the function that
    follows it needs no chance and is exact. Where nothing else is not linear there is no second pass: on piecewise
    linear networks it is ``GGNMC``. Costs up to two backward passes per draw.

    Any function of each entry is known, by automatic differentiation of its derivative; products of activations,
    quotients, softmax (attention's, too), log-softmax, LayerNorm and GroupNorm. A layer may be used twice, weights may
    be tied or those of a recurrent network. In training mode the second derivative of BatchNorm is left out, besides
    what ``GGNMC`` leaves out there. Parameters behind another operation, such as a norm, and those that the loss
    depends on otherwise than by the outputs get Hutchinson's estimate; a warning says so once. That costs two gradients
    per draw and two thirds more.

    Args:
        samples: number of draws to average, at least 1.
        draws: of the outputs, "signs" or "labels".
    """

    stacks = True
    costs = "4/3 per sample"
    instead = "the square of the whole batch's vector"

    def __init__(self, samples: int = 1, draws: str = "signs") -> None:
        super().__init__(samples, draws)
        self.listens = True

    def follow_stack(
        self, record: Any, losses: Tensor, outputs: Tensor, params: Sequence[Tensor], memory: dict[str, Any]
    ) -> None:
        super().follow_stack(record, losses, outputs, params, memory)
        record.apart = not record.operations.find_members(losses, params, memory.setdefault(MEMBERS, {}))

    def sees_apart(self, record: Any) -> bool:
        return record.apart or super().sees_apart(record)

    def passes(self, refresh: Refresh) -> int:
        return self.samples * (2 if refresh.record.random else 1)

    def cost(self, refresh: Refresh) -> float:
        lost = BACKWARD_COST + HESSIAN_VECTOR_COST * self.samples if refresh.record.lost else 0.0
        return super().cost(refresh) + lost

    def __call__(self, refresh: Refresh) -> list[Tensor]:
        head = OutputHessian(refresh)
        operations = self.operations(refresh)  # before other vectors go back
        per_sample = self.layers(refresh)
        lost = self._lost(refresh, operations)
        own = {edge: set_of(refresh.indices[i] for i in places) for edge, places in per_sample.places().items()}
        random = [each for each in operations.known if each.reach & ~lost & ~_needs_no_chance(each, own)]
        refresh.record.random, refresh.record.lost = bool(random), lost

        residuals = _residuals(operations.known, own)
        total = per_sample.weighted(residuals) if residuals else []
        for vectors in self.vectors(head, refresh.generator, 1):
            positive, negative = _Pass({per_sample.root: vectors[0]}), _Pass({})
            for each in random:
                for root in each.roots(partial(_draw, refresh)):
                    known_here = isinstance(each, Elementwise) and root.edge in own
                    positive.add(root.edge, self._share(root.positive), known_here)
                    negative.add(root.edge, self._share(root.negative), known_here)
            squares = positive.squares(per_sample)
            if negative.roots:
                squares = [s - t for s, t in zip(squares, negative.squares(per_sample), strict=True)]
            total = [t + s for t, s in zip(total, squares, strict=True)] if total else squares
        return self._with_lost(refresh, total) if lost else total

    def _share(self, vector: Tensor) -> Tensor:
        """Of one draw in the mean of several, whose squares are added up."""
        return vector if self.samples == 1 else vector / self.samples**0.5

    def _lost(self, refresh: Refresh, operations: Operations) -> int:
        """The parameters of which not all is known."""
        reasons = {f"the second derivative of {name}": reach for name, reach in operations.unknown.items()}
        reasons["what the loss has beside the outputs"] = operations.graph.beside(refresh.loss)
        reasons = {why: reach for why, reach in reasons.items() if reach & set_of(refresh.indices)}
        lost = 0
        for reach in reasons.values():
            lost |= reach & set_of(refresh.indices)
        if lost and SAID not in refresh.memory:
            refresh.memory[SAID] = True
            warnings.warn(
                f"{type(self).__name__} does not know {', '.join(reasons)}: hutchinson's estimate is used for "
                f"{lost.bit_count()} of {len(refresh.params)} parameters",
                stacklevel=2,
            )
        return lost

    def _with_lost(self, refresh: Refresh, found: list[Tensor]) -> list[Tensor]:
        """With Hutchinson's estimate for some."""
        lost = [i for i, index in enumerate(refresh.indices) if refresh.record.lost >> index & 1]
        params = [refresh.params[i] for i in lost]
        grads = torch.autograd.grad(refresh.loss, params, create_graph=True)
        estimates = Hutchinson(self.samples)(replace(refresh, params=params, grads=grads))
        for i, estimate in zip(lost, estimates, strict=True):
            found[i] = estimate
        return found


def _needs_no_chance(operation: Curved, own: Mapping[GradientEdge, int]) -> int:
    """The parameters whose part of an operation's second derivative is exact."""
    return own.get(operation.edge, 0) if isinstance(operation, Elementwise) else 0


def _residuals(known: Sequence[Curved], own: Mapping[GradientEdge, int]) -> dict[GradientEdge, Tensor]:
    """Those at layers' outputs, as one vector each."""
    found: dict[GradientEdge, Tensor] = {}
    for each in known:
        if isinstance(each, Elementwise) and each.residual is not None and each.edge in own:
            add_at(found, each.edge, each.residual[None])
    return found


def _draw(refresh: Refresh, operation: Curved, shape: torch.Size) -> Tensor:
    """Signs for an operation, of a stack those that each member would draw."""

    def draw(own: Sequence[int], generator: torch.Generator) -> Tensor:
        return random_signs([refresh.grads[0].new_empty(()).expand(own)], generator)[0]

    if not operation.members_at:
        return rows_of_members(draw, shape, refresh.generator)
    rows = shape[operation.members_at], *(size for dim, size in enumerate(shape) if dim != operation.members_at)
    return rows_of_members(draw, rows, refresh.generator).movedim(0, operation.members_at)


class HesScale(Layerwise):
    """The diagonal of the Hessian carried back layer by layer: an approximation, without chance, for a backward pass.

    The diagonal at the outputs is the loss's; see ``carried`` for what becomes of it. Layers are those of ``GGNMC``;
    another layer's parameter gets what is carried to itself. What cannot be carried through an operation is left out;
    a warning says so once. Exact for the last layer; what two units have together is lost in those before.

    Source: Elsayed, Farrahi, Dangel, Mahmood, "Revisiting scalable Hessian diagonal approximations for applications in
    reinforcement learning", 2024.
    """

    stacks = True
    listens = True
    costs = "2/3"
    instead = "what is carried to themselves"

    def passes(self, refresh: Refresh) -> int:
        return 1

    def __call__(self, refresh: Refresh) -> list[Tensor]:
        head = OutputHessian(refresh)
        self.operations(refresh)
        return carried(refresh, self.layers(refresh), head.diagonal(), type(self).__name__)


class _Pass:
    """What goes back through the graph together.

    Args:
        roots: what begins it at places of the graph.
    """

    def __init__(self, roots: dict[GradientEdge, Tensor]) -> None:
        self.roots = roots
        self._own: dict[GradientEdge, Tensor] = {}

    def add(self, edge: GradientEdge, value: Tensor, known_here: bool) -> None:
        """
        Args:
            known_here: whether a layer that gives the place its tensor is to take no notice.
        """
        for values in (self.roots, self._own) if known_here else (self.roots,):
            add_at(values, edge, value)

    def squares(self, per_sample: PerSample) -> list[Tensor]:
        """Of each parameter's gradients."""
        one_vector = {edge: value[None] for edge, value in self.roots.items()}
        return per_sample.squares(one_vector, {edge: value[None] for edge, value in self._own.items()})

"""Per-sample squares are summed layer by layer, for the parameters of a network that can be treated so."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from optimizers.curvature.graph import place_of
from optimizers.curvature.interface import Refresh
from optimizers.curvature.layer_records import Recorder, Use, by_sample
from optimizers.curvature.output_hessian import tolerance

ROUNDING = 1e-5
"""What may differ by rounding, relative to the largest that a gradient could be: it may vanish by cancellation."""

LOOK_PASSES = 2
"""Backward passes that a look takes."""

Grads = dict[GradientEdge | int, Tensor | None]
"""Gradients per place of a layer's output in the graph, and per place of a parameter that no layer explains."""

Roots = Mapping[GradientEdge, Tensor]
"""What is given for places of the graph, each with a first dimension of vectors."""

Uses = dict[int, tuple[Use, bool]]
"""Per place of a parameter the use of it, and whether its rows are ordered by sample."""

Summed = Callable[[Use, Tensor], Tensor]
"""A parameter's sum, given rows of (vectors, samples, positions, width)."""


class PerSample:
    """Sums of per-sample squares of gradients; a parameter that no layer explains gets the batch's square instead.

    The first refresh propagates two vectors back, one the other with a random factor per sample. A layer is understood
    where its own gradient is autograd's, and where every row's gradient has its own sample's factor; that also tells
    whether rows are ordered by sample or by position. What was decided, per number of rows of a sample, is kept in
    ``refresh.memory``, and looked at anew at each refresh where rows are picked by what the batch holds.

    Args:
        refresh: whose outputs and record.
        name: the estimator's, for a warning.
        instead: what a parameter gets that no layer explains, for the same.
        members: of the stack that it is a refresh of.

    Attributes:
        samples: how many one member has.
        entries: entries of the layers' outputs: what one vector's propagation holds.
    """

    stack_dims = 0
    """Dimensions of a parameter that are the members'."""

    def __init__(self, refresh: Refresh, name: str, instead: str = "gnb's estimate", members: int = 1) -> None:
        self.outputs: Tensor = refresh.outputs
        self.root = place_of(self.outputs)
        self.params = refresh.params
        self.members = members
        self.samples = len(self.outputs) // members
        uses = {i: refresh.record.uses[id(param)] for i, param in zip(refresh.indices, refresh.params, strict=True)}
        orders = self._orders(uses, refresh, name, instead)

        self.uses: Uses = {}
        self.others: dict[int, Tensor] = {}
        for place, (i, param) in enumerate(zip(refresh.indices, refresh.params, strict=True)):
            if i in orders:
                (use,) = uses[i]
                self.uses[place] = use, orders[i]
            else:
                self.others[place] = param
        self.edges = {use.edge: use.entries for use, _ in self.uses.values()}
        self.entries = sum(self.edges.values()) * members

    def places(self) -> dict[GradientEdge, list[int]]:
        """At which place of the graph which parameters' layers give their outputs."""
        found: dict[GradientEdge, list[int]] = {}
        for place, (use, _) in self.uses.items():
            found.setdefault(use.edge, []).append(place)
        return found

    def squares(self, vectors: Roots, own: Roots | None = None) -> list[Tensor]:
        """Propagate vectors from places of the graph, ``(vectors, *shape)`` each: a sum of squares per parameter.

        Args:
            own: what is taken away again where it comes to a layer's output.
        """
        backward = self._backward([*self.edges, *self.others.values()], vectors)
        grads: Grads = dict(zip([*self.edges, *self.others], backward, strict=True))
        for edge, vector in (own or {}).items():
            grads[edge] = None if (grad := grads[edge]) is None else grad - vector
        return self.sums_of(grads, self.params, self.uses, lambda use, rows: use.squares(rows))

    def weighted(self, weights: Roots) -> list[Tensor]:
        """The sum per parameter of what is given for layers' outputs times the squares of their derivatives by it."""
        grads: Grads = {**dict.fromkeys(self.edges), **dict.fromkeys(self.others), **weights}
        return self.sums_of(grads, self.params, self.uses, lambda use, rows: use.weighted(rows))

    def sums_of(self, grads: Grads, params: Sequence[Tensor], uses: Uses, summed: Summed) -> list[Tensor]:
        """The sum per parameter, given what belongs to the layers' outputs and to the other parameters."""
        rows: dict[GradientEdge, Tensor] = {}
        sums = []
        for place, param in enumerate(params):
            use, batch_first = uses.get(place, (None, False))
            grad = grads[place if use is None else use.edge]
            if grad is None:
                sums.append(torch.zeros_like(param))
            elif use is None:
                sums.append(grad.square().sum(0))
            else:
                if use.edge not in rows:
                    rows[use.edge] = by_sample(use.rows(grad), self.samples, batch_first, dim=1)
                use.arrange(self.samples, batch_first)
                sums.append(summed(use, rows[use.edge]))
        return sums

    def _backward(self, inputs: Sequence[Tensor | GradientEdge], vectors: Roots) -> list[Tensor | None]:
        roots, given = list(vectors), list(vectors.values())
        if len(given[0]) > 1:
            return list(
                torch.autograd.grad(roots, inputs, given, retain_graph=True, allow_unused=True, is_grads_batched=True)
            )
        alone = [vector[0] for vector in given]
        grads = torch.autograd.grad(roots, inputs, alone, retain_graph=True, allow_unused=True)
        return [None if grad is None else grad[None] for grad in grads]

    def _orders(self, uses: dict[int, list[Use]], refresh: Refresh, name: str, instead: str) -> dict[int, bool]:
        """Per parameter whose rows are understood, whether they are ordered by sample."""
        known: dict[int, dict[float, bool]] = refresh.memory.setdefault("orders of rows", {})
        unknown: dict[int, None] = refresh.memory.setdefault("rows not understood", {})
        orders: dict[int, bool] = {}
        decided: dict[int, bool | None] = {}
        new: dict[int, Use] = {}
        for i in uses.keys() - unknown.keys():
            if len(uses[i]) != 1:
                decided[i] = None
            elif not refresh.record.routed and uses[i][0].positions(self.samples) in known.get(i, {}):
                orders[i] = known[i][uses[i][0].positions(self.samples)]
            else:
                new[i] = uses[i][0]
        if new:
            decided |= self._decide(new, refresh)

        for i, order in decided.items():
            if order is None:
                continue
            orders[i] = order
            if self.samples > 1:  # one sample alone says nothing of the order
                known.setdefault(i, {})[new[i].positions(self.samples)] = order
        lost = {i: p for i, p in zip(refresh.indices, refresh.params, strict=True) if decided.get(i, True) is None}
        if lost and not unknown:
            _say(name, instead, [param.shape[self.stack_dims :] for param in lost.values()])
        unknown.update(dict.fromkeys(lost))
        return orders

    def _decide(self, uses: dict[int, Use], refresh: Refresh) -> dict[int, bool | None]:
        """Per parameter: whether its rows are ordered by sample; ``None`` if it is not understood.

        A parameter that no vector reaches is left out, to be looked at again. Waits for the device.
        """
        stream = torch.Generator().manual_seed(0)
        probe = torch.randn((self.samples, *self.outputs.shape[1:]), generator=stream).to(self.outputs)
        factors = torch.randn(self.samples, generator=stream).to(self.outputs)
        params = dict(zip(refresh.indices, refresh.params, strict=True))
        inputs = [x for i, use in uses.items() for x in (params[i], use.edge)]
        plain, scaled = (
            iter(self._backward(inputs, {self.root: torch.cat([vector] * self.members)[None]}))
            for vector in (probe, probe * factors.view(-1, *[1] * (probe.ndim - 1)))
        )
        decided: dict[int, bool | None] = {}
        for i, use in uses.items():
            (_, rows), (grad, scaled_rows) = (next(plain), next(plain)), (next(scaled), next(scaled))
            if grad is None or rows is None or scaled_rows is None:
                continue
            for own, total, ones, others in self.of_each_member(use, grad, rows, scaled_rows):
                if bool(ones.any()) and bool(ones.isfinite().all()):
                    own_rows = own.rows(ones)[0], own.rows(others)[0]
                    decided[i] = self._order(own, total[0], *own_rows, factors, refresh.record)
                    break
        return decided

    def of_each_member(
        self, use: Use, grad: Tensor, rows: Tensor, scaled_rows: Tensor
    ) -> Iterator[tuple[Use, Tensor, Tensor, Tensor]]:
        """A use and its gradients: here one of each, since there is one network."""
        yield use, grad, rows, scaled_rows

    def _order(
        self, use: Use, grad: Tensor, rows: Tensor, scaled_rows: Tensor, factors: Tensor, record: Recorder
    ) -> bool | None:
        """
        Args:
            grad: the parameter's gradient, from the samples with factors.
            rows: the gradient of the layer's output, (rows, width), from the samples without factors.
            scaled_rows: with factors.
        """
        if len(rows) % self.samples or (record.coupled and record.routed):
            return None
        use.arrange(self.samples, batch_first=True)
        summed = use.total(by_sample(scaled_rows, self.samples, batch_first=True))
        rounding = max(ROUNDING, torch.finfo(grad.dtype).eps)
        if (summed - grad).norm() > tolerance(grad) * grad.norm() + rounding * scaled_rows.norm() * use.size():
            return None
        amiss = {order: self._amiss(rows, scaled_rows, factors, order) for order in (True, False)}
        order = amiss[True] <= amiss[False]
        return order if record.coupled or amiss[order] <= ROUNDING else None

    def _amiss(self, rows: Tensor, scaled_rows: Tensor, factors: Tensor, batch_first: bool) -> float:
        """What share of the rows' mass does not have its sample's factor."""
        plain, scaled = (by_sample(r.double(), self.samples, batch_first) for r in (rows, scaled_rows))
        return float((scaled - factors.double().view(-1, 1, 1) * plain).square().sum() / scaled.square().sum())


def _say(name: str, instead: str, shapes: list[torch.Size]) -> None:
    listed = ", ".join(str(tuple(shape)) for shape in shapes)
    warnings.warn(
        f"{name} knows no layer for {len(shapes)} parameters, of shapes {listed}, or finds its samples mixed "
        f"(are they the first dimension of the outputs, and has each as many rows?): {instead} is used for them, "
        "and for others found so later",
        stacklevel=2,
    )

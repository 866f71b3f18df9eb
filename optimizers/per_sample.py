"""Which parameters of a network can be treated layer by layer, and sums of their per-sample squares."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from optimizers.estimator import Refresh
from optimizers.layers import Recorder, Use, by_sample

TOLERANCE = 1e-3
"""Relative difference between a layer's gradient and autograd's up to which the layer counts as understood."""

ROUNDING = 1e-5
"""The same, relative to the largest that the gradient could be: it may vanish by cancellation."""


class PerSample:
    """Adds up per-sample squares of gradients; a parameter that no layer explains gets the batch's square instead.

    The first refresh propagates one vector back from the last sample alone. A layer is understood where its own
    gradient is autograd's, and where the vector reaches no row of another sample; that also tells whether rows are
    ordered by sample or by position. What was found is kept in ``refresh.memory``.

    Attributes:
        entries: entries of the layers' outputs: what one vector's propagation holds.
    """

    def __init__(self, refresh: Refresh, name: str) -> None:
        self.outputs: Tensor = refresh.outputs
        self.samples = len(self.outputs)
        record: Recorder = refresh.record
        batch_first: dict[int, bool | None] = refresh.memory.setdefault("batch_first", {})
        new = {i: p for i, p in enumerate(refresh.params) if id(p) not in batch_first}
        if new:
            found = self._look(new, record)
            batch_first |= found
            _say(name, [refresh.params[i] for i in new if found.get(id(new[i]), True) is None])
        self.uses: dict[int, tuple[Use, bool]] = {}
        self.others: dict[int, Tensor] = {}
        for i, param in enumerate(refresh.params):
            uses, order = record.uses[id(param)], batch_first.get(id(param))
            if order is None or len(uses) != 1:
                self.others[i] = param
            else:
                self.uses[i] = uses[0], order
                uses[0].arrange(self.samples, order)
        self.edges = {use.edge: use.entries for use, _ in self.uses.values()}
        self.entries = sum(self.edges.values())

    def add_squares(self, total: list[Tensor], vectors: Tensor) -> None:
        """Propagate vectors on the outputs, ``(vectors, *outputs.shape)``; add to ``total``, one per parameter."""
        edges, others = list(self.edges), list(self.others.values())
        grads = dict(zip([*edges, *self.others], self._backward([*edges, *others], vectors), strict=True))
        for i, (use, batch_first) in self.uses.items():
            grad = grads[use.edge]
            if grad is not None:
                total[i] += use.squares(by_sample(use.rows(grad), self.samples, batch_first, dim=1))
        for i in self.others:
            grad = grads[i]
            if grad is not None:
                total[i] += grad.square().sum(0)

    def _backward(self, inputs: Sequence[Tensor | GradientEdge], vectors: Tensor) -> list[Tensor | None]:
        if len(vectors) > 1:
            return torch.autograd.grad(
                self.outputs, inputs, vectors, retain_graph=True, allow_unused=True, is_grads_batched=True
            )
        grads = torch.autograd.grad(self.outputs, inputs, vectors[0], retain_graph=True, allow_unused=True)
        return [None if grad is None else grad[None] for grad in grads]

    def _look(self, params: dict[int, Tensor], record: Recorder) -> dict[int, bool | None]:
        """Per ``id(parameter)``: whether its rows are ordered by sample, ``None`` if it is not understood.

        A parameter that the vector does not reach is left out, to be looked at again. Waits for the device.
        """
        probe = torch.zeros_like(self.outputs)
        probe[-1] = torch.randn(self.outputs.shape[1:], generator=torch.Generator().manual_seed(0)).to(probe)
        found: dict[int, bool | None] = {}
        for param in params.values():
            uses = record.uses[id(param)]
            if len(uses) != 1:
                found[id(param)] = None
                continue
            grad, rows = self._backward([param, uses[0].edge], probe[None])
            if grad is None or rows is None or not bool(rows.any()):
                continue
            found[id(param)] = self._order(uses[0], grad[0], uses[0].rows(rows), record.coupled)
        return found

    def _order(self, use: Use, grad: Tensor, rows: Tensor, coupled: bool) -> bool | None:
        if rows.shape[1] % self.samples:
            return None
        use.arrange(self.samples, batch_first=True)
        own = use.total(by_sample(rows[0], self.samples, batch_first=True))
        if (own - grad).norm() > TOLERANCE * grad.norm() + ROUNDING * rows.norm() * use.size():
            return None
        mass = rows[0].square().sum(-1)
        shares = {order: by_sample(mass, self.samples, order)[-1].sum() for order in (True, False)}
        order = bool(shares[True] >= shares[False])
        if coupled or shares[order] > (1 - ROUNDING) * mass.sum():
            return order
        return None


def _say(name: str, params: list[Tensor]) -> None:
    if params:
        shapes = ", ".join(str(tuple(param.shape)) for param in params)
        warnings.warn(
            f"{name} knows no layer for {len(params)} parameters, of shapes {shapes}, or finds its samples mixed "
            "(are they the first dimension of the outputs?): gnb's estimate is used for them",
            stacklevel=2,
        )

"""Which parameters of a network can be treated layer by layer, and sums of their per-sample squares."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from optimizers.estimator import Refresh
from optimizers.layers import Recorder, Use, by_sample
from optimizers.output_hessian import tolerance

ROUNDING = 1e-5
"""What may differ by rounding, relative to the largest that a gradient could be: it may vanish by cancellation."""

LOOKS = 8
"""Samples that a first look tries, where the vector of one reaches nothing: its units may all be off."""


class PerSample:
    """Sums of per-sample squares of gradients; a parameter that no layer explains gets the batch's square instead.

    The first refresh propagates one vector back from one sample alone. A layer is understood where its own gradient is
    autograd's, and where the vector reaches no row of another sample; that also tells whether rows are ordered by
    sample or by position. What was found is kept in ``refresh.memory``.

    Attributes:
        entries: entries of the layers' outputs: what one vector's propagation holds.
    """

    def __init__(self, refresh: Refresh, name: str) -> None:
        self.outputs: Tensor = refresh.outputs
        self.params = refresh.params
        self.samples = len(self.outputs)
        record: Recorder = refresh.record
        known: dict[int, bool | None] = refresh.memory.setdefault("rows by sample", {})
        new = {i: p for i, p in zip(refresh.indices, refresh.params, strict=True) if i not in known}
        found = self._look(new, record) if new else {}
        # One sample alone says nothing of the order.
        known |= {i: order for i, order in found.items() if order is None or self.samples > 1}
        _say(name, [new[i] for i, order in found.items() if order is None])

        self.uses: dict[int, tuple[Use, bool]] = {}
        self.others: dict[int, Tensor] = {}
        for place, (i, param) in enumerate(zip(refresh.indices, refresh.params, strict=True)):
            uses, order = record.uses[id(param)], known.get(i, found.get(i))
            if order is None or len(uses) != 1:
                self.others[place] = param
            else:
                self.uses[place] = uses[0], order
                uses[0].arrange(self.samples, order)
        self.edges = {use.edge: use.entries for use, _ in self.uses.values()}
        self.entries = sum(self.edges.values())

    def squares(self, vectors: Tensor) -> list[Tensor]:
        """Propagate vectors on the outputs, ``(vectors, *outputs.shape)``: a sum of squares per parameter."""
        found = self._backward([*self.edges, *self.others.values()], vectors)
        grads = dict(zip([*self.edges, *self.others], found, strict=True))
        rows: dict[GradientEdge, Tensor] = {}
        squares = []
        for place, param in enumerate(self.params):
            use, batch_first = self.uses.get(place, (None, False))
            grad = grads[place if use is None else use.edge]
            if grad is None:
                squares.append(torch.zeros_like(param))
            elif use is None:
                squares.append(grad.square().sum(0))
            else:
                if use.edge not in rows:
                    rows[use.edge] = by_sample(use.rows(grad), self.samples, batch_first, dim=1)
                squares.append(use.squares(rows[use.edge]))
        return squares

    def _backward(self, inputs: Sequence[Tensor | GradientEdge], vectors: Tensor) -> list[Tensor | None]:
        if len(vectors) > 1:
            return torch.autograd.grad(
                self.outputs, inputs, vectors, retain_graph=True, allow_unused=True, is_grads_batched=True
            )
        grads = torch.autograd.grad(self.outputs, inputs, vectors[0], retain_graph=True, allow_unused=True)
        return [None if grad is None else grad[None] for grad in grads]

    def _look(self, params: dict[int, Tensor], record: Recorder) -> dict[int, bool | None]:
        """Per parameter: whether its rows are ordered by sample; ``None`` if it is not understood.

        A parameter that no vector reaches is left out, to be looked at again. Waits for the device.
        """
        found: dict[int, bool | None] = {i: None for i, p in params.items() if len(record.uses[id(p)]) != 1}
        noise = torch.randn(self.outputs.shape[1:], generator=torch.Generator().manual_seed(0))
        for sample in range(self.samples - 1, max(-1, self.samples - 1 - LOOKS), -1):
            left = {i: (p, record.uses[id(p)][0]) for i, p in params.items() if i not in found}
            if not left:
                break
            probe = torch.zeros_like(self.outputs)
            probe[sample] = noise.to(probe)
            grads = iter(self._backward([x for p, use in left.values() for x in (p, use.edge)], probe[None]))
            for i, (_, use) in left.items():
                grad, rows = next(grads), next(grads)
                if grad is not None and rows is not None and bool(rows.any()) and bool(rows.isfinite().all()):
                    found[i] = self._order(use, grad[0], rows, sample, record.coupled)
        return found

    def _order(self, use: Use, grad: Tensor, output_grad: Tensor, sample: int, coupled: bool) -> bool | None:
        rows = use.rows(output_grad)
        if rows.shape[1] % self.samples:
            return None
        use.arrange(self.samples, batch_first=True)
        own = use.total(by_sample(rows[0], self.samples, batch_first=True))
        relative = tolerance(output_grad)
        rounding = max(ROUNDING, torch.finfo(output_grad.dtype).eps)
        if (own - grad).norm() > relative * grad.norm() + rounding * rows.norm() * use.size():
            return None
        mass = rows[0].double().square().sum(-1)
        shares = {order: by_sample(mass, self.samples, order)[sample].sum() for order in (True, False)}
        order = bool(shares[True] >= shares[False])
        return order if coupled or shares[order] > (1 - ROUNDING) * mass.sum() else None


def _say(name: str, params: list[Tensor]) -> None:
    if params:
        shapes = ", ".join(str(tuple(param.shape)) for param in params)
        warnings.warn(
            f"{name} knows no layer for {len(params)} parameters, of shapes {shapes}, or finds its samples mixed "
            "(are they the first dimension of the outputs?): gnb's estimate is used for them",
            stacklevel=2,
        )

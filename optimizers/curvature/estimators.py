"""Estimators of curvature differentiate the gradient here, or need no more than gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optimizers.curvature.interface import HESSIAN_VECTOR_COST, Estimator, Refresh
from optimizers.curvature.probes import Streams, random_normals, random_signs
from optimizers.curvature.products import entry_products, hessian_rows, hessian_vector_product

ROWS_AT_ONCE = 64
"""Rows of a Hessian that one batched backward pass gives."""


class Hutchinson(Estimator):
    """Hutchinson's estimator of the Hessian's diagonal: the mean over probes v of ``v * Hv``; unbiased.

    Exact from one Rademacher probe where the Hessian is diagonal. Costs one Hessian-vector product per sample.

    Source: Bekas, Kokiopoulou, Saad, "An estimator for the diagonal of a matrix", 2007; as in AdaHessian
    (Yao et al. 2021).

    Args:
        samples: number of probes, at least 1.
        probe: "rademacher" (entries -1 or 1) or "gaussian".
    """

    double_backward = True
    stacks = True
    costs = "2 per sample"

    def __init__(self, samples: int = 1, probe: str = "rademacher") -> None:
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        if probe not in ("rademacher", "gaussian"):
            raise ValueError(f"probe must be 'rademacher' or 'gaussian', got {probe!r}")
        self.samples = samples
        self.probe = probe

    def __call__(self, refresh: Refresh) -> list[Tensor]:
        total: list[Tensor] = []
        for left in reversed(range(self.samples)):
            streams = refresh.generator
            stack = isinstance(streams, Streams)
            probes = streams.draw(self.draw, refresh.params) if stack else self.draw(refresh.params, streams)
            products = hessian_vector_product(refresh.grads, refresh.params, probes, retain_graph=left > 0)
            terms = entry_products(probes, products, recorded=stack)
            total = [t + term for t, term in zip(total, terms, strict=True)] if total else terms
        return total if self.samples == 1 else [t / self.samples for t in total]

    def draw(self, like: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
        """One probe, of the shapes, dtypes and device of ``like``."""
        if self.probe == "gaussian":
            return random_normals(like, generator)
        return random_signs(like, generator)

    def cost(self, refresh: Refresh) -> float:
        return HESSIAN_VECTOR_COST * self.samples


class HessianVector(Estimator):
    """``Hv`` itself, along the direction that the rule asks for: by default ``-rho sign(momentum)``.

    For rules that square it, as SSVP does. Costs one Hessian-vector product.
    """

    double_backward = True
    stacks = True
    costs = "2"

    def __call__(self, refresh: Refresh) -> list[Tensor]:
        return list(hessian_vector_product(refresh.grads, refresh.params, refresh.directions(), retain_graph=False))

    def cost(self, refresh: Refresh) -> float:
        return HESSIAN_VECTOR_COST


class Exact(Estimator):
    """The Hessian's exact diagonal, one Hessian-vector product per parameter entry: an oracle for small networks."""

    double_backward = True
    costs = "2 per parameter entry"

    def __call__(self, refresh: Refresh) -> list[Tensor]:
        return [self._diagonal(p, g) for p, g in zip(refresh.params, refresh.grads, strict=True)]

    @staticmethod
    def _diagonal(param: Tensor, grad: Tensor) -> Tensor:
        numel = param.numel()
        chunks = [
            hessian_rows(param, grad, start, min(start + ROWS_AT_ONCE, numel)).diagonal(start)
            for start in range(0, numel, ROWS_AT_ONCE)
        ]
        return torch.cat(chunks).reshape(param.shape) if chunks else torch.zeros_like(param)

    def cost(self, refresh: Refresh) -> float:
        return HESSIAN_VECTOR_COST * sum(p.numel() for p in refresh.params)


class HessianBlocks(Estimator):
    """Each chosen parameter's own Hessian block, ``(numel, numel)``; ``None`` for the others.

    Attributes:
        chosen: ``id`` of the parameters whose block is wanted.
    """

    double_backward = True
    costs = "2 per entry of the chosen parameters"

    def __init__(self) -> None:
        self.chosen: set[int] = set()

    def __call__(self, refresh: Refresh) -> list[Tensor | None]:
        return [
            self._block(p, g) if id(p) in self.chosen else None
            for p, g in zip(refresh.params, refresh.grads, strict=True)
        ]

    @staticmethod
    def _block(param: Tensor, grad: Tensor) -> Tensor:
        numel = param.numel()
        starts = range(0, numel, ROWS_AT_ONCE)
        rows = [hessian_rows(param, grad, start, min(start + ROWS_AT_ONCE, numel)) for start in starts]
        return torch.cat(rows) if rows else param.new_zeros(0, 0)

    def cost(self, refresh: Refresh) -> float:
        return HESSIAN_VECTOR_COST * sum(p.numel() for p in refresh.params if id(p) in self.chosen)


class Secant(Estimator):
    """Squared differences of consecutive gradients, ``(g_t - g_{t-1})^2``; zero at the first step. Costs nothing.

    Batches differ from step to step, so their noise is in it too: a scale of the curvature, not an estimate of it.
    """

    previous_gradients = True
    differentiates = False
    stacks = True
    costs = "0"

    def __call__(self, refresh: Refresh) -> list[Tensor]:
        return [
            torch.zeros_like(p) if before is None else (now - before).square()
            for p, now, before in zip(refresh.params, refresh.grads, refresh.previous_grads, strict=True)
        ]

    def cost(self, refresh: Refresh) -> float:
        return 0.0


class NoCurvature(Estimator):
    """Zero: the rule's first-order limit, at no cost."""

    differentiates = False
    stacks = True
    costs = "0"

    def __call__(self, refresh: Refresh) -> list[Tensor]:
        return [torch.zeros_like(p) for p in refresh.params]

    def cost(self, refresh: Refresh) -> float:
        return 0.0

"""Estimators of the Hessian's diagonal, chosen by name.

An estimator is called once per refresh, after the gradient, with that same forward pass: it is given the loss, the
outputs, the parameters, their gradients (with a graph where ``double_backward`` is True) and a generator for its
probes, and returns one tensor per parameter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

HESSIAN_VECTOR_COST = 2.0
"""Nominal cost of one Hessian-vector product in gradients: reverse over reverse runs the gradient's graph twice."""


class Estimator(ABC):
    """The interface of an estimator; see the module."""

    double_backward: bool = False
    """Whether the gradients it is given must carry a graph."""

    @abstractmethod
    def __call__(
        self, loss: Tensor, outputs: Any, params: list[Tensor], grads: Sequence[Tensor], generator: torch.Generator
    ) -> list[Tensor]:
        """The estimated diagonal of the Hessian of ``loss``: one tensor per parameter, of its shape."""

    @abstractmethod
    def cost(self, params: Sequence[Tensor]) -> float:
        """Nominal cost of one call in gradients, beyond the gradient that the step takes anyway."""


class Hutchinson(Estimator):
    """Hutchinson's estimator of the diagonal: the mean over probes v of ``v * Hv``; unbiased.

    Exact from one Rademacher probe where the Hessian is diagonal. Costs one Hessian-vector product per sample.

    Source: Bekas, Kokiopoulou, Saad, "An estimator for the diagonal of a matrix", 2007; as in AdaHessian
    (Yao et al. 2021).

    Args:
        samples: number of probes, at least 1.
        probe: "rademacher" (entries -1 or 1) or "gaussian".
    """

    double_backward = True

    def __init__(self, samples: int = 1, probe: str = "rademacher") -> None:
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        if probe not in ("rademacher", "gaussian"):
            raise ValueError(f"probe must be 'rademacher' or 'gaussian', got {probe!r}")
        self.samples = samples
        self.probe = probe

    def __call__(
        self, loss: Tensor, outputs: Any, params: list[Tensor], grads: Sequence[Tensor], generator: torch.Generator
    ) -> list[Tensor]:
        total = [torch.zeros_like(p) for p in params]
        for _ in range(self.samples):
            probes = [self.draw(p, generator) for p in params]
            products = hessian_vector_product(grads, params, probes)
            for t, v, hv in zip(total, probes, products, strict=True):
                t.addcmul_(v, hv, value=1.0 / self.samples)
        return total

    def draw(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """One probe, of the shape, dtype and device of ``like``."""
        if self.probe == "gaussian":
            return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)
        # The high end of randint is exclusive: (0, 2) draws 0 and 1.
        return torch.randint(0, 2, like.shape, dtype=like.dtype, device=like.device, generator=generator) * 2 - 1

    def cost(self, params: Sequence[Tensor]) -> float:
        return HESSIAN_VECTOR_COST * self.samples


class Exact(Estimator):
    """The exact diagonal, one Hessian-vector product per parameter entry: an oracle for small networks."""

    double_backward = True

    def __call__(
        self, loss: Tensor, outputs: Any, params: list[Tensor], grads: Sequence[Tensor], generator: torch.Generator
    ) -> list[Tensor]:
        return [self._diagonal(p, g) for p, g in zip(params, grads, strict=True)]

    @staticmethod
    def _diagonal(param: Tensor, grad: Tensor) -> Tensor:
        if not grad.requires_grad or not param.numel():
            return torch.zeros_like(param)
        entries = [
            torch.autograd.grad(entry, param, retain_graph=True, materialize_grads=True)[0].reshape(-1)[i]
            for i, entry in enumerate(grad.reshape(-1))
        ]
        return torch.stack(entries).reshape(param.shape)

    def cost(self, params: Sequence[Tensor]) -> float:
        return HESSIAN_VECTOR_COST * sum(p.numel() for p in params)


class NoCurvature(Estimator):
    """Zero: the rule's first-order limit, at no cost."""

    def __call__(
        self, loss: Tensor, outputs: Any, params: list[Tensor], grads: Sequence[Tensor], generator: torch.Generator
    ) -> list[Tensor]:
        return [torch.zeros_like(p) for p in params]

    def cost(self, params: Sequence[Tensor]) -> float:
        return 0.0


def hessian_vector_product(
    grads: Sequence[Tensor], params: Sequence[Tensor], vectors: Sequence[Tensor]
) -> Sequence[Tensor]:
    """``H v`` by differentiating ``grads . vectors``; the gradients' graph is kept.

    Zero for a parameter whose gradient does not depend on the parameters (a loss that is linear in it).
    """
    curved = [(g, v) for g, v in zip(grads, vectors, strict=True) if g.requires_grad]
    if not curved:
        return [torch.zeros_like(p) for p in params]
    return torch.autograd.grad(
        [g for g, _ in curved], params, [v for _, v in curved], retain_graph=True, materialize_grads=True
    )


ESTIMATORS: dict[str, type[Estimator]] = {"hutchinson": Hutchinson, "exact": Exact, "none": NoCurvature}


def find_estimator(estimator: str | Estimator) -> Estimator:
    """The estimator of that name, with its defaults; an ``Estimator`` is returned as it is.

    Raises:
        ValueError: no estimator has that name.
    """
    if isinstance(estimator, Estimator):
        return estimator
    if not isinstance(estimator, str):
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, or an Estimator, got {estimator!r}")
    if estimator not in ESTIMATORS:
        nearest = get_close_matches(estimator, ESTIMATORS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown estimator {estimator!r}; did you mean {nearest!r}? (available: {', '.join(ESTIMATORS)})"
        )
    return ESTIMATORS[estimator]()

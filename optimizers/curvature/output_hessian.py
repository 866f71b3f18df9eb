"""The Hessian of a loss in the network's outputs has one block per prediction, which is factored here.

Gauss-Newton estimators need no more of a loss than this. It is read off the loss by one product with that Hessian, so
that any reduction, label smoothing or class weight is in it. Two structures are known: that of a softmax
cross-entropy, w (diag(p) - p p^T) per prediction, and a diagonal (squared error, binary cross-entropy, Poisson, ...).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from optimizers.curvature.interface import Refresh
from optimizers.curvature.probes import Streams, random_signs, rows_of_members

TOLERANCE = 1e-3
"""Relative difference up to which two ways to compute one thing agree, in single or double precision."""

KEPT_ENTRIES = 2**16
"""Numbers of a shape that are kept for the next refresh; more of them, a language model's outputs, are drawn anew."""

UNKNOWN = (
    "Gauss-Newton estimators need a loss that is a sum over samples and a softmax cross-entropy (outputs of shape "
    "(samples, classes), (samples, classes, ...) or (samples, ..., classes)) or a sum over outputs, such as the "
    "squared error or the binary cross-entropy, convex if minimized; use hutchinson for any other"
)

LINEAR = (
    "the loss is linear in these outputs, so that their Gauss-Newton matrix is zero: return the logits, from before "
    "log_softmax, or use hutchinson"
)


class OutputHessian:
    """Block-diagonal factors S of the loss's Hessian with respect to the outputs, S S^T = H.

    Args:
        refresh: whose loss and outputs.

    Raises:
        ValueError: there are no outputs, or the loss is of neither structure.
    """

    def __init__(self, refresh: Refresh) -> None:
        outputs = refresh.outputs
        if not isinstance(outputs, Tensor) or not outputs.requires_grad or outputs.ndim == 0:
            raise ValueError(
                "Gauss-Newton estimators need the network's outputs: the closure must return (loss, outputs), "
                "outputs one tensor with its graph and the samples as its first dimension"
            )
        self.outputs = outputs
        self.dtype = torch.promote_types(outputs.dtype, torch.float32)
        self.loss = refresh.loss
        kind = f"loss {outputs.ndim} {_way(refresh.loss, outputs)}"
        if kind not in refresh.memory:
            self._differentiate()
            structure = self._recognise()
            if structure is not None:
                refresh.memory[kind] = structure
        if kind in refresh.memory:
            self._read(**refresh.memory[kind])

    @property
    def factors(self) -> int:
        """Columns that a sample's factor has."""
        return self.outputs[0].numel()

    def signs(self, generator: torch.Generator | Streams) -> Tensor:
        """A random vector with mean zero and covariance H, of the outputs' shape: S times random signs."""

        def draw(shape: Sequence[int], own: torch.Generator) -> Tensor:
            return random_signs([self.root.new_empty(()).expand(shape)], own)[0]

        signs = rows_of_members(draw, self.outputs.shape, generator)
        if self.classes is None:
            return (self.root * signs).to(self.outputs.dtype)
        columns = self.probabilities.sqrt() * signs
        drawn = columns - self.probabilities * columns.sum(self.classes, keepdim=True)
        return (self.root * drawn).to(self.outputs.dtype)

    def labels(self, generator: torch.Generator | Streams) -> Tensor:
        """The same from labels drawn from the predictions: the loss's slope at them (up to the root of its weight).

        Where there are no labels to draw, the structure being a diagonal, it is ``signs``.
        """
        if self.classes is None:
            return self.signs(generator)
        cumulative = self.probabilities.movedim(self.classes, -1).cumsum(-1)

        def draw(shape: Sequence[int], own: torch.Generator) -> Tensor:
            return torch.rand(shape, dtype=self.dtype, device=cumulative.device, generator=own)

        uniform = rows_of_members(draw, (*cumulative.shape[:-1], 1), generator)
        labels = torch.searchsorted(cumulative, uniform * cumulative[..., -1:], right=True)
        labels = labels.clamp(max=cumulative.shape[-1] - 1).movedim(-1, self.classes)
        drawn = self.probabilities.scatter_add(self.classes, labels, -torch.ones_like(labels, dtype=self.dtype))
        return (self.root * drawn).to(self.outputs.dtype)

    def columns(self, start: int, stop: int) -> Tensor:
        """Columns ``start`` to ``stop`` of every sample's factor: ``(stop - start, *outputs.shape)``."""
        shape = self.outputs.shape
        units = torch.zeros(stop - start, self.factors, dtype=self.root.dtype, device=self.outputs.device)
        units.diagonal(start).fill_(1.0)
        units = units.view(-1, 1, *shape[1:])
        if self.classes is None:
            return (self.root * units).to(self.outputs.dtype)
        # sqrt(w p_c) (e_c - p), at the one prediction that the column belongs to
        chosen = (self.root * self.probabilities.sqrt() * units).sum(self.classes + 1, keepdim=True)
        own = units.amax(self.classes + 1, keepdim=True)
        return (chosen * (units - self.probabilities * own)).to(self.outputs.dtype)

    def diagonal(self) -> Tensor:
        """H's diagonal, of the outputs' shape."""
        if self.classes is None:
            return self.root.square().to(self.outputs.dtype)
        return (self.root.square() * (self.probabilities - self.probabilities.square())).to(self.outputs.dtype)

    def _differentiate(self) -> None:
        """Take the loss's slope in the outputs, with a graph to take products with H from."""
        (slope,) = torch.autograd.grad(self.loss, self.outputs, create_graph=True, allow_unused=True)
        if slope is None:
            raise ValueError("Gauss-Newton estimators need the outputs that the loss was computed from, not others")
        self.slope = slope

    def _recognise(self) -> dict[str, Any] | None:
        """Find what ``_read`` needs to know, by a product with H. Waits for the device.

        ``None`` where the product is zero or not finite, which says nothing: a loss weighted with zero, say.
        """
        noise = _noise(tuple(self.outputs.shape), self.outputs.dtype, self.outputs.device)
        for classes in (None, *{1: (), 2: (1,)}.get(self.outputs.ndim, (1, self.outputs.ndim - 1))):
            self._read(classes)
            vector = self._centred(noise)
            product = self._product(vector)
            size = float(product.norm())
            if size == 0 and "LogSoftmax" not in _way(self.loss, self.outputs) and self.slope.any():
                raise ValueError(LINEAR)
            if not 0 < size < math.inf:
                return None
            if float((product - self._predicted(vector)).norm()) <= tolerance(self.outputs) * size:
                one_label = classes is not None and _way(self.loss, self.outputs).count("Nll") == 1
                return {"classes": classes, "hard": one_label and self._hard()}
        raise ValueError(UNKNOWN)

    def _hard(self) -> bool:
        """Whether the targets are labels, the slope being w (p - e_y)."""
        weight = self.root.square()
        return float((self._weight_of_hard() - weight).norm()) <= tolerance(self.outputs) * float(weight.norm())

    def _read(self, classes: int | None, hard: bool = False) -> None:
        """Take the root of the diagonal; or p, and the root of each prediction's weight w."""
        self.classes = classes
        if hard:
            (self.slope,) = torch.autograd.grad(self.loss, self.outputs, retain_graph=True)
        elif not hasattr(self, "slope"):
            self._differentiate()
        if classes is None:
            self.root = self._product(torch.ones_like(self.outputs)).clamp(min=0.0).sqrt()
            return
        self.probabilities = self.outputs.detach().to(self.dtype).softmax(classes)
        weight = self._weight_of_hard() if hard else self._weight()
        self.root = weight.nan_to_num(0.0, 0.0, 0.0).clamp(min=0.0).sqrt()  # 0 / 0 where a prediction is certain

    def _weight_of_hard(self) -> Tensor:
        """w from the slope w (p - e_y), at its largest entry, which is not the label's."""
        largest, place = self.slope.detach().to(self.dtype).max(self.classes, keepdim=True)
        return largest / self.probabilities.gather(self.classes, place)

    def _weight(self) -> Tensor:
        """w from a product with H."""
        shape = [size if dim == self.classes else 1 for dim, size in enumerate(self.outputs.shape)]
        noise = _noise(tuple(shape), self.outputs.dtype, self.outputs.device)
        vector = self._centred(noise.expand_as(self.outputs))
        curved = (self._product(vector) * vector).sum(self.classes, keepdim=True)
        return curved / (self._softmax_product(vector) * vector).sum(self.classes, keepdim=True)

    def _centred(self, vector: Tensor) -> Tensor:
        """The vector less its entry at each prediction's likeliest class, which changes no product with H.

        Where a prediction is nearly certain, what matters would otherwise be lost to cancellation.
        """
        if self.classes is None:
            return vector
        return vector - vector.gather(self.classes, self.outputs.argmax(self.classes, keepdim=True))

    def _softmax_product(self, vector: Tensor) -> Tensor:
        p = self.probabilities
        return p * (vector - (p * vector).sum(self.classes, keepdim=True))

    def _predicted(self, vector: Tensor) -> Tensor:
        return self.root.square() * (vector if self.classes is None else self._softmax_product(vector))

    def _product(self, vector: Tensor) -> Tensor:
        if not self.slope.requires_grad:  # the loss is linear in the outputs
            return torch.zeros_like(vector, dtype=self.dtype)
        (product,) = torch.autograd.grad(
            self.slope, self.outputs, vector.to(self.slope.dtype), retain_graph=True, materialize_grads=True
        )
        return product.to(self.dtype)


def tolerance(tensor: Tensor) -> float:
    """Relative difference up to which two ways to compute such a tensor agree."""
    return max(TOLERANCE, 16 * torch.finfo(tensor.dtype).eps)


def _noise(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same normal numbers every time: recognising a loss leaves every random stream as it was."""
    return (_kept_noise if math.prod(shape) <= KEPT_ENTRIES else _new_noise)(shape, dtype, device)


def _new_noise(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)


_kept_noise = lru_cache(maxsize=16)(_new_noise)


def _way(loss: Tensor, outputs: Tensor) -> str:
    """The operations from the loss back to the outputs, the first few: another loss has another way."""
    names: list[str] = []
    nodes, seen = [loss.grad_fn], {outputs.grad_fn}
    while nodes and len(names) < 32:
        node = nodes.pop(0)
        if node is not None and node not in seen:
            seen.add(node)
            names.append(node.name().removesuffix("Backward0"))
            nodes += [following for following, _ in node.next_functions]
    return " ".join(names)

"""The Hessian of a loss with respect to the network's outputs, one block per prediction, and factors of it.

Gauss-Newton estimators need no more of a loss than this. It is read off the loss by one product with that Hessian, so
that any reduction, label smoothing or class weight is in it. Two structures are known: that of a softmax
cross-entropy, w (diag(p) - p p^T) per prediction, and a diagonal (squared error, binary cross-entropy, Poisson, ...).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optimizers.estimator import Refresh, randint_signs

TOLERANCE = 1e-3
"""Relative difference up to which a product with the Hessian counts as that of a known structure."""

UNKNOWN = (
    "Gauss-Newton estimators need a loss that is a sum over samples and a softmax cross-entropy (outputs of shape "
    "(samples, classes), (samples, classes, ...) or (samples, ..., classes)) or a sum over outputs, such as the "
    "squared error or the binary cross-entropy; use hutchinson for any other"
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
        self.memory = refresh.memory
        (self.slope,) = torch.autograd.grad(
            refresh.loss, outputs, create_graph=True, retain_graph=True, materialize_grads=True
        )
        kind = ("classes", refresh.loss.grad_fn.name(), outputs.ndim)
        if kind in refresh.memory:
            self._read(refresh.memory[kind])
        else:
            refresh.memory[kind] = self._recognise()

    @property
    def factors(self) -> int:
        """Columns that a sample's factor has."""
        return self.outputs[0].numel()

    def signs(self, generator: torch.Generator) -> Tensor:
        """A random vector with mean zero and covariance H, of the outputs' shape: S times random signs."""
        signs = randint_signs(self.outputs, generator)
        if self.classes is None:
            return self.root * signs
        columns = self.probabilities.sqrt() * signs
        return self.root * (columns - self.probabilities * columns.sum(self.classes, keepdim=True))

    def labels(self, generator: torch.Generator) -> Tensor:
        """The same from labels drawn from the predictions: the loss's slope at them (up to the root of its weight).

        Where there are no labels to draw, the structure being a diagonal, it is ``signs``.
        """
        if self.classes is None:
            return self.signs(generator)
        uniform = torch.empty_like(self.probabilities).exponential_(generator=generator)
        # The first of independent exponential clocks with rates p rings at y with probability p_y.
        labels = (self.probabilities / uniform).argmax(self.classes, keepdim=True)
        drawn = torch.zeros_like(self.probabilities).scatter_(self.classes, labels, 1.0)
        return self.root * (self.probabilities - drawn)

    def columns(self, start: int, stop: int) -> Tensor:
        """Columns ``start`` to ``stop`` of every sample's factor: ``(stop - start, *outputs.shape)``."""
        shape = self.outputs.shape
        units = torch.zeros(stop - start, self.factors, dtype=self.root.dtype, device=self.outputs.device)
        units.diagonal(start).fill_(1.0)
        units = units.view(-1, 1, *shape[1:])
        if self.classes is None:
            return self.root * units
        # sqrt(w p_c) (e_c - p), at the one prediction that the column belongs to
        chosen = (self.root * self.probabilities.sqrt() * units).sum(self.classes + 1, keepdim=True)
        own = units.amax(self.classes + 1, keepdim=True)
        return chosen * (units - self.probabilities * own)

    def _recognise(self) -> int | None:
        """The dimension of a softmax's classes, or ``None`` for a diagonal; found once, by a product with H."""
        vector = _noise(self.outputs.shape, self.outputs)
        product = self._product(vector)
        dims = (None, *{1: (), 2: (1,)}.get(self.outputs.ndim, (1, self.outputs.ndim - 1)))
        for classes in dims:
            self._read(classes)
            if _close(product, self._predicted(vector)):
                return classes
        raise ValueError(UNKNOWN)

    def _read(self, classes: int | None) -> None:
        """Take the root of the diagonal; or p, and the root of each prediction's weight w, from products with H."""
        self.classes = classes
        if classes is None:
            self.root = self._product(torch.ones_like(self.outputs)).clamp(min=0.0).sqrt()
            return
        vector = self._vector(classes).expand_as(self.outputs)
        self.probabilities = self.outputs.detach().softmax(classes)
        curved = self._softmax_product(vector)
        weight = (self._product(vector) * vector).sum(classes, keepdim=True)
        weight = weight / (curved * vector).sum(classes, keepdim=True)
        self.root = weight.nan_to_num(0.0, 0.0, 0.0).clamp(min=0.0).sqrt()  # 0 / 0 where a prediction is certain

    def _vector(self, classes: int) -> Tensor:
        """The same normal numbers, one per class, for every prediction; drawn once."""
        shape = [1] * self.outputs.ndim
        shape[classes] = self.outputs.shape[classes]
        key = ("vector", tuple(shape), self.outputs.dtype, self.outputs.device)
        if key not in self.memory:
            self.memory[key] = _noise(shape, self.outputs)
        return self.memory[key]

    def _softmax_product(self, vector: Tensor) -> Tensor:
        p = self.probabilities
        return p * (vector - (p * vector).sum(self.classes, keepdim=True))

    def _predicted(self, vector: Tensor) -> Tensor:
        return self.root.square() * (vector if self.classes is None else self._softmax_product(vector))

    def _product(self, vector: Tensor) -> Tensor:
        if not self.slope.requires_grad:  # the loss is linear in the outputs
            return torch.zeros_like(vector)
        (product,) = torch.autograd.grad(self.slope, self.outputs, vector, retain_graph=True, materialize_grads=True)
        return product


def _noise(shape: Sequence[int], like: Tensor) -> Tensor:
    """The same normal numbers every time: recognising a loss leaves every random stream as it was."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like)


def _close(product: Tensor, predicted: Tensor) -> bool:
    """Waits for the device. A product that is not finite says nothing: it passes, and what follows is not finite."""
    return not bool((product - predicted).norm() > TOLERANCE * product.norm())

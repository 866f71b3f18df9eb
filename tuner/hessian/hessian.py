"""The Hessian of a network's mean loss over some rows is a matrix to multiply with; the network is left as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

from optimizers.curvature.interface import twice_differentiable
from optimizers.curvature.products import hessian_vector_product
from tasks.base import Batch, Task
from tuner.training.float32 import float32_products
from tuner.training.stacked_model import Bound

MOST_ROWS, LEAST_ROWS, MOST_WORK = 4096, 256, 2**24
"""The more parameters, the fewer rows: rows times parameters are at most the last, unless rows are the least."""
ROWS_SEED = 0
COLUMNS_AT_ONCE = 32


def fixed_batches(task: Task, parameters: int) -> list[Batch]:
    """The training rows as an evaluation sees them; of many, some that are always the same, drawn once."""
    inputs, targets = task.splits["train"]
    count = min(len(inputs), MOST_ROWS, max(LEAST_ROWS, MOST_WORK // max(1, parameters)))
    if count < len(inputs):
        drawn = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(ROWS_SEED))[:count]
        rows = drawn.sort().values.to(inputs.device)
        inputs, targets = inputs[rows], targets[rows]
    pieces = zip(inputs.split(task.evaluation_rows), targets.split(task.evaluation_rows), strict=True)
    return [(task.prepare(some), of_these) for some, of_these in pieces]


class Hessian:
    """The Hessian of the mean loss over batches, as what can be multiplied with vectors and matrices from the left.

    Reverse over reverse: PyTorch's forward derivative of the gradient of LayerNorm's weight is wrong (2.14).

    Attributes:
        shape, dtype, device: as of a matrix.
        params: copies of the model's, in which it is.
    """

    def __init__(
        self, task: Task, model: nn.Module, names: Sequence[str], batches: Sequence[Batch], dtype: torch.dtype | None
    ) -> None:
        """
        Args:
            names: of the parameters in which it is.
            dtype: ``None`` for that of the parameters.
        """
        tensors = [*model.named_parameters(), *model.named_buffers()]
        state = {name: _cast(tensor.detach(), dtype).clone() for name, tensor in tensors}
        self.params = [state[name].requires_grad_() for name in names]
        if not self.params:
            raise ValueError("no parameter requires a gradient")
        self.task = task
        self.model: Any = Bound(model, state)
        self.batches = [(_cast(inputs, dtype), _cast(targets, dtype)) for inputs, targets in batches]
        self.rows = sum(len(targets) for _, targets in batches)
        self.sizes = [param.numel() for param in self.params]
        self.shape = (sum(self.sizes), sum(self.sizes))
        self.dtype, self.device = self.params[0].dtype, self.params[0].device

    def __matmul__(self, other: Tensor) -> Tensor:
        """The product with a vector (parameters,), or a matrix (parameters, columns)."""
        if other.ndim == 2:
            return torch.stack([self @ column for column in other.unbind(1)], dim=1)
        vectors = [v.view_as(p) for v, p in zip(other.split(self.sizes), self.params, strict=True)]
        total = torch.zeros_like(other)
        for grads, share in self._gradients():
            products = hessian_vector_product(grads, self.params, vectors)
            total += share * torch.cat([product.detach().flatten() for product in products])
        return total

    def to_scipy(self) -> LinearOperator:
        """The same for SciPy, in float64."""

        def times(vector: np.ndarray) -> np.ndarray:
            product = self @ torch.as_tensor(vector.ravel(), dtype=self.dtype, device=self.device)
            return product.double().cpu().numpy()

        return LinearOperator(self.shape, matvec=times, dtype=np.float64)

    def matrix(self) -> Tensor:
        """All of it, (parameters, parameters)."""
        matrix = None
        with suppress(Exception):  # not every operation can be batched
            matrix = self._rows_together()
        if matrix is None:  # after the block, when no traceback holds what there was of it
            matrix = self @ torch.eye(self.shape[0], dtype=self.dtype, device=self.device)
        return (matrix + matrix.T) / 2

    def _rows_together(self) -> Tensor:
        """A few rows at a time, which saves the overhead of small operations."""
        total = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        units = torch.eye(self.shape[0], dtype=self.dtype, device=self.device)
        for grads, share in self._gradients():
            gradient = torch.cat([grad.flatten() for grad in grads])
            if not gradient.requires_grad:
                continue
            for start in range(0, len(units), COLUMNS_AT_ONCE):
                some = units[start : start + COLUMNS_AT_ONCE]
                rows = torch.autograd.grad(
                    gradient, self.params, some, retain_graph=True, materialize_grads=True, is_grads_batched=True
                )
                total[start : start + len(some)] += share * torch.cat([row.flatten(1) for row in rows], dim=1)
        return total

    def _gradients(self) -> Iterator[tuple[Sequence[Tensor], float]]:
        """Of each batch, with their graph; and the batch's share of the rows."""
        if len(self.batches) == 1:
            yield self._only_gradient, 1.0
            return
        for batch in self.batches:
            yield self._gradient(batch), len(batch[1]) / self.rows

    @cached_property
    def _only_gradient(self) -> Sequence[Tensor]:
        return self._gradient(self.batches[0])

    def _gradient(self, batch: Batch) -> Sequence[Tensor]:
        with torch.enable_grad():
            loss, _ = self.task.loss(self.model, batch)
            return torch.autograd.grad(loss, self.params, create_graph=True, materialize_grads=True)


def in_double(task: Task, model: nn.Module, names: Sequence[str], batches: Sequence[Batch]) -> Hessian:
    """The Hessian in float64, or as the parameters are where the task's loss has tensors of its own in float32."""
    double = Hessian(task, model, names, batches, torch.float64)
    try:
        with torch.no_grad():
            task.loss(double.model, double.batches[0])
    except RuntimeError:
        return Hessian(task, model, names, batches, None)
    return double


@contextmanager
def undisturbed(model: nn.Module, device: torch.device, seed: int) -> Iterator[None]:
    """Evaluation mode, full precision, kernels that can be differentiated twice, and random streams of its own."""
    modes = [(module, module.training) for module in model.modules()]
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), twice_differentiable(), float32_products(tf32=False):
        torch.manual_seed(seed)
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)

"""Products with the Hessian, and rows of it, come of differentiating a gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optimizers.tensor_list import TensorList


def hessian_vector_product(
    grads: Sequence[Tensor], params: Sequence[Tensor], vectors: Sequence[Tensor], *, retain_graph: bool = True
) -> Sequence[Tensor]:
    """``H v`` by differentiating ``grads . vectors``.

    Zero for a parameter whose gradient does not depend on the parameters (a loss that is linear in it).
    """
    curved = [(g, v) for g, v in zip(grads, vectors, strict=True) if g.requires_grad]
    if not curved:
        return [torch.zeros_like(p) for p in params]
    return torch.autograd.grad(
        [g for g, _ in curved], params, [v for _, v in curved], retain_graph=retain_graph, materialize_grads=True
    )


def entry_products(first: Sequence[Tensor], second: Sequence[Tensor], *, recorded: bool) -> list[Tensor]:
    """Tensor times tensor, entry by entry.

    Args:
        recorded: whether the operations may be recorded, to be replayed on tensors that lie elsewhere.
    """
    if recorded or not first[0].is_cuda or len({tensor.dtype for tensor in first}) > 1:
        return [a * b for a, b in zip(first, second, strict=True)]
    return (TensorList(first) * TensorList(second)).tensors


def hessian_rows(param: Tensor, grad: Tensor, start: int, stop: int) -> Tensor:
    """Rows ``start`` to ``stop`` of the parameter's own Hessian block, ``(stop - start, numel)``; the graph is kept."""
    if not grad.requires_grad:
        return param.new_zeros(stop - start, param.numel())
    units = torch.zeros(stop - start, param.numel(), dtype=grad.dtype, device=grad.device)
    units.diagonal(start).fill_(1.0)
    (rows,) = torch.autograd.grad(
        grad, param, units.view(-1, *grad.shape), retain_graph=True, materialize_grads=True, is_grads_batched=True
    )
    return rows.reshape(stop - start, -1)

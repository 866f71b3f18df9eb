"""The diagonals that estimators aim at, by brute force in float64."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.networks import Problem

HESSIAN, GGN = "Hessian", "GGN"
ROWS_AT_ONCE = 256


def targets(problem: Problem, network: nn.Module) -> dict[str, Tensor]:
    """Diagonals of the Hessian and of the generalised Gauss-Newton matrix of the batch's loss, in float64."""
    network = copy.deepcopy(network).double()
    if problem.inputs.is_floating_point():
        problem = replace(problem, inputs=problem.inputs.double())
    params = list(network.parameters())
    with sdpa_kernel(SDPBackend.MATH):
        loss, outputs = problem.loss(network)
    grads = torch.autograd.grad(loss, params, create_graph=True)
    gradient = torch.cat([g.flatten() for g in grads])
    hessian = torch.cat([rows.diagonal(start) for start, rows in jacobian(gradient, params)])

    # Of a mean over B predictions: diag(p) - p p^T, over B.
    logits = outputs.flatten(0, -2)
    p = logits.detach().softmax(-1)
    blocks = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) / len(p)
    j = torch.cat([rows for _, rows in jacobian(logits.flatten(), params)]).view(*logits.shape, -1)
    ggn = torch.einsum("bik,bij,bjk->k", j, blocks, j)
    return {HESSIAN: hessian, GGN: ggn}


def jacobian(vector: Tensor, params: list[Tensor]) -> list[tuple[int, Tensor]]:
    """Of a vector, with respect to all parameters: chunks of rows, each with the number of its first."""
    chunks = []
    for start in range(0, len(vector), ROWS_AT_ONCE):
        units = torch.eye(len(vector), dtype=vector.dtype)[start : start + ROWS_AT_ONCE]
        rows = torch.autograd.grad(
            vector, params, units, retain_graph=True, is_grads_batched=True, materialize_grads=True
        )
        chunks.append((start, torch.cat([r.flatten(1) for r in rows], dim=1)))
    return chunks

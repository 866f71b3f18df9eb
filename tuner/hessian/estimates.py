"""Estimates of an optimizer are compared with the exact diagonal of the Hessian."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimizers import CurvatureOptimizer
from optimizers.base import CURVATURE_KEY
from optimizers.curvature.estimators import HessianBlocks, HessianVector, NoCurvature, Secant
from tasks.base import Batch, Task
from tuner.hessian.hessian import ROWS_SEED, in_double, undisturbed
from tuner.training.records import Finding
from tuner.training.stacked_model import Bound

NOT_A_DIAGONAL = (HessianBlocks, HessianVector, NoCurvature, Secant)


@dataclass(frozen=True)
class Agreement:
    """An estimate of a Hessian's diagonal beside the exact one.

    Attributes:
        relative_error: the norm of the difference, relative to that of the exact diagonal.
        cosine: of the angle between them.
    """

    relative_error: float
    cosine: float

    def findings(self) -> list[Finding]:
        values = {"estimate_relative_error": self.relative_error, "estimate_cosine": self.cosine}
        return [(name, 0, value, None) for name, value in values.items() if math.isfinite(value)]


def compare_estimate(
    task: Task, model: nn.Module, optimizer: object, batch: Batch | None = None, *, seed: int = 0
) -> Agreement | None:
    """How near the optimizer's estimate of the Hessian's diagonal comes to the exact one, both of the same batch.

    The estimator begins anew, with probes from the seed, on a copy of the optimizer, in evaluation mode.

    Args:
        batch: ``None``: the first training batch of a fixed seed.

    Returns:
        ``None`` for an optimizer that estimates no diagonal.
    """
    if not isinstance(optimizer, CurvatureOptimizer) or isinstance(optimizer.estimator, NOT_A_DIAGONAL):
        return None
    with undisturbed(model, task.device, seed):
        batch = next(iter(task.batches(ROWS_SEED, 0))) if batch is None else batch
        twin = _begun_anew(optimizer, seed)
        copies = dict(zip(map(id, _params(optimizer)), _params(twin), strict=True))
        state = {name: tensor.detach().clone() for name, tensor in model.named_buffers()}
        state |= {name: copies.get(id(param), param.detach()) for name, param in model.named_parameters()}
        network: Any = Bound(model, state)
        names = [name for name, param in model.named_parameters() if id(param) in copies and param.requires_grad]
        order = {id(param): index for index, param in enumerate(_params(twin))}
        _, _, estimates = twin.differentiate(lambda: task.loss(network, batch))
        by_name = {name: estimates[order[id(state[name])]] for name in names}
        flat = [(torch.zeros_like(state[n]) if e is None else e).flatten() for n, e in by_name.items()]
        estimate = (-1.0 if optimizer.param_groups[0]["maximize"] else 1.0) * torch.cat(flat).double()
        exact = in_double(task, model, names, [batch]).matrix().diagonal().double()
    size, norm = float(exact.norm()), float(estimate.norm())
    return Agreement(
        float((estimate - exact).norm()) / size if size else float("nan"),
        float(estimate @ exact) / (size * norm) if size * norm else float("nan"),
    )


def _params(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def _begun_anew(optimizer: CurvatureOptimizer, seed: int) -> CurvatureOptimizer:
    """A copy at its first step, so that the next one estimates curvature."""
    twin = copy.deepcopy(optimizer)
    first: dict[str, Any] = {
        "steps": 0, "grad_equivalents": 0.0, "seed": seed, "generator": None, "previous": {}, "memory": {},
    }  # fmt: skip
    twin.load_state_dict(twin.state_dict() | {CURVATURE_KEY: first})
    return twin

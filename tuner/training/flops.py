"""FLOPs are counted of what estimating curvature costs on a task: once for each optimizer, on a network of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from optimizers import CurvatureOptimizer
from optimizers.curvature.interface import twice_differentiable
from tasks.base import Task
from tuner.text import fault
from tuner.training.isolation import restored
from tuner.training.single import Hyperparameters, MakeOptimizer

STEPS = 20
"""In which a rule that draws when to look at the curvature should have come to it."""


def curvature_scale(task: Task, make: MakeOptimizer, hp: Hyperparameters) -> tuple[float, str]:
    """Of the task's first batch: FLOPs of a curvature estimate, in those of a gradient, over its nominal cost.

    Only matrix products, convolutions and attention are counted, by ``torch.utils.flop_counter``. The estimate is that
    of the second refresh, since some estimators look the network over at the first.

    Returns:
        What nominal costs are to be multiplied with; and why that is 1 for want of a count, empty where there is one,
        or no curvature that costs anything.
    """
    try:
        with restored([]):
            return _counted(task, make, hp)
    except Exception as error:
        return 1.0, fault(error)


def _counted(task: Task, make: MakeOptimizer, hp: Hyperparameters) -> tuple[float, str]:
    task = copy.copy(task)  # which may count its calls
    torch.manual_seed(0)
    network = task.build(0).train()
    optimizer = make(list(network.parameters()), hp)
    if not isinstance(optimizer, CurvatureOptimizer):
        return 1.0, ""
    batch = next(iter(task.batches(0, 0)))
    gradient = _flops(lambda: task.loss(network, batch)[0].backward())
    if not gradient:
        return 1.0, "PyTorch counts no FLOPs of its network's operations"
    optimizer.refresh_always()
    scales = []
    for _ in range(STEPS):
        before = optimizer.grad_equivalents
        flops = _flops(lambda: optimizer.step(lambda: task.loss(network, batch)))
        nominal = optimizer.grad_equivalents - before - 1
        scales += [(flops / gradient - 1) / nominal] if nominal > 0 else []
        if len(scales) == 2:
            break
    return (scales[-1] if scales else 1.0), ""


def _flops(work: Callable[[], object]) -> int:
    """With attention as matrix products, since not all of its kernels are counted."""
    with FlopCounterMode(display=False) as counter, twice_differentiable():
        work()
    return counter.get_total_flops()

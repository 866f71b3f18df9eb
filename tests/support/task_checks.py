"""What holds of every task: a stack of it trains as its members do alone, and curvature can be estimated."""

import copy

import torch

from optimizers import SSDH, AdaHessian, DiagHessian, Sophia
from tests.support.members import Member, alone, assert_as_alone, of
from tuner.training.records import Budget

FEW_STEPS = Budget(epochs=2, evaluations=1, test=True)
CURVATURE = {
    "diag_hessian": (of(DiagHessian), {"lr": 1e-3, "diff": 0.3, "square": 5.0, "damping": 1e-3}),
    "sophia": (of(Sophia, update_period=1), {"lr": 1e-2, "rho": 0.1}),
    "adahessian": (of(AdaHessian), {"lr": 1e-2}),
    "ssdh": (of(SSDH, update_period=1), {"lr": 1e-2, "rho": 0.1}),
    "gnb": (of(DiagHessian, estimator="gnb"), {"lr": 1e-6, "diff": 0.3, "square": 5.0, "damping": 1e-3}),
}


def few_rows_in_double(task, rows):
    """The task with the first rows of each split, in double precision."""
    twin = task.shortened(rows)
    twin.splits = {split: tuple(map(doubled, batch)) for split, batch in twin.splits.items()}
    network = copy.copy(twin).network
    twin.network = lambda: network().double()
    return twin


def doubled(tensor):
    return tensor.double() if tensor.is_floating_point() else tensor


def assert_stacks(task, rows):
    """With rounding errors of float64 alone: those of float32 grow as the runs go on."""
    twin = few_rows_in_double(task, rows)
    for rule in (torch.optim.Adam, AdaHessian):
        assert_as_alone(twin, of(rule, eps=1e-3), [Member({"lr": 10**-power}, power) for power in (2, 3)], FEW_STEPS)


def assert_curvature(task, rows):
    """Two epochs of each rule with its own estimator, and of a Gauss-Newton estimator, are complete."""
    twin = task.shortened(rows)
    for name, (make, hp) in CURVATURE.items():
        result, _ = alone(twin, make, Member(hp, 0), FEW_STEPS)
        assert result.status == "complete", name

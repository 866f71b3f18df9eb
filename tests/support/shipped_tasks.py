"""Shipped tasks as their configuration makes them, trained with Adam, and as stacks beside runs alone."""

from __future__ import annotations

from functools import partial

import torch

from optimizers import DiagHessian
from tasks.base import Task
from tests.support.members import assert_as_alone
from tuner.config.layers import resolve
from tuner.training.build import make_engine, make_task
from tuner.training.records import Budget, Result
from tuner.training.single import train
from tuner.training.stack import Member


def shipped(name: str) -> Task:
    """The task with its data, on the CPU."""
    task = make_task(resolve({"task.name": name}))
    task.setup(None, torch.device("cpu"))
    return task


def trained_with_adam(name: str, lr: float, task: Task | None = None, epochs: int | None = None) -> Result:
    """A run of seed 0 as the preset smoke makes it, tested at its end."""
    config = resolve({"task.name": name, "preset": "smoke"})
    budget = Budget(epochs or config.train.epochs, 1, test=True)
    return train(
        task or shipped(name), partial(lambda params, hp: torch.optim.Adam(params, **hp)), {"lr": lr}, 0, budget,
        engine=make_engine(config),
    )  # fmt: skip


def assert_stacks_as_alone(task: Task, rows: int = 48, batch_size: int = 16) -> None:
    """Some rows in double precision, with Adam and with diag_hessian's Hutchinson and Gauss-Newton estimates."""
    some = task.shortened(rows)
    some.batch_size = batch_size
    some.splits = {split: tuple(map(doubled, parts)) for split, parts in some.splits.items()}
    build = some.build
    some.build = lambda seed: build(seed).double()
    makes = [lambda params, hp: torch.optim.Adam(params, **hp)]
    makes += [partial(diag, estimator) for estimator in ("hutchinson", "ggn_mc")]
    for make in makes:
        members = [Member({"lr": lr}, seed) for lr, seed in ((1e-3, 0), (2e-3, 1), (4e-3, 0))]
        assert_as_alone(some, make, members, Budget(epochs=3, evaluations=3, test=True))


def diag(estimator: str, params: list[torch.nn.Parameter], hp: dict[str, float]) -> torch.optim.Optimizer:
    return DiagHessian(params, diff=0.5, square=2.0, damping=0.1, eps=0.1, estimator=estimator, update_period=2, **hp)


def doubled(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor

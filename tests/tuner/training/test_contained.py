"""What shipped optimizers are said to contain they come to, by training both; and what they do not is not said."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from tests.support.members import Small
from tuner.config.layers import resolve
from tuner.config.registry import available
from tuner.config.schema import Config
from tuner.config.space import OptimizerConfig
from tuner.training.build import optimizer_maker
from tuner.training.engine import Engine
from tuner.training.single import Trainer

EPOCHS = 25
WHERE: dict[tuple[str, str], tuple[dict[str, float], float]] = {
    ("adam_full", "adam"): ({"one_minus_beta1": 0.1, "one_minus_beta2": 1e-3, "eps": 1e-8}, 0.0),
    ("adamw", "adam"): ({"weight_decay": 1e-5}, 1e-4),
}
"""Where in its space the one comes to the other, and how near, relative to how far the weights went."""


@cache
def shipped() -> Config:
    return resolve({"task.name": "mnist1d", "search.optimizers": available("optimizers")})


def test_all_that_is_said_is_tried_below() -> None:
    said = {(name, inner) for name, spec in shipped().optimizers.items() for inner in spec.contains}
    assert said == WHERE.keys()


def trained(name: str, spec: OptimizerConfig, hp: dict[str, Any]) -> torch.Tensor:
    task = Small()
    run = Trainer(task, optimizer_maker(name, spec), hp, 0, Engine(), EPOCHS)
    run.take_steps(run.batches(EPOCHS), EPOCHS * task.steps_per_epoch)
    return torch.cat([param.detach().flatten() for param in run.runner.exact.parameters()])


@pytest.mark.parametrize(("name", "inner"), WHERE)
@pytest.mark.parametrize("lr", [1e-3, 3e-2])
def test_at_a_point_of_its_space_it_trains_as_what_it_contains(name: str, inner: str, lr: float) -> None:
    point, near = WHERE[name, inner]
    spec, other = shipped().optimizers[name], shipped().optimizers[inner]
    assert spec.of_training == other.of_training == {}
    assert all(spec.space[key].contains(value) for key, value in point.items())
    for key, dim in other.space.items():  # all of it, not some
        assert spec.space[key].contains(dim.low) and spec.space[key].contains(dim.high)
    start = trained(inner, other, {"lr": 0.0})
    found, expected = trained(name, spec, {"lr": lr, **point}), trained(inner, other, {"lr": lr})
    assert (found - expected).norm() <= near * (expected - start).norm()


def test_the_same_momentum_is_not_contained_in_none() -> None:
    """SGD is no point of sgdm's space, whose momentum is fixed."""
    sgd, sgdm = (shipped().optimizers[name] for name in ("sgd", "sgdm"))
    found, expected = trained("sgdm", sgdm, {"lr": 3e-3}), trained("sgd", sgd, {"lr": 3e-2})
    assert (found - expected).norm() > 1e-2 * (expected - trained("sgd", sgd, {"lr": 0.0})).norm()

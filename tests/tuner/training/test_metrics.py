"""A task's metrics: as numbers, those of a diverged run, and what divergence is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.regression import Noting
from tuner.config.layers import resolve
from tuner.errors import UserError
from tuner.training import build
from tuner.training.metrics import divergence, evaluate, number, worst
from tuner.training.records import Budget
from tuner.training.single import train


@pytest.mark.parametrize(
    "value",
    [0.25, torch.tensor(0.25), torch.tensor([[0.25]]), np.float32(0.25), np.array([0.25]), torch.tensor(0.25).half()],
)
def test_a_number_of_any_kind_is_a_float(value: Any) -> None:
    found = number("acc", value)
    assert type(found) is float and found == 0.25


@pytest.mark.parametrize("value", [3, True, np.int64(3), torch.tensor(3)])
def test_whole_numbers_too(value: Any) -> None:
    assert type(number("hits", value)) is float


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("acc", "0.9", "metric 'acc': must be a number, got a str"),
        ("acc", None, "metric 'acc': must be a number, got a NoneType"),
        ("acc", torch.zeros(3), r"metric 'acc': must be a number, got \(3,\) of them"),
        ("acc", np.zeros((2, 2)), r"metric 'acc': must be a number, got \(2, 2\) of them"),
        ("acc", 1j, "metric 'acc': must be a number, got a complex"),
        ("top 5", 0.5, "metric 'top 5': a name must be of letters, digits and '_'"),
        (5, 0.5, "metric 5: a name must be of letters, digits and '_'"),
    ],
)
def test_what_is_no_number_is_refused_by_its_name(name: Any, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        number(name, value)


class Tensors(Noting):
    def metrics(self, outputs: torch.Tensor, targets: torch.Tensor) -> Any:
        return {"loss": self.criterion(outputs, targets), "error": np.float32(0.5)}


def test_metrics_returned_as_tensors_reach_the_curve_as_floats() -> None:
    task = Tensors()
    task.worst = {"loss": 1e4, "error": 1.0}
    result = train(task, lambda params, hp: torch.optim.SGD(params, **hp), {"lr": 0.1}, 0, Budget(1, evaluations=1))
    assert {type(value) for value in result.metrics.values()} == {float}
    assert result.metrics["train_error"] == 0.5


def test_metrics_that_are_no_mapping_are_refused() -> None:
    task: Any = Noting()
    task.evaluate = lambda model, split: [0.5]
    with pytest.raises(UserError, match="metrics must be a mapping of names to numbers, got a list"):
        evaluate(task, task.build(0), ("train",))


# What a diverged run gets.


def test_worst_must_name_each_metric_and_the_loss() -> None:
    task = Noting()
    task.worst = {"loss": 9.0, "f1": 0.0}
    assert worst(task, ["loss", "f1"]) == {"loss": 9.0, "f1": 0.0}
    with pytest.raises(UserError, match=r"`worst` says nothing of metric 'acc'.*: a diverged run gets it"):
        worst(task, ["loss", "acc"])
    task.worst = {"f1": 0.0}
    with pytest.raises(UserError, match="`worst` says nothing of metric 'loss'"):
        worst(task, ["f1"])


def test_a_task_without_worst_is_told_what_it_is() -> None:
    task = Noting()
    del task.worst
    with pytest.raises(UserError, match="has no `worst`, the value per metric that a diverged run gets"):
        worst(task, ["loss"])


# Divergence.


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"train_loss": 1.0, "val_loss": 12.5, "val_acc": 0.9}, ""),
        ({"train_loss": 11.0, "val_loss": 1.0}, "train_loss is 11, beyond 10"),
        ({"train_loss": math.nan}, "train_loss is nan"),
        ({"train_loss": 0.1, "val_f1": math.nan}, "val_f1 is nan"),
        ({"train_loss": 0.1, "val_loss": math.inf}, "val_loss is inf"),
    ],
)
def test_a_training_loss_beyond_the_bound_or_a_number_that_is_not_finite(metrics: dict[str, float], said: str) -> None:
    assert divergence(metrics, 10.0) == said


def test_a_network_that_fits_its_data_has_not_diverged_however_wrong_it_is_about_others() -> None:
    """Iris, Rprop 1e-2, 100 epochs: the bound is 10 ln 3 = 10.99, the validation loss 12.5, the accuracy 0.9."""
    task = build.make_task(resolve({"task.name": "tabular_mlp"}))
    task.setup(None, torch.device("cpu"))
    make = lambda params, hp: torch.optim.Rprop(params, **hp)  # noqa: E731
    result = train(task, make, {"lr": 1e-2}, 0, Budget(100, test=True))
    assert (result.status, result.why) == ("complete", "")
    assert result.metrics["train_loss"] < 1e-6
    assert result.metrics["val_loss"] > task.worst["loss"] and result.metrics["val_acc"] >= 0.89


def test_a_diverged_run_says_what_where_and_how_much() -> None:
    make = lambda params, hp: torch.optim.SGD(params, **hp)  # noqa: E731
    result = train(Noting(), make, {"lr": 30.0}, 0, Budget(20))
    assert result.status == "diverged"
    assert result.why.startswith("the training loss is ") and ", beyond 1e+04, at step " in result.why
    step = int(result.why.rsplit(" ", 1)[1])
    assert 1 <= step < result.clocks.steps
    losses: list[float] = []
    task = Noting()
    plain = task.criterion
    task.criterion = lambda outputs, targets: losses.append(plain(outputs, targets).item()) or plain(outputs, targets)  # type: ignore[method-assign, func-returns-value]
    task.evaluate = lambda model, split: {"loss": 1.0}  # type: ignore[method-assign]
    train(task, make, {"lr": 30.0}, 0, Budget(20))
    assert [loss <= 1e4 for loss in losses].index(False) == step
    assert f"{losses[step]:.4g}" in result.why


def test_one_metric_that_is_not_a_number_beside_a_finite_loss_is_named() -> None:
    task = Noting()
    task.worst = {"loss": 1e4, "f1": 0.0}
    good = task.evaluate
    task.evaluate = lambda model, split: good(model, split) | {"f1": math.nan if split == "val" else 0.5}  # type: ignore[method-assign]
    result = train(task, lambda params, hp: torch.optim.SGD(params, **hp), {"lr": 0.01}, 0, Budget(4, evaluations=2))
    assert (result.status, result.why) == ("diverged", "val_f1 is nan, at step 10")

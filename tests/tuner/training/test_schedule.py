"""The learning rate over a run, against PyTorch's own schedules and loops by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from optimizers import HessianLRAdaptation, MuonWithAdamW
from tests.support.regression import STEPS_PER_EPOCH, Made, Noting, diag_hessian, run, sgd
from tuner.errors import UserError
from tuner.training.engine import Engine


def recording(make: Any, seen: list[list[float]]) -> Any:
    """Makes an optimizer that notes the learning rate of every group at every step."""

    def made(params: Any, hp: dict[str, Any]) -> Made:
        optimizer = make(params, hp)
        cls = type(optimizer)

        class Recording(cls):
            def step(self, *args: Any, **kwargs: Any) -> Any:
                seen.append([float(group["lr"]) for group in self.param_groups])
                return cls.step(self, *args, **kwargs)

        optimizer.__class__ = Recording
        return optimizer

    return made


def rates(engine: Engine, make: Any = sgd, epochs: int = 4, **hp: Any) -> np.ndarray:
    """(steps, groups)"""
    seen: list[list[float]] = []
    run(recording(make, seen), engine, hp=hp, epochs=epochs, evaluations=1)
    assert len(seen) == epochs * STEPS_PER_EPOCH
    return np.array(seen)


def torchs(schedule: Callable[[Made], LRScheduler], steps: int, lr: float = 0.1) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = schedule(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_a_cosine_is_that_of_pytorch(final: float) -> None:
    expected = torchs(lambda o: CosineAnnealingLR(o, 20, eta_min=final * 0.1), 20)
    np.testing.assert_allclose(rates(Engine(schedule="cosine", final_lr=final))[:, 0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_a_linear_schedule_is_that_of_pytorch(final: float) -> None:
    expected = torchs(lambda o: LinearLR(o, 1.0, final, total_iters=20), 20)
    np.testing.assert_allclose(rates(Engine(schedule="linear", final_lr=final))[:, 0], expected, rtol=1e-9, atol=1e-12)


def test_warm_up_stable_decay_is_three_lines() -> None:
    found = rates(Engine(schedule="wsd", final_lr=0.2, warmup_epochs=1))[:, 0]
    np.testing.assert_allclose(found, np.interp(range(20), [-1, 4, 16, 20], [0, 0.1, 0.1, 0.02]), rtol=1e-9)


def test_a_warm_up_beyond_where_the_decay_begins_puts_it_off() -> None:
    found = rates(Engine(schedule="wsd", final_lr=0.0, warmup_epochs=3.6))[:, 0]
    np.testing.assert_allclose(found, np.interp(range(20), [-1, 17, 18, 20], [0, 0.1, 0.1, 0.0]), rtol=1e-9)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "wsd"])
def test_a_warm_up_may_be_a_share_of_the_run(schedule: Any) -> None:
    expected = rates(Engine(schedule=schedule, warmup_epochs=1))
    np.testing.assert_allclose(rates(Engine(schedule=schedule, warmup_epochs="25%")), expected, rtol=1e-12)


def test_a_share_of_nothing_is_no_warm_up() -> None:
    assert Engine(warmup_epochs="0%") == Engine() and not Engine(warmup_epochs="0%").scheduled


def test_a_final_rate_has_no_effect_on_a_constant_one() -> None:
    assert (rates(Engine(final_lr=0.5)) == 0.1).all()


def test_hyperparameters_of_training_have_the_last_word() -> None:
    hp = {"train.schedule": "wsd", "train.final_lr": 0.2, "train.warmup_epochs": "25%", "train.clip_grad_norm": 2.0}
    engine = Engine(schedule="cosine", precision="bf16").of({"lr": 0.1, **hp})
    expected = {"schedule": "wsd", "final_lr": 0.2, "warmup_epochs": "25%", "clip_grad_norm": 2.0, "precision": "bf16"}
    assert engine == Engine(**expected)
    found = rates(Engine(), lambda params, hp: sgd(params, {"lr": hp["lr"]}), **{"lr": 0.1, **hp})
    np.testing.assert_allclose(found, rates(engine), rtol=1e-12)


def test_a_warm_up_of_whole_steps_is_that_of_pytorch() -> None:
    expected = torchs(lambda o: LinearLR(o, start_factor=1 / 10, total_iters=9), 20)
    np.testing.assert_allclose(rates(Engine(warmup_epochs=2))[:, 0], expected, rtol=1e-9)


def test_a_warm_up_and_then_a_cosine_are_those_of_pytorch() -> None:
    def both(optimizer: Made) -> LRScheduler:
        up, down = LinearLR(optimizer, 1 / 5, total_iters=4), CosineAnnealingLR(optimizer, 15, eta_min=0.02)
        return SequentialLR(optimizer, [up, down], [5])

    found = rates(Engine(schedule="cosine", final_lr=0.2, warmup_epochs=1))
    np.testing.assert_allclose(found[:, 0], torchs(both, 20), rtol=1e-9)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(0.2, [1, 1, 1]), (0.5, [0.4, 0.8, 1]), (0.1, [1, 1, 1]), (0.55, [1 / 2.75, 2 / 2.75, 1])],
)
def test_a_warm_up_may_be_a_fraction_of_an_epoch(epochs: float, expected: list[float]) -> None:
    np.testing.assert_allclose(rates(Engine(warmup_epochs=epochs))[:3, 0], np.array(expected) * 0.1, rtol=1e-9)


def test_a_warm_up_longer_than_the_run_does_not_reach_the_rate() -> None:
    found = rates(Engine(schedule="cosine", warmup_epochs=8))[:, 0]
    np.testing.assert_allclose(found, 0.1 * np.arange(1, 21) / 40, rtol=1e-9)


def test_a_constant_rate_without_warm_up_is_left_alone() -> None:
    assert (rates(Engine()) == 0.1).all()
    assert Engine().scheduler(sgd([nn.Parameter(torch.zeros(1))], {}), 10, 5) is None


def groups(params: Any, hp: dict[str, Any]) -> Made:
    first, *rest = params
    return torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": rest, "lr": 0.03}])


def adapted(params: Any, hp: dict[str, Any]) -> Made:
    return HessianLRAdaptation(torch.optim.Adam(params, lr=0.1))


def muon(params: Any, hp: dict[str, Any]) -> Made:
    return MuonWithAdamW(params, lr=0.1)


@pytest.mark.parametrize(
    ("make", "hp", "start"),
    [
        (sgd, {"lr": torch.tensor(0.1, dtype=torch.float64)}, [0.1]),
        (diag_hessian, {"lr": torch.tensor(1e-4, dtype=torch.float64)}, [1e-4]),
        (diag_hessian, {}, [1e-4]),
        (groups, {}, [0.1, 0.03]),
        (adapted, {}, [0.1]),
        (muon, {}, [0.1, 0.1]),
    ],
    ids=["tensor", "tensor, curvature", "curvature", "groups", "adapted", "muon"],
)
def test_every_kind_of_optimizer_follows_the_schedule(make: Any, hp: dict[str, Any], start: list[float]) -> None:
    found = rates(Engine(schedule="cosine", final_lr=0.1), make, **hp)
    shape = torchs(lambda o: CosineAnnealingLR(o, 20, eta_min=0.1), 20, lr=1.0)
    np.testing.assert_allclose(found, np.outer(shape, start), rtol=1e-6)
    if make is muon or make is adapted:  # and the optimizers within
        seen: list[Made] = []

        def noting(params: Any, hp: dict[str, Any]) -> Made:
            seen.append(make(params, hp))
            return seen[-1]

        run(noting, Engine(schedule="cosine", final_lr=0.5), epochs=4)
        inner = seen[0].parts if make is muon else [seen[0].base_optimizer]  # type: ignore[attr-defined]
        assert all(group["lr"] == pytest.approx(0.05) for part in inner for group in part.param_groups)


def test_the_rate_is_what_the_rule_uses() -> None:
    task = Noting()
    run(sgd, Engine(schedule="cosine", final_lr=0.0, warmup_epochs=1), task, {"momentum": 0.0}, epochs=2)
    trained, model = task.model, task.build(3)
    factors = [0.2, 0.4, 0.6, 0.8, 1.0, *((1 + math.cos(math.pi * t / 5)) / 2 for t in range(5))]
    batches = (batch for epoch in range(2) for batch in task.batches(3, epoch))
    for factor, (inputs, targets) in zip(factors, batches, strict=True):
        model.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * factor * p.grad
    for ours, by_hand in zip(trained.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, by_hand, rtol=1e-5, atol=1e-7)


class Rateless(torch.optim.Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> Any:
        return None if closure is None else closure()


@pytest.mark.parametrize("engine", [Engine(schedule="cosine"), Engine(warmup_epochs=0.5)])
def test_an_optimizer_without_a_rate_is_refused_unless_it_is_constant(engine: Engine) -> None:
    def make(params: Any, hp: dict[str, Any]) -> Made:
        return Rateless(params)

    with pytest.raises(UserError, match="Rateless has no lr; use constant"):
        run(make, engine)
    assert run(make, Engine())[0].status == "complete"

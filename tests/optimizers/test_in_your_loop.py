"""Curvature optimizers in a plain PyTorch loop: what docs/use_in_your_loop.md says and its examples do not show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from optimizers import CurvatureOptimizer, DiagHessian, Sophia

RULES = pytest.mark.parametrize("rule", [Sophia, DiagHessian])
STEPS = 8
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, 3),
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=STEPS + 1),
    "SequentialLR": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.LinearLR(optimizer), lr_scheduler.ConstantLR(optimizer)], [3]
    ),
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, [lambda step: 1 / (1 + step), lambda step: 0.5]),
    "ReduceLROnPlateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=1),
}


def make() -> tuple[nn.Module, Tensor, Tensor]:
    """A network in double precision, and a batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    return model, torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 3


def closure_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], Tensor]:
    return lambda: nn.functional.cross_entropy(model(inputs), targets)


def groups_of(model: nn.Module) -> list[dict[str, Any]]:
    """Of two learning rates."""
    return [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 2e-4}]


def weights(model: nn.Module) -> list[Tensor]:
    return [param.detach().clone() for param in model.parameters()]


def differences(one: list[Tensor], other: list[Tensor]) -> list[float]:
    return [float((a - b).abs().max()) for a, b in zip(one, other, strict=True)]


@RULES
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_scheduler_gives_the_learning_rates_that_it_gives_adam(rule: Any, scheduler: str) -> None:
    model, inputs, targets = make()
    closure = closure_of(model, inputs, targets)
    adam = torch.optim.Adam([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr": 2e-4}], lr=1e-4)
    optimizer = rule(groups_of(model), lr=1e-4)
    schedule, expected = SCHEDULERS[scheduler](optimizer), SCHEDULERS[scheduler](adam)
    rates = []
    for _ in range(STEPS):
        optimizer.step(closure)
        adam.step()
        for each in (schedule, expected):
            each.step(*[1.0] * (scheduler == "ReduceLROnPlateau"))
        rates.append([group["lr"] for group in optimizer.param_groups])
        assert rates[-1] == [group["lr"] for group in adam.param_groups]
    assert rates[0] != rates[-1]


@RULES
def test_the_rule_takes_the_scheduled_learning_rate(rule: Any) -> None:
    """A rate of zero leaves the weights as they are."""
    model, inputs, targets = make()
    optimizer = rule(model.parameters(), lr=1e-3)
    schedule = lr_scheduler.LambdaLR(optimizer, lambda step: float(step < 1))
    seen = [weights(model)]
    for _ in range(2):
        optimizer.step(closure_of(model, inputs, targets))
        schedule.step()
        seen.append(weights(model))
    assert min(differences(seen[0], seen[1])) > 0
    assert max(differences(seen[1], seen[2])) == 0


@RULES
def test_decay_off_for_biases_is_off_for_them_alone(rule: Any) -> None:
    seen, decay, lr = [], 0.1, 1e-3
    for given in (decay, 0.0):
        model, inputs, targets = make()
        before = weights(model)
        matrices, others = [[p for p in model.parameters() if (p.ndim > 1) is flat] for flat in (True, False)]
        rule([{"params": matrices, "weight_decay": given}, {"params": others}], lr=lr).step(
            closure_of(model, inputs, targets)
        )
        seen.append(weights(model))
    for start, decayed, plain in zip(before, *seen, strict=True):
        torch.testing.assert_close(plain - decayed, lr * decay * start * (start.ndim > 1), rtol=1e-9, atol=1e-15)


@RULES
@pytest.mark.parametrize("estimator", ["hutchinson", "gnb"])
def test_the_mean_loss_of_small_batches_steps_as_their_large_one(rule: Any, estimator: str) -> None:
    def with_outputs(model: nn.Module, inputs: Tensor, targets: Tensor, parts: int) -> Any:
        outputs = torch.cat([model(part) for part in inputs.chunk(parts)])
        pairs = zip(outputs.chunk(parts), targets.chunk(parts), strict=True)
        losses = [nn.functional.cross_entropy(*both) for both in pairs]
        loss = torch.stack(losses).mean()
        return loss if estimator == "hutchinson" else (loss, outputs)

    seen = []
    for parts in (1, 4):
        model, inputs, targets = make()
        optimizer = rule(model.parameters(), lr=1e-3, estimator=estimator)
        for _ in range(3):
            optimizer.step(lambda: with_outputs(model, inputs, targets, parts))  # noqa: B023
        seen.append(weights(model))
    assert max(differences(*seen)) < 1e-11


@RULES
def test_what_stands_in_the_gradients_before_a_step_does_not_count(rule: Any) -> None:
    seen = []
    for backward in (False, True):
        model, inputs, targets = make()
        closure = closure_of(model, inputs, targets)
        optimizer = rule(model.parameters(), lr=1e-3, update_period=2)
        for _ in range(3):
            if backward:
                closure().backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1e-6)
            optimizer.step(closure)
        seen.append(weights(model))
    assert max(differences(*seen)) == 0


@RULES
def test_the_closure_is_called_once_a_step_and_knows_refreshes(rule: Any) -> None:
    model, inputs, targets = make()
    optimizer = rule(model.parameters(), update_period=3)
    refreshes = []

    def closure() -> Tensor:
        refreshes.append(optimizer.refreshing)
        return nn.functional.cross_entropy(model(inputs), targets)

    for _ in range(5):
        optimizer.step(closure)
    assert refreshes == [True, False, False, True, False]


# What does not work ends in an error.


def refused(
    error: type[Exception], sentence: str, step: Callable[[CurvatureOptimizer, Any, nn.Module], object]
) -> None:
    model, inputs, targets = make()
    optimizer = Sophia(model.parameters())
    with pytest.raises(error, match=sentence):
        step(optimizer, closure_of(model, inputs, targets), model)


def test_a_closure_that_calls_backward_is_refused() -> None:
    def step(optimizer: CurvatureOptimizer, closure: Any, model: nn.Module) -> None:
        def with_backward() -> Tensor:
            loss = closure()
            loss.backward()
            return loss

        optimizer.step(with_backward)

    refused(RuntimeError, "backward through the graph a second time", step)


def test_a_step_without_a_closure_is_refused() -> None:
    def step(optimizer: Any, closure: Any, model: nn.Module) -> None:
        closure().backward()
        optimizer.step()

    refused(TypeError, "missing 1 required positional argument: 'closure'", step)


def test_a_scaler_of_gradients_is_refused() -> None:
    def step(optimizer: Any, closure: Any, model: nn.Module) -> None:
        scaler = torch.amp.GradScaler("cpu")
        scaler.scale(closure()).backward()
        scaler.step(optimizer, closure=closure)

    refused(RuntimeError, "Closure use is not currently supported if GradScaler is enabled", step)

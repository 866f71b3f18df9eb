"""What an estimator's class says of its cost and its needs is what it does."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from optimizers import DiagHessian
from optimizers.curvature.registry import ESTIMATORS

FEATURES, CLASSES, SAMPLES = 4, 3, 5


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(FEATURES, CLASSES)


def smooth() -> nn.Module:
    """Of which parameters lie behind two functions that are not linear."""
    return nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, CLASSES))


def closure_of(model: nn.Module, *, outputs: bool) -> Callable[[], Tensor | tuple[Tensor, Tensor]]:
    inputs, labels = torch.randn(6, FEATURES), torch.arange(6) % CLASSES

    def closure() -> Tensor | tuple[Tensor, Tensor]:
        logits = model(inputs)
        loss = nn.functional.cross_entropy(logits, labels)
        return (loss, logits) if outputs else loss

    return closure


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_cost_in_words_is_the_one_that_is_counted(name: str) -> None:
    """In gradients, beyond the step's own; the words end with what there are several of."""
    number, _, per = ESTIMATORS[name].costs.partition(" per ")
    times = {"": 1, "sample": SAMPLES, "class": CLASSES, "parameter entry": FEATURES * CLASSES + CLASSES}[per]
    arguments = {"samples": SAMPLES} if per == "sample" else {}
    model: nn.Module = smooth() if name == "hessian_mc" else network()  # on a linear one it is ggn_mc
    optimizer = DiagHessian(model.parameters(), estimator={"name": name, **arguments})
    optimizer.step(closure_of(model, outputs=True))
    assert optimizer.grad_equivalents - 1 == pytest.approx(float(Fraction(number) * times))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_outputs_are_asked_for_by_those_that_say_so(name: str) -> None:
    model = network()
    optimizer = DiagHessian(model.parameters(), estimator=name)
    if ESTIMATORS[name].needs_outputs:
        with pytest.raises(ValueError, match=r"must return \(loss, outputs\)"):
            optimizer.step(closure_of(model, outputs=False))
    else:
        optimizer.step(closure_of(model, outputs=False))

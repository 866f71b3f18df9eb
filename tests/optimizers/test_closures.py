"""Optimizers whose step takes a closure, needed or optional, against loops by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers.closures import takes_closure
from tests.support.regression import Noting
from tuner.training.engine import Engine
from tuner.training.records import Budget, Result
from tuner.training.single import Trainer, train

EPOCHS = 4
STEPS = 20
SEED = 3

Make = Callable[..., Any]


def trained(make: Make, hp: dict[str, Any]) -> Result:
    return train(Noting(), make, hp, SEED, Budget(EPOCHS, evaluations=1))


def by_hand(make: Make, hp: dict[str, Any], step: Callable[[Any, Callable[[], Tensor]], object]) -> dict[str, float]:
    """What is trained as the optimizer's documentation says."""
    task = Noting()
    torch.manual_seed(SEED)
    model = task.build(SEED)
    optimizer = make(list(model.parameters()), **hp)
    for epoch in range(EPOCHS):
        for inputs, targets in task.batches(SEED, epoch):

            def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(inputs), targets)
                loss.backward()
                return loss

            step(optimizer, closure)
    return {f"{split}_loss": task.evaluate(model, split)["loss"] for split in ("train", "val")}


def with_closure(optimizer: Any, closure: Callable[[], Tensor]) -> None:
    optimizer.step(closure)


def gradient_and_closure(optimizer: Any, closure: Callable[[], Tensor]) -> None:
    closure()
    optimizer.step(closure)


def gradient_alone(optimizer: Any, closure: Callable[[], Tensor]) -> None:
    closure()
    optimizer.step()


def made(cls: Make) -> Make:
    return lambda params, hp: cls(params, **hp)


@pytest.mark.parametrize("name", ["EmoNavi", "EmoLynx"])
def test_an_optimizer_that_may_have_a_closure_is_given_it(name: str) -> None:
    cls = getattr(pytest.importorskip("pytorch_optimizer"), name)
    given, not_given = by_hand(cls, {"lr": 1e-2}, with_closure), by_hand(cls, {"lr": 1e-2}, gradient_alone)
    result = trained(made(cls), {"lr": 1e-2})
    assert result.metrics == given != not_given
    assert result.clocks.grad_equivalents == STEPS


def test_of_an_optimizer_that_only_returns_the_loss_the_numbers_are_those_without() -> None:
    result = trained(made(torch.optim.Adam), {"lr": 1e-2})
    assert result.metrics == by_hand(torch.optim.Adam, {"lr": 1e-2}, gradient_alone)
    assert result.clocks.grad_equivalents == STEPS


def test_lbfgs_looks_as_often_as_by_hand_and_is_charged_for_each() -> None:
    hp, calls = {"lr": 0.1, "max_iter": 4}, []

    def counted(optimizer: Any, closure: Callable[[], Tensor]) -> None:
        optimizer.step(lambda: calls.append(1) or closure())

    expected = by_hand(torch.optim.LBFGS, hp, counted)
    result = trained(made(torch.optim.LBFGS), hp)
    assert result.metrics == expected
    assert result.clocks.grad_equivalents == len(calls) > 2 * STEPS


def test_sam_perturbs_the_gradient_of_this_batch_and_asks_for_another_one() -> None:
    cls = pytest.importorskip("pytorch_optimizer").SAM
    sam = functools.partial(cls, base_optimizer=torch.optim.SGD)
    hp = {"lr": 0.1, "momentum": 0.9, "rho": 0.5}
    result = trained(made(sam), hp)
    assert result.metrics == by_hand(sam, hp, gradient_and_closure)
    assert result.clocks.grad_equivalents == 2 * STEPS


class Perturbing(torch.optim.SGD):
    """Moves the weights, asks for the gradient there, moves them back, and steps; in ways that PyTorch sees or not."""

    def __init__(self, params: Any, lr: float, seen: bool) -> None:
        super().__init__(params, lr=lr)
        self.seen = seen

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        self.move(0.3)
        loss = closure()
        self.move(-0.3)
        super().step()
        return loss

    def move(self, by: float) -> None:
        for param in self.param_groups[0]["params"]:
            (param if self.seen else param.data).add_(by)


@pytest.mark.parametrize("seen", [True, False])
def test_weights_moved_before_the_first_call_are_those_that_it_is_about(seen: bool) -> None:
    def in_grad(optimizer: Any, closure: Callable[[], Tensor]) -> None:
        optimizer.step(torch.enable_grad()(closure))

    hp = {"lr": 0.1, "seen": seen}
    result = trained(made(Perturbing), hp)
    assert result.metrics == by_hand(Perturbing, hp, in_grad)
    assert result.clocks.grad_equivalents == 2 * STEPS


class NeverCalls(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        super().step()


def test_an_optimizer_that_never_calls_has_its_gradient_all_the_same() -> None:
    assert trained(made(NeverCalls), {"lr": 0.1}).metrics == trained(made(torch.optim.SGD), {"lr": 0.1}).metrics


@pytest.mark.parametrize(("cls", "taken"), [(torch.optim.Adam, True), (torch.optim.LBFGS, True), (Noting, False)])
def test_whether_a_step_takes_a_closure_is_in_its_signature(cls: Any, taken: bool) -> None:
    if cls is Noting:
        optimizer: Any = type("Plain", (), {"step": lambda self: None})()
    else:
        optimizer = cls([torch.zeros(1, requires_grad=True)])
    assert takes_closure(optimizer) is taken


# What an optimizer is made of, and when it is told to evaluate.


def test_a_factory_may_go_through_the_parameters_twice() -> None:
    groups: list[int] = []

    def decay_on_matrices_only(params: Any, hp: dict[str, Any]) -> torch.optim.Optimizer:
        split = [[p for p in params if p.dim() > 1], [p for p in params if p.dim() < 2]]
        groups.extend(map(len, split))
        return torch.optim.AdamW([{"params": split[0], "weight_decay": 0.1}, {"params": split[1]}], **hp)

    trained(decay_on_matrices_only, {"lr": 1e-2})
    assert groups == [2, 2]


def test_splus_which_has_no_other_weights_before_its_first_step_trains() -> None:
    cls = pytest.importorskip("pytorch_optimizer").SPlus
    assert trained(made(cls), {"lr": 1e-2}).status == "complete"


class WithoutGroups:
    """All that a training loop needs of an optimizer, and no more."""

    def __init__(self, params: Any, lr: float) -> None:
        self.params, self.lr = params, lr

    def zero_grad(self) -> None:
        for param in self.params:
            param.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for param in self.params:
            param -= self.lr * param.grad


def test_an_optimizer_without_groups_trains_also_among_others_of_its_kind() -> None:
    from tuner.training import stack

    make, hp, budget = made(WithoutGroups), {"lr": 0.1}, Budget(EPOCHS, evaluations=1)
    members = [stack.Member(hp, SEED)] * 2
    expected = trained(made(torch.optim.SGD), hp).metrics
    for result in stack.train(Noting(), make, members, budget):  # which adds up in another order on some processors
        assert result.metrics == pytest.approx(expected, rel=1e-6)


def test_a_schedule_wants_a_learning_rate_and_says_so_of_one_without_groups() -> None:
    with pytest.raises(Exception, match="WithoutGroups has no lr; use constant"):
        Trainer(Noting(), made(WithoutGroups), {"lr": 0.1}, SEED, Engine(schedule="cosine"), EPOCHS)

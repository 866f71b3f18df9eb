"""Members that cannot be stacked train one at a time, as ever."""

import random

import pytest
import torch
from torch import nn

from optimizers import (
    AdaHessian,
    DiagHessian,
)
from tests.support.members import (
    CONSTANT,
    GAUSSIAN,
    MIXED,
    TWELVE_STEPS,
    Small,
    alone,
    assert_equal,
    assert_same_bits,
    by_name,
    convolutional,
    members_of,
    of,
    perceptron,
    together,
)
from tuner.training import stack
from tuner.training.engine import Engine
from tuner.training.stack import Member


class Shaken(torch.optim.SGD):
    """Adds noise of Python's random numbers, which no member has for itself."""

    def step(self, closure=None):
        for param in self.param_groups[0]["params"]:
            param.grad.add_(random.random())
        return super().step(closure)


SINGLE = {
    "lbfgs": (of(torch.optim.LBFGS, max_iter=2), {"lr": 0.1}),
    "Python's random numbers": (of(Shaken), {"lr": 0.1}),
    "maximised curvature": (of(DiagHessian, maximize=True), {"lr": 1e-3}),
}


def assert_alone(task, make, members, budget=TWELVE_STEPS, engine=CONSTANT):
    """They train one at a time, to the bit as ``train`` does."""
    runs = together(task, make, members, budget, engine)
    assert [result.cohort for result, _ in runs] == [1] * len(members)
    for member, run in zip(members, runs, strict=True):
        assert_same_bits(run, alone(task, make, member, budget, engine))


@pytest.mark.parametrize("single", SINGLE)
def test_optimizers_that_cannot_share_a_step_train_one_at_a_time(single):
    make, hp = SINGLE[single]
    members = [Member(hp, 1), Member({**hp, "lr": hp["lr"] / 2}, 2)]
    task = Small()
    random.seed(0)
    runs = together(task, make, members, TWELVE_STEPS)
    assert [result.cohort for result, _ in runs] == [1, 1]
    assert stack.stacks(task, make, members, CONSTANT) == [[0], [1]]  # as is known by now
    if single != "Python's random numbers":  # the global stream goes on from one run to the next
        for member, run in zip(members, runs, strict=True):
            assert_same_bits(run, alone(Small(), make, member, TWELVE_STEPS))


@pytest.mark.parametrize(
    ("rule", "name", "values"),
    [
        (torch.optim.SGD, "nesterov", [False, True]),
        (AdaHessian, "betas", [(0.9, 0.99), (0, 0.99)]),
        (DiagHessian, "update_period", [1, 2]),
        (DiagHessian, "estimator", ["hutchinson", "secant"]),
        (DiagHessian, "estimator", ["hutchinson", GAUSSIAN]),
    ],
)
def test_members_that_differ_in_more_than_numbers_train_apart(rule, name, values):
    fixed = {"momentum": 0.9} if rule is torch.optim.SGD else {}
    assert_alone(Small(), of(rule, lr=1e-3, **fixed), [Member({name: value}, 1) for value in values])


class Reading(nn.Module):
    """Reads a number, which a stack cannot, at every batch or at the last one of an epoch."""

    def __init__(self, rows):
        super().__init__()
        self.rows, self.layer = rows, nn.Linear(6, 3)

    def forward(self, x):
        y = self.layer(x)
        return y * 2 if len(x) in self.rows and y.abs().max().item() > 0 else y


class Accumulating(nn.Linear):
    """Adds in place to zeros, which are not the members' own."""

    def forward(self, x):
        total = torch.zeros(len(x), 3, dtype=x.dtype)
        total += super().forward(x)
        return total


UNSTACKABLE = {
    "reads a number": lambda: Reading([16, 9]),
    "reads a number late": lambda: Reading([9]),
    "adds in place": lambda: Accumulating(6, 3),
    "averages by count": lambda: nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9, momentum=None), nn.Linear(9, 3)),
    "dropout and a number": lambda: nn.Sequential(nn.Dropout(0.2), Reading([9])),
}


@pytest.mark.parametrize(
    ("network", "rule"), [*((network, "momentum") for network in UNSTACKABLE), ("reads a number", "diag_hutchinson_5")]
)
def test_networks_that_cannot_be_stacked_train_one_at_a_time(network, rule):
    assert_alone(Small(UNSTACKABLE[network]), *members_of(rule))


# Known to be otherwise: stacked, to other numbers than alone.


def of_the_last_layer(params, hp):
    return torch.optim.SGD(list(params)[2:], **hp)


def with_a_hook(params, hp):
    optimizer = torch.optim.SGD(params, **hp)

    def shrink(optimizer, args, kwargs):
        torch._foreach_mul_([param.data for param in optimizer.param_groups[0]["params"]], 0.9)

    optimizer.register_step_post_hook(shrink)
    return optimizer


class Features(nn.Linear):
    """Of random features that are neither parameters nor buffers."""

    def __init__(self):
        super().__init__(9, 3)
        self.features = torch.randn(6, 9, dtype=torch.float64)

    def forward(self, x):
        return super().forward((x @ self.features).tanh())


OTHERWISE = {
    "some of the parameters": (perceptron, of_the_last_layer),
    "a hook": (perceptron, with_a_hook),
    "drawn and no buffer": (Features, of(torch.optim.SGD)),
}


@pytest.mark.parametrize(("network", "make"), OTHERWISE.values(), ids=OTHERWISE)
def test_what_a_stack_does_not_look_at(network, make):
    members = [Member({"lr": 0.1}, 1), Member({"lr": 0.05}, 2)]
    for member, run in zip(members, together(Small(network), make, members, TWELVE_STEPS), strict=True):
        assert_equal(run, alone(Small(network), make, member, TWELVE_STEPS))


def test_a_failed_stack_does_not_touch_the_others():
    """Of a network that cannot be stacked, and an optimizer that is not: all are as alone."""
    members = [Member({"name": name, **hp}, seed) for seed, (name, hp) in enumerate(MIXED[:5])]
    assert_alone(Small(UNSTACKABLE["reads a number late"]), by_name, members)


@pytest.mark.parametrize("engine", [Engine(compile=True), Engine(channels_last=True)], ids=["compiled", "images"])
def test_compiled_networks_and_other_memory_formats_are_not_stacked(engine):
    members = [Member({"lr": lr}, 1) for lr in (0.1, 0.2)]
    assert stack.stacks(Small(convolutional), of(torch.optim.SGD), members, engine) == [[0], [1]]
    if not engine.compile:
        assert_alone(Small(convolutional), of(torch.optim.SGD), members, engine=engine)


def test_an_error_of_a_single_run_is_raised():
    def broken(params, hp):
        raise ArithmeticError("as alone")

    with pytest.raises(ArithmeticError, match="as alone"):
        stack.train(Small(), broken, [Member({}, 1)] * 2, TWELVE_STEPS)

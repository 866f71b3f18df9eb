"""Stacked optimizers: each member's steps are those of its own optimizer, which knows nothing of stacks."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from optimizers import (
    SSVP,
    AdaHessian,
    CurvatureOptimizer,
    DiagHessian,
    HessianLRAdaptation,
    MuonWithAdamW,
    Sophia,
    SubsampledNewton,
)
from optimizers.curvature.probes import Streams
from optimizers.stacking.first_order import PURE
from optimizers.stacking.optimizer import StackedOptimizer
from optimizers.stacking.rule import stack_key
from tests.support.settings import SETTINGS

STEPS = 12
SHAPES = {"matrix": (2, 3), "vector": (4,), "number": (), "unused": (2,)}
NUMBERS = {
    torch.optim.SGD: {"lr": 0.02, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1},
    torch.optim.Adam: {"lr": 0.02, "betas": (0.9, 0.99), "eps": 0.1, "weight_decay": 0.1},
    torch.optim.AdamW: {"lr": 0.02, "betas": (0.9, 0.99), "eps": 0.1, "weight_decay": 0.1},
    **SETTINGS,
}
each_rule = pytest.mark.parametrize("rule", NUMBERS, ids=lambda rule: rule.__name__)


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def starts(members):
    """Every parameter of every member, stacked."""
    return [draw(members, *shape, seed=i).requires_grad_() for i, shape in enumerate(SHAPES.values())]


def own_loss(matrix, vector, number, unused, data):
    """Neither quadratic nor separable; the last parameter is not in it."""
    return (matrix @ data).cos().sum() + (vector.tanh() * number).square().sum() + 0.1 * matrix.square().sum()


@dataclass
class Losses:
    """``Problem`` without tracing, at one step; notes what was asked for."""

    params: list
    own: list
    data: torch.Tensor
    asked: list = field(default_factory=list)

    def losses(self):
        return torch.vmap(own_loss)(*self.params, self.data)

    def replay(self, name, finish, further, *, exact):
        self.asked.append((name, exact))
        with torch.enable_grad():
            return finish(self.losses(), self.params, further)

    def losses_and_outputs(self):
        return None

    def closure(self, place, params, exact):
        for own, stack in zip(self.own, self.params, strict=True):
            own.data = stack.data[place]
        return lambda: own_loss(*self.own, self.data[place])


def stacked_path(rule, hps, fixed=None, seeds=None, max_grad_norm=None, factors=None, keep=None):
    """The stack's parameters after each step, and its optimizer. ``keep``: after which step to keep which members."""
    members = len(hps)
    params = starts(members)
    own = [nn.Parameter(p.detach()[0].clone()) for p in params]
    optimizers = []
    for place, hp in enumerate(hps):
        torch.manual_seed(place if seeds is None else seeds[place])
        optimizers.append(rule(own, **hp, **(fixed or {})))
    stack = StackedOptimizer(optimizers, params, scheduled=factors is not None)
    places, path = torch.arange(members), []
    for step in range(STEPS):
        problem = Losses(params, own, draw(members, 3, seed=100 + step)[places])
        stack.step(problem, [1.0 if factors is None else factors[step]], max_grad_norm)
        path.append([p.detach().clone() for p in params])
        if keep is not None and step == keep[0]:
            places = torch.tensor(keep[1])
            params = [p.detach()[places].requires_grad_() for p in params]
            stack.keep(places, params)
    return path, stack


def own_path(rule, hps, place, fixed=None, seeds=None, max_grad_norm=None, factors=None):
    """A member's parameters after each step, by its own optimizer."""
    torch.manual_seed(place if seeds is None else seeds[place])
    own = [nn.Parameter(p.detach()[place].clone()) for p in starts(len(hps))]
    optimizer = rule(own, **hps[place], **(fixed or {}))
    path = []
    for step in range(STEPS):
        data = draw(len(hps), 3, seed=100 + step)[place]
        if factors is not None:
            optimizer.param_groups[0]["lr"] = hps[place]["lr"] * factors[step]
        if isinstance(optimizer, CurvatureOptimizer):
            optimizer.step(lambda data=data: own_loss(*own, data), max_grad_norm=max_grad_norm)
        else:
            optimizer.zero_grad()
            own_loss(*own, data).backward()
            if max_grad_norm is not None:
                nn.utils.clip_grad_norm_(own, max_grad_norm)
            optimizer.step()
        path.append([p.detach().clone() for p in own])
    return path, optimizer


def assert_paths_equal(stacked, place, own):
    for params, expected in zip(stacked, own, strict=True):
        for p, q in zip(params, expected, strict=True):
            torch.testing.assert_close(p[place], q, rtol=1e-9, atol=1e-11)


def changed(hp, name):
    """Another value of one hyperparameter, the second of a tuple."""
    value = hp[name]
    return {**hp, name: (value[0], value[1] / 2) if isinstance(value, tuple) else value / 2}


@each_rule
def test_members_that_differ_in_everything_step_as_their_own_optimizers(rule):
    hp = NUMBERS[rule]
    hps = [hp, *(changed(hp, name) for name in hp), {n: changed(hp, n)[n] for n in hp}]
    path, _ = stacked_path(rule, hps)
    for place in range(len(hps)):
        assert_paths_equal(path, place, own_path(rule, hps, place)[0])


@each_rule
def test_members_that_differ_in_nothing_but_their_seed(rule):
    hps = [NUMBERS[rule]] * 3
    path, _ = stacked_path(rule, hps)
    for place in range(3):
        assert_paths_equal(path, place, own_path(rule, hps, place)[0])


FIXED = {
    "every third": (DiagHessian, {"update_period": 3}),
    "gaussian": (DiagHessian, {"estimator": {"name": "hutchinson", "probe": "gaussian", "samples": 3}}),
    "secant": (AdaHessian, {"estimator": "secant", "update_period": 2}),
    "none": (DiagHessian, {"estimator": "none"}),
    "exact": (Sophia, {"estimator": "exact", "update_period": 5}),
    "along the momentum": (SSVP, {"update_period": 2}),
}
each_estimator = pytest.mark.parametrize(("rule", "fixed"), FIXED.values(), ids=FIXED)


@each_estimator
@pytest.mark.parametrize("seeds", [[3, 3, 3], [0, 1, 2], [5, 6, 5]], ids=["same seed", "own seeds", "two seeds"])
def test_estimators(rule, fixed, seeds):
    hps = [NUMBERS[rule], changed(NUMBERS[rule], "lr"), changed(NUMBERS[rule], "betas")]
    path, stack = stacked_path(rule, hps, fixed, seeds)
    for place in range(3):
        expected, optimizer = own_path(rule, hps, place, fixed, seeds)
        assert_paths_equal(path, place, expected)
        assert stack.grad_equivalents == pytest.approx(optimizer.grad_equivalents, rel=1e-12)


CLIPPABLE = [(torch.optim.SGD, {}), (torch.optim.Adam, {}), *FIXED.values()]


@pytest.mark.parametrize(("rule", "fixed"), CLIPPABLE, ids=["SGD", "Adam", *FIXED])
def test_clipping_scales_each_members_own_gradient(rule, fixed, monkeypatch):
    """By a bound that some gradients are beyond, and some are not."""
    monkeypatch.setitem(SHAPES, "number", (1,))
    hps = [NUMBERS[rule], changed(NUMBERS[rule], "lr"), changed(NUMBERS[rule], "weight_decay")]
    path, _ = stacked_path(rule, hps, fixed, max_grad_norm=3.0)
    for place in range(3):
        assert_paths_equal(path, place, own_path(rule, hps, place, fixed, max_grad_norm=3.0)[0])
    others = [stacked_path(rule, hps, fixed, max_grad_norm=bound)[0][-1][0] for bound in (None, 1e-3)]
    assert all(not torch.allclose(path[-1][0], other, rtol=1e-6) for other in others)


def test_clipping_with_a_parameter_without_shape():
    hps = [NUMBERS[torch.optim.SGD]] * 2
    path, _ = stacked_path(torch.optim.SGD, hps, max_grad_norm=3.0)
    for place in range(2):
        assert_paths_equal(path, place, own_path(torch.optim.SGD, hps, place, max_grad_norm=3.0)[0])


@pytest.mark.parametrize("rule", [torch.optim.SGD, torch.optim.AdamW, DiagHessian, Sophia])
def test_factors_of_the_learning_rate(rule):
    """Also where it is the same for all members."""
    factors = [1.0, 0.5, 0.1, 0.0, 2.0, *[0.3] * (STEPS - 5)]
    hps = [NUMBERS[rule], changed(NUMBERS[rule], "weight_decay")]
    path, _ = stacked_path(rule, hps, factors=factors)
    for place in range(2):
        assert_paths_equal(path, place, own_path(rule, hps, place, factors=factors)[0])


@pytest.mark.parametrize("after", [0, 4])
@pytest.mark.parametrize("rule", [torch.optim.SGD, torch.optim.Adam, DiagHessian, SSVP, AdaHessian])
def test_some_members_go_on_as_before(rule, after):
    """Their states, numbers and random streams with them."""
    hps = [changed(NUMBERS[rule], name) for name in ("lr", "weight_decay", "lr", "weight_decay")]
    path, stack = stacked_path(rule, hps, keep=(after, [3, 1]), seeds=[0, 1, 0, 2])
    assert len(stack.members) == 2 and path[-1][0].shape[0] == 2
    for place, member in enumerate([3, 1]):
        expected, _ = own_path(rule, hps, member, seeds=[0, 1, 0, 2])
        assert_paths_equal(path[after + 1 :], place, expected[after + 1 :])


@each_rule
def test_a_lent_optimizer_has_its_members_state(rule):
    hps = [NUMBERS[rule], changed(NUMBERS[rule], "lr")]
    _, stack = stacked_path(rule, hps)
    for place in range(2):
        lent, (_, optimizer) = stack.member_optimizer(place), own_path(rule, hps, place)
        found, expected = ([o.state[p] for p in o.param_groups[0]["params"]] for o in (lent, optimizer))
        names = {"momentum": "momentum_buffer"} if rule is torch.optim.SGD else {}
        for state, own in zip(found, expected, strict=True):
            assert {names.get(name, name) for name in state} == set(own)
            for name, value in state.items():
                torch.testing.assert_close(value, own[names.get(name, name)], rtol=1e-9, atol=1e-11, check_dtype=False)


def test_what_is_unused_stays_as_it_is():
    path, stack = stacked_path(torch.optim.SGD, [NUMBERS[torch.optim.SGD], {"lr": 0.1}][:1] * 2)
    unused = list(SHAPES).index("unused")
    assert torch.equal(path[-1][unused], path[0][unused]) and not stack._rule.states[unused]


def test_losses_are_those_before_the_step_without_graph():
    params = starts(2)
    own = [nn.Parameter(p.detach()[0].clone()) for p in params]
    stack = StackedOptimizer([torch.optim.SGD(own, lr=lr) for lr in (0.1, 0.2)], params, scheduled=False)
    data = draw(2, 3, seed=100)
    expected = torch.stack([own_loss(*(p.detach()[place] for p in params), data[place]) for place in range(2)])
    losses = stack.step(Losses(params, own, data))
    torch.testing.assert_close(losses, expected)
    assert not losses.requires_grad


@pytest.mark.parametrize(
    ("rule", "fixed", "exact"),
    [
        (torch.optim.Adam, {}, set()),
        (DiagHessian, {"update_period": 2}, {1, 3, 5, 7, 9}),  # by replay from the second refresh on
        (DiagHessian, {"estimator": "secant"}, set()),
    ],
)
def test_full_precision_is_asked_for_where_curvature_comes_from_the_forward_pass(rule, fixed, exact):
    params = starts(2)
    own = [nn.Parameter(p.detach()[0].clone()) for p in params]
    stack = StackedOptimizer([rule(own, **NUMBERS[rule], **fixed)] * 2, params, scheduled=False)
    problem = Losses(params, own, draw(2, 3, seed=100))
    for _ in range(11):
        stack.step(problem)
    assert {i for i, (_, asked) in enumerate(problem.asked) if asked} == exact
    assert len({name for name, _ in problem.asked}) == (2 if exact else 1)


# What can be stacked.


def made(rule, params=None, **hp):
    return rule([nn.Parameter(draw(2, 2))] if params is None else params, **{**NUMBERS.get(rule, {}), **hp})


@each_rule
def test_kind_is_that_of_members_that_differ_in_numbers(rule):
    hp = NUMBERS[rule]
    kinds = {stack_key(made(rule, **changed(hp, name))) for name in hp} | {stack_key(made(rule))}
    assert len(kinds) == 1 and None not in kinds


def test_kinds_of_different_rules_differ():
    assert len({stack_key(made(rule)) for rule in NUMBERS}) == len(NUMBERS)


@pytest.mark.parametrize(
    ("rule", "one", "other"),
    [
        (torch.optim.SGD, {"dampening": 0.0, "nesterov": False}, {"dampening": 0.0, "nesterov": True}),
        (torch.optim.Adam, {"amsgrad": False}, {"amsgrad": True}),
        (torch.optim.Adam, {"decoupled_weight_decay": False}, {"decoupled_weight_decay": True}),
        (DiagHessian, {"update_period": 1}, {"update_period": 2}),
        (DiagHessian, {"estimator": "hutchinson"}, {"estimator": "gnb"}),
        (DiagHessian, {"estimator": "hutchinson"}, {"estimator": {"name": "hutchinson", "samples": 2}}),
        (DiagHessian, {"estimator": "hutchinson"}, {"estimator": {"name": "hutchinson", "probe": "gaussian"}}),
        (DiagHessian, {"estimator": "ggn_mc"}, {"estimator": {"name": "ggn_mc", "draws": "labels"}}),
    ],
)
def test_kinds_that_differ_in_more_than_numbers(rule, one, other):
    assert None not in (stack_key(made(rule, **one)), stack_key(made(rule, **other)))
    assert stack_key(made(rule, **one)) != stack_key(made(rule, **other))
    assert stack_key(made(rule, **one)) == stack_key(made(rule, **one))


class Inherited(torch.optim.Adam):
    """PyTorch's class by another name may do anything."""


class OwnStep(DiagHessian):
    def step(self, closure, **options):
        return super().step(closure, **options)


class OwnRefreshes(DiagHessian):
    def _refreshes(self, params):
        return True


class OwnRule(DiagHessian):
    """Another rule alone is fine."""

    @staticmethod
    def update(param, grad, curvature, state, hp):
        return param - hp["lr"] * grad, state


def two_groups(rule):
    params = [nn.Parameter(draw(2)), nn.Parameter(draw(3))]
    return made(rule, [{"params": [param]} for param in params])


UNSTACKABLE = {
    "no pure rule": lambda: made(torch.optim.RMSprop),
    "closure": lambda: made(torch.optim.LBFGS),
    "made of another": lambda: HessianLRAdaptation(made(torch.optim.SGD)),
    "made of others": lambda: made(MuonWithAdamW),
    "own step": lambda: made(OwnStep),
    "own refreshes": lambda: made(OwnRefreshes),
    "own curvature": lambda: made(SubsampledNewton),
    "inherited": lambda: made(Inherited),
    "groups": lambda: two_groups(torch.optim.SGD),
    "groups of a curvature rule": lambda: two_groups(DiagHessian),
    "maximize": lambda: made(torch.optim.Adam, maximize=True),
    "maximize of a curvature rule": lambda: made(DiagHessian, maximize=True),
    "tensor": lambda: made(torch.optim.Adam, lr=torch.tensor(0.1)),
    "tensor of a curvature rule": lambda: made(DiagHessian, lr=torch.tensor(0.1)),
}


@pytest.mark.parametrize("optimizer", UNSTACKABLE)
def test_what_cannot_be_stacked_has_no_kind(optimizer):
    assert stack_key(UNSTACKABLE[optimizer]()) is None


def test_a_rule_of_ones_own_can_be_stacked():
    assert stack_key(made(OwnRule, **NUMBERS[DiagHessian])) not in (None, stack_key(made(DiagHessian)))
    hps = [NUMBERS[DiagHessian], changed(NUMBERS[DiagHessian], "lr")]
    path, _ = stacked_path(OwnRule, hps)
    for place in range(2):
        assert_paths_equal(path, place, own_path(OwnRule, hps, place)[0])


def test_pure_rules_are_those_of_three_classes():
    assert set(PURE) == {torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW}


# Random streams.


def test_streams_draw_what_each_member_would_draw_alone():
    seeds = [4, 9, 4]
    streams = Streams([torch.Generator().manual_seed(seed) for seed in (4, 9)], torch.tensor([0, 1, 0]))
    like = [torch.zeros(3, 2, 5), torch.zeros(3, 4)]

    def normal(tensors, generator):
        return [torch.randn(tensor.shape, generator=generator) for tensor in tensors]

    found = [streams.draw(normal, like) for _ in range(3)]
    for place, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        for drawn in found:
            expected = normal([tensor[0] for tensor in like], generator)
            assert all(torch.equal(tensor[place], own) for tensor, own in zip(drawn, expected, strict=True))

"""What lies side by side goes on, to the bit, as each tensor would with the rule for itself."""

import copy

import pytest
import torch
from torch import nn

from optimizers import AdaHessian, CurvatureOptimizer, DiagHessian, Sophia
from optimizers.side_by_side import SideBySide, side_by_side
from tests.support.settings import SETTINGS

SHAPES = [(3, 4), (), (5,), (2, 2, 2)]
each_rule = pytest.mark.parametrize("rule", SETTINGS, ids=lambda rule: rule.__name__)


def draw(shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(rule, **options):
    params = [nn.Parameter(draw(shape, i)) for i, shape in enumerate(SHAPES)]
    params[0] = nn.Parameter(params[0].detach().t())
    return rule(params, **SETTINGS[rule], **options), params


def steps(optimizer, params, numbers, curved=lambda step: step % 3 != 2, without=()):
    for step in numbers:
        terms = [(p * draw(p.shape, 10 * step + i)).sum() for i, p in enumerate(params) if (step, i) not in without]
        curvature = [draw(p.shape, 1000 + 10 * step + i) if curved(step) else None for i, p in enumerate(params)]
        optimizer.step(lambda terms=terms: sum(terms), curvature=curvature)


def assert_same(one, other):
    for (optimizer, params), (reference, expected) in [(one, other)]:
        for p, q in zip(params, expected, strict=True):
            assert torch.equal(p, q)
            state, known = optimizer.state[p], reference.state[q]
            assert state.keys() == known.keys() and all(torch.equal(state[name], known[name]) for name in known)


def lies_side_by_side(optimizer):
    states = list(optimizer.state.values())
    return all(state["momentum"]._base is states[0]["momentum"]._base is not None for state in states)


@each_rule
def test_steps_are_those_of_each_tensor_for_itself(rule):
    ours, alone = made(rule), made(rule, foreach=False)
    for each in (ours, alone):
        steps(*each, range(10))
    assert lies_side_by_side(ours[0]) and not lies_side_by_side(alone[0])
    assert_same(ours, alone)


@each_rule
def test_they_are_also_where_a_parameter_has_no_gradient_once(rule):
    ours, alone = made(rule), made(rule, foreach=False)
    for each in (ours, alone):
        steps(*each, range(10), without={(0, 2), (5, 1)})
    assert_same(ours, alone)


@each_rule
def test_states_that_somebody_replaces_are_those_of_the_next_step(rule):
    ours, alone = made(rule), made(rule, foreach=False)
    for optimizer, params in (ours, alone):
        steps(optimizer, params, range(4))
        optimizer.state[params[2]]["momentum"] = torch.full((5,), 0.5, dtype=torch.float64)
        optimizer.state[params[3]] = copy.deepcopy(optimizer.state[params[3]])
        steps(optimizer, params, range(4, 8))
    assert_same(ours, alone)


@each_rule
def test_a_loaded_state_is_not_changed_by_the_steps_of_the_one_it_is_from(rule):
    first, second, alone = made(rule), made(rule), made(rule, foreach=False)
    steps(*first, range(4))
    steps(*alone, range(4))
    second[0].load_state_dict(first[0].state_dict())
    for p, q in zip(second[1], first[1], strict=True):
        p.data.copy_(q.data)
    steps(*first, range(50, 55))
    for each in (second, alone):
        steps(*each, range(4, 8))
    assert_same(second, alone)


@pytest.mark.parametrize("rule", [AdaHessian, DiagHessian])
def test_a_copy_goes_its_own_way(rule):
    ours, alone = made(rule), made(rule, foreach=False)
    steps(*ours, range(4))
    steps(*alone, range(4))
    copied = copy.deepcopy(ours)
    steps(*ours, range(50, 55))
    steps(*copied, range(4, 8))
    steps(*alone, range(4, 8))
    assert_same(copied, alone)


class Swapping(CurvatureOptimizer):
    """Its states change places at each step, and one of them is the gradient of the step before."""

    def __init__(self, params, **options):
        super().__init__(params, {"lr": 0.1}, estimator="none", **options)

    @staticmethod
    @side_by_side
    def update(param, grad, curvature, state, hp):
        state = state or {"a": torch.zeros_like(param), "b": torch.ones_like(param), "momentum": param}
        new = param - hp["lr"] * (state["momentum"] + state["a"] - 2 * state["b"])
        return new, {"a": state["b"], "b": state["a"], "momentum": grad}


def test_states_may_change_places():
    found = []
    for foreach in (None, False):
        params = [nn.Parameter(draw(shape, i)) for i, shape in enumerate(SHAPES)]
        optimizer = Swapping(params, foreach=foreach)
        steps(optimizer, params, range(5), curved=lambda step: False)
        found.append((optimizer, params))
    assert lies_side_by_side(found[0][0])
    assert_same(*found)


class Normed(Sophia):
    """Not a rule that said it works entry by entry: its parent's did."""

    @staticmethod
    def update(param, grad, curvature, state, hp):
        return Sophia.update(param, grad / grad.norm(), curvature, state, hp)


def test_a_rule_in_place_of_one_that_works_entry_by_entry_is_called_for_each_tensor():
    params = [nn.Parameter(draw(shape, i)) for i, shape in enumerate(SHAPES)]
    optimizer = Normed(params, **SETTINGS[Sophia], estimator="none")
    steps(optimizer, params, [3])
    share = 1 - optimizer.param_groups[0]["betas"][0]
    for i, param in enumerate(params):
        grad = draw(param.shape, 30 + i)
        torch.testing.assert_close(optimizer.state[param]["momentum"], share * grad / grad.norm())


@pytest.mark.parametrize("made", [[(4,)], [(4,), (0,)]], ids=["one", "an empty one"])
def test_what_is_not_several_tensors_is_left_alone(made):
    params, grads = [torch.ones(shape) for shape in made], [torch.ones(shape) for shape in made]
    states = {param: {} for param in params}
    assert not SideBySide().step(Sophia.update, params, grads, [None] * len(made), states, {})
    assert all(torch.equal(param, torch.ones_like(param)) for param in params) and not any(states.values())

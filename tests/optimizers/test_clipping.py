"""``step(max_grad_norm=...)``: the rule sees the gradient that PyTorch's own clipping leaves, estimators all of it."""

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from optimizers import SSVP, AdaHessian, Sophia, SubsampledNewton
from optimizers.curvature.interface import Estimator
from tests.support.networks import Keep
from tests.support.settings import SETTINGS

RULES = SETTINGS | {SubsampledNewton: {"lr": 0.05, "damping": 0.5, "sampling_rate": 1.0, "weight_decay": 0.1}}
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
SHAPES = [(3, 4), (), (5,)]
STEPS = 5


def draw(shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def new_params():
    return [nn.Parameter(draw(shape, i)) for i, shape in enumerate(SHAPES)]


def gradients(step):
    """Norms from well below 1 to well above it."""
    return [10 ** (step - 2) * draw(shape, 100 * step + i) for i, shape in enumerate(SHAPES)]


def clipped(grads, bound):
    """By PyTorch."""
    stand_ins = [nn.Parameter(torch.zeros_like(g)) for g in grads]
    for stand_in, g in zip(stand_ins, grads, strict=True):
        stand_in.grad = g.clone()
    clip_grad_norm_(stand_ins, bound)
    return [stand_in.grad for stand_in in stand_ins]


def norm(grads):
    return sum(g.square().sum() for g in grads).sqrt().item()


def linear(params, grads):
    """A loss with these gradients."""
    return lambda: sum((p * g).sum() for p, g in zip(params, grads, strict=True))


@each_rule
@pytest.mark.parametrize("maximize", [False, True])
def test_a_rule_is_given_the_clipped_gradient_to_the_bit(rule, maximize):
    ours, by_hand = new_params(), new_params()
    optimizer, twin = (rule(params, **RULES[rule], maximize=maximize) for params in (ours, by_hand))
    for step in range(STEPS):
        grads = gradients(step)
        square = rule is SubsampledNewton
        curvature = [
            torch.diag(draw((p.numel(),), step).abs() + 1) if square else draw(p.shape, 300 * step + i)
            for i, p in enumerate(ours)
        ]
        optimizer.step(linear(ours, grads), curvature=curvature, max_grad_norm=1.0)
        small = clipped(grads, 1.0)
        twin.step(linear(by_hand, small), curvature=curvature)
        for p, q, g in zip(ours, by_hand, small, strict=True):
            assert torch.equal(p, q) and torch.equal(p.grad, g)
            assert p.grad.grad_fn is None and not p.grad.requires_grad
        assert norm(small) == pytest.approx(min(1.0, norm(grads)), rel=1e-5)


@each_rule
def test_no_bound_or_one_that_is_not_reached_changes_nothing(rule):
    results = []
    for bound in (None, 1e9):
        params = new_params()
        optimizer = rule(params, **RULES[rule])
        for step in range(STEPS):
            optimizer.step(linear(params, gradients(step)), max_grad_norm=bound)
        results.append(params)
    assert all(map(torch.equal, *results))


# What estimators see.


class Spy(Estimator):
    """Notes what it is given; the curvature is 1."""

    def __init__(self, double_backward=False):
        self.double_backward = double_backward
        self.previous_gradients = True
        self.seen = []

    def __call__(self, refresh):
        self.seen.append((
            [g.detach().clone() for g in refresh.grads],
            [None if g is None else g.clone() for g in refresh.previous_grads],
            [d.clone() for d in refresh.directions()],
        ))  # fmt: skip
        return [torch.ones_like(p) for p in refresh.params]

    def cost(self, refresh):
        return 0.0


@pytest.mark.parametrize("double_backward", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
def test_an_estimator_sees_the_whole_gradient_now_and_before(double_backward, maximize):
    spy, params = Spy(double_backward), new_params()
    optimizer = SSVP(params, **SETTINGS[SSVP], estimator=spy, update_period=1, maximize=maximize)
    sign = -1.0 if maximize else 1.0
    momentum = None
    for step in range(STEPS):
        optimizer.step(linear(params, gradients(step)), max_grad_norm=0.5)
        grads, previous, directions = spy.seen[-1]
        for found, expected in zip(grads, gradients(step), strict=True):
            assert torch.equal(found, sign * expected)
        before = [None] * 3 if step == 0 else gradients(step - 1)
        for found, expected in zip(previous, before, strict=True):
            assert (found is None) if expected is None else torch.equal(found, sign * expected)
        # the momentum that a direction follows is the rule's, of clipped gradients
        applied = [sign * g for g in clipped(gradients(step), 0.5)]
        ahead = applied if momentum is None else [0.9 * m + 0.1 * g for m, g in zip(momentum, applied, strict=True)]
        for found, m in zip(directions, ahead, strict=True):
            assert torch.equal(found, -0.2 * m.sign())
        momentum = [optimizer.state[p]["momentum"].clone() for p in params]


A = draw((12, 12), 7)
A = A + A.T


def quadratic(params):
    """Each parameter's own 0.5 x^T A x: the Hessian's diagonal is A's, whatever the gradient."""
    return lambda: sum(0.5 * p.reshape(-1) @ A[: p.numel(), : p.numel()] @ p.reshape(-1) for p in params)


@pytest.mark.parametrize("bound", [None, 1e-3])
@pytest.mark.parametrize("maximize", [False, True])
def test_exact_curvature_is_the_losss_whatever_the_bound(bound, maximize):
    params = new_params()
    optimizer = Keep(params, "exact", lr=0.01, maximize=maximize)
    for _ in range(3):
        optimizer.step(quadratic(params), max_grad_norm=bound)
        for p, h in zip(params, optimizer.curvatures, strict=True):
            expected = A.diagonal()[: p.numel()].reshape(p.shape)
            torch.testing.assert_close(h, -expected if maximize else expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("estimator", ["hutchinson", "secant", "none"])
def test_other_estimates_at_the_same_points_do_not_depend_on_the_bound(estimator):
    found = []
    for bound in (None, 1e-3):
        torch.manual_seed(0)
        params = new_params()
        optimizer = Keep(params, estimator, lr=0.0)
        curvatures = []
        for step in range(3):
            with torch.no_grad():
                for p in params:
                    p.copy_(draw(p.shape, 50 + step))
            optimizer.step(quadratic(params), max_grad_norm=bound)
            curvatures += [h.clone() for h in optimizer.curvatures]
        found.append(curvatures)
        assert norm([p.grad for p in params]) == pytest.approx(1e-3, rel=1e-2) or bound is None
    assert all(map(torch.equal, *found))
    assert estimator == "none" or any(h.any() for h in found[0])


@pytest.mark.parametrize("estimator", ["hutchinson", "gnb", "ggn_mc"])
def test_no_graph_outlives_a_clipped_step(estimator):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    optimizer = Sophia(model.parameters(), estimator=estimator, update_period=2)

    def closure():
        outputs = model(x)
        return nn.functional.cross_entropy(outputs, y), outputs

    for _ in range(4):
        loss = optimizer.step(closure, max_grad_norm=1e-3)
        assert loss.grad_fn is None and all(p.grad.grad_fn is None for p in model.parameters())
        assert norm([p.grad for p in model.parameters()]) == pytest.approx(1e-3, rel=1e-2)


# Odd gradients.


def test_the_norm_is_over_parameters_with_a_gradient_in_all_groups():
    used, unused, frozen, other = (nn.Parameter(torch.zeros(n)) for n in (2, 3, 1, 2))
    frozen.requires_grad_(False)
    optimizer = Keep([{"params": [used, unused, frozen]}, {"params": [other], "lr": 1.0}], "none", lr=2.0)
    slopes = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])]
    optimizer.step(lambda: (used * slopes[0]).sum() + (other * slopes[1]).sum(), max_grad_norm=1.0)
    torch.testing.assert_close(used.detach(), torch.tensor([-1.2, 0.0]))
    torch.testing.assert_close(other.detach(), torch.tensor([0.0, -0.8]))
    assert unused.grad is None and frozen.grad is None and not unused.any()


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan"), 1e-30])
def test_zero_infinite_and_tiny_gradients_are_as_pytorch_leaves_them(value):
    params, grads = new_params(), gradients(2)
    grads[2][1] = value
    if value == 0.0:
        grads = [torch.zeros_like(g) for g in grads]
    Keep(params, "none").step(linear(params, grads), max_grad_norm=1.0)
    for p, expected in zip(params, clipped(grads, 1.0), strict=True):
        torch.testing.assert_close(p.grad, expected, rtol=0, atol=0, equal_nan=True)


# Whether a step goes back through its forward pass.


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [("hutchinson", [True, False, False] * 2), ("gnb", [True, False, False] * 2), ("secant", [False] * 6),
     ("none", [False] * 6)],
)  # fmt: skip
def test_a_closure_can_tell_a_refresh(estimator, expected):
    torch.manual_seed(0)
    model, seen = nn.Linear(2, 3), []
    optimizer = Sophia(model.parameters(), estimator=estimator, update_period=3)

    def closure():
        seen.append(optimizer.refreshing)
        outputs = model(torch.ones(4, 2))
        return nn.functional.cross_entropy(outputs, torch.tensor([0, 1, 2, 0])), outputs

    for _ in expected:
        optimizer.step(closure)
    assert seen == expected


def test_an_injected_curvature_is_no_refresh():
    params, seen = new_params(), []
    optimizer = AdaHessian(params)
    loss = linear(params, gradients(2))
    optimizer.step(
        lambda: (seen.append(optimizer.refreshing), loss())[1], curvature=[torch.ones_like(p) for p in params]
    )
    assert seen == [False]

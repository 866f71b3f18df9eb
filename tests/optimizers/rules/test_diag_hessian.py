"""DiagHessian against a slow, obvious float64 reference, and its rules one at a time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from optimizers import DiagHessian
from optimizers.curvature.interface import Estimator
from tests.support.examples import examples

CLOSE = {torch.float32: 1e-6, torch.float64: 1e-12}


class Reference:
    """One tensor's rule, written out from its equations in float64."""

    def __init__(self, theta, lr=1e-6, diff=0.25, square=9.0, betas=(0.9, 0.999), eps=1e-7, damping=1e-3):
        self.theta = np.array(theta, dtype=np.float64)
        self.m = np.zeros_like(self.theta)
        self.v = np.zeros_like(self.theta)
        self.t = 0
        self.lr, self.d, self.s, self.eps, self.damping = lr, diff, square, eps, damping
        self.b1, self.b2 = betas

    def step(self, g, h):
        g, h = np.asarray(g, dtype=np.float64), np.asarray(h, dtype=np.float64)
        phi1 = self.s * math.pow(self.d, self.s - 1)
        phi2 = self.s * (self.s - 1) * math.pow(self.d, self.s - 2)
        c = phi2 * g**2 + phi1 * h
        c = np.where(np.isfinite(c), c, 0.0)
        lam = max(0.0, -c.min()) + self.damping
        u = phi1 * g / (c + lam)
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * u
        self.v = self.b2 * self.v + (1 - self.b2) * c**2
        m_hat = self.m / (1 - self.b1**self.t)
        v_hat = self.v / (1 - self.b2**self.t)
        self.theta = self.theta - self.lr * m_hat / (np.sqrt(v_hat) + self.eps)


def linear_loss(params, slopes):
    """A loss whose gradient is ``slopes``, wherever the parameters are."""
    return sum((p * s).sum() for p, s in zip(params, slopes, strict=True))


def one_step(grad, hessian, **hyperparameters):
    """The rule applied once to zeros without momentum, so that the state shows u and c^2: (theta, u, c^2)."""
    param = nn.Parameter(torch.zeros(len(grad), dtype=torch.float64))
    slope = torch.tensor(grad, dtype=torch.float64)
    optimizer = DiagHessian([param], **{"lr": 1.0, "betas": (0.0, 0.0), **hyperparameters})
    optimizer.step(lambda: (param * slope).sum(), curvature=[torch.tensor(hessian, dtype=torch.float64)])
    state = optimizer.state[param]
    return param.detach().numpy(), state["momentum"].numpy(), state["curvature_sq"].numpy()


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(("diff", "square", "lr"), [(0.3, 5.0, 3e-3), (0.25, 9.0, 3e-3), (1.0, 1.0, 1e-4)])
def test_fifty_steps_equal_the_float64_reference(dtype, diff, square, lr):
    rng = np.random.default_rng(0)
    hyperparameters = {"diff": diff, "square": square, "betas": (0.8, 0.99), "eps": 1e-3, "damping": 1e-2}
    wide = nn.Parameter(torch.from_numpy(rng.uniform(1, 2, (3, 4))).to(dtype).t())
    scalar = nn.Parameter(torch.tensor(1.5, dtype=dtype))
    unused = nn.Parameter(torch.ones(2, dtype=dtype))
    vector = nn.Parameter(torch.from_numpy(rng.uniform(1, 2, 5)).to(dtype))
    groups = [{"params": [wide, unused]}, {"params": [scalar, vector], "lr": 3 * lr}]
    optimizer = DiagHessian(groups, lr=lr, **hyperparameters)
    used = [wide, scalar, vector]
    starts = [p.detach().numpy().copy() for p in used]
    references = [Reference(p, k * lr, **hyperparameters) for p, k in zip(starts, (1, 3, 3), strict=True)]
    assert not wide.is_contiguous()
    for step in range(50):
        slopes = [torch.from_numpy(np.asarray(rng.standard_normal(p.shape))).to(dtype) for p in used]
        hessians = [torch.from_numpy(np.asarray(rng.normal(0.3, 1.0, p.shape))).to(dtype) for p in used]
        if step >= 10:  # on an entry without a history, c = 0 makes a step of the order of 1 / eps
            hessians[0][step % 4, 0] = (math.nan, math.inf, -math.inf)[step % 3]
        for reference, slope, hessian in zip(references, slopes, hessians, strict=True):
            reference.step(slope, hessian)
        injected = [hessians[0], torch.zeros_like(unused), hessians[1], hessians[2]]
        optimizer.step(lambda slopes=slopes: linear_loss(used, slopes), curvature=injected)
    for param, start, reference in zip(used, starts, references, strict=True):
        assert 0.001 < np.abs(reference.theta - start).max() < 1
        np.testing.assert_allclose(param.detach().numpy(), reference.theta, rtol=CLOSE[dtype])
    assert torch.equal(unused, torch.ones_like(unused)) and unused not in optimizer.state


def test_slope_and_bend_of_the_published_setting():
    _, _, c_squared = one_step([0.0], [1.0], diff=0.25, square=9.0)
    assert math.sqrt(c_squared[0]) == pytest.approx(1.3733e-4, rel=1e-4)
    _, _, c_squared = one_step([1.0], [0.0], diff=0.25, square=9.0)
    assert math.sqrt(c_squared[0]) == pytest.approx(4.3945e-3, rel=1e-4)


def test_first_step_is_u_over_c_by_hand():
    # diff 1/2, square 2: phi' = 1, phi'' = 2; g = 3, h = 2: c = 20, lambda = 5, u = 3/25, step u/20.
    theta, _, _ = one_step([3.0], [2.0], diff=0.5, square=2.0, damping=5.0, eps=0.0)
    assert theta[0] == pytest.approx(-3 / 25 / 20, rel=1e-12)


def test_bias_correction_makes_the_first_step_independent_of_betas():
    plain, _, _ = one_step([1.0, -2.0], [0.5, 3.0])
    averaged, _, _ = one_step([1.0, -2.0], [0.5, 3.0], betas=(0.9, 0.999))
    np.testing.assert_allclose(averaged, plain, rtol=1e-12)


def test_square_1_is_the_damped_diagonal_newton_step():
    grad, hessian = [4.0, -1.0, 0.5], [2.0, 5.0, 0.1]
    _, u, c_squared = one_step(grad, hessian, square=1.0, diff=0.7, damping=0.25)
    np.testing.assert_allclose(u, np.array(grad) / (np.array(hessian) + 0.25), rtol=1e-12)
    np.testing.assert_allclose(c_squared, np.square(hessian), rtol=1e-12)


def test_square_1_solves_an_isotropic_quadratic_in_one_step():
    param = nn.Parameter(torch.tensor([3.0, -4.0], dtype=torch.float64))
    optimizer = DiagHessian([param], lr=1.0, square=1.0, damping=0.0, eps=0.0)
    optimizer.step(lambda: 0.5 * (param - 1).square().sum())
    torch.testing.assert_close(param.detach(), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)


@examples(60)
@given(
    hessian=st.lists(st.floats(-100, 100), min_size=1, max_size=6),
    damping=st.floats(1e-3, 1.0),
    square=st.sampled_from([1.0, 2.0, 5.0]),
)
def test_shift_keeps_the_denominator_at_least_damping(hessian, damping, square):
    _, u, _ = one_step([1.0] * len(hessian), hessian, diff=0.5, square=square, damping=damping)
    phi1, phi2 = square * 0.5 ** (square - 1), square * (square - 1) * 0.5 ** (square - 2)
    denominator = phi1 / u
    smallest = min(phi2 + phi1 * h for h in hessian)
    assert denominator.min() == pytest.approx(max(smallest, 0.0) + damping, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_curvature_entry_counts_as_c_0(bad):
    theta, u, c_squared = one_step([1.0, 1.0], [bad, 2.0], diff=0.5, square=1.0, damping=0.1)
    assert c_squared[0] == 0 and u[0] == pytest.approx(1 / 0.1) and np.isfinite(theta).all()
    assert u[1] == pytest.approx(1 / 2.1)


def test_estimator_none_equals_injecting_zeros():
    params = [nn.Parameter(torch.linspace(-1, 2, 7)) for _ in range(2)]
    first, second = (
        DiagHessian([params[0]], lr=1e-3, estimator="none"),
        DiagHessian([params[1]], lr=1e-3, estimator="exact"),
    )
    for _ in range(10):
        first.step(lambda: params[0].pow(4).sum())
        second.step(lambda: params[1].pow(4).sum(), curvature=[torch.zeros(7)])
    assert torch.equal(*params) and not torch.equal(params[0], torch.linspace(-1, 2, 7))


class Rising(Estimator):
    """1, 2, 3, ... from one call to the next."""

    calls = 0.0

    def __call__(self, refresh):
        self.calls += 1
        return [torch.full_like(p, self.calls) for p in refresh.params]

    def cost(self, refresh):
        return 0.0


@pytest.mark.parametrize("period", [1, 3, 7])
def test_curvature_is_held_between_refreshes(period):
    param = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    optimizer = DiagHessian([param], lr=1e-3, estimator=Rising(), update_period=period)
    reference = Reference(param.detach().numpy(), lr=1e-3)
    for step in range(8):
        optimizer.step(lambda: (3 * param).sum())
        reference.step([3.0, 3.0], np.full(2, 1.0 + step // period))
    np.testing.assert_allclose(param.detach().numpy(), reference.theta, rtol=1e-12)


def test_half_precision_counts_its_steps_past_256():
    param = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    optimizer = DiagHessian([param], estimator="none")
    for _ in range(300):
        optimizer.step(lambda: param.sum())
    assert optimizer.state[param]["step"] == 300


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", -1e-3),
        ("lr", math.nan),
        ("lr", torch.tensor(-1.0)),
        ("diff", 0.0),
        ("diff", -0.25),
        ("square", 0.5),
        ("betas", (1.0, 0.999)),
        ("betas", (0.9, -0.1)),
        ("eps", -1e-8),
        ("damping", -1e-3),
        ("update_period", 0),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        DiagHessian([nn.Parameter(torch.ones(1))], **{name: value})

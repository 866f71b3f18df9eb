"""Every rule against a slow, obvious reference: its equations in NumPy and float64, a tensor and a step at a time."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from optimizers import SADH, SSDH, SSVP, AdaHessian, DiagHessian, Sophia, SubsampledNewton
from optimizers.curvature.interface import Estimator

CLOSE = {torch.float32: 1e-6, torch.float64: 1e-12}


def sadh(theta, g, h, s, hp):
    if h is not None:
        s.H = hp["betas"][1] * s.H + (1 - hp["betas"][1]) * np.abs(h)
    return clipped(theta, g, s.H + hp["eps"], s, hp)


def ssdh(theta, g, h, s, hp):
    if h is not None:
        s.H = hp["betas"][1] * s.H + (1 - hp["betas"][1]) * h**2
    return clipped(theta, g, np.sqrt(s.H) + hp["eps"], s, hp)


def sophia(theta, g, h, s, hp):
    if h is not None:
        s.H = hp["betas"][1] * s.H + (1 - hp["betas"][1]) * h
    return clipped(theta, g, np.maximum(s.H, hp["eps"]), s, hp)


def clipped(theta, g, denominator, s, hp):
    s.m = hp["betas"][0] * s.m + (1 - hp["betas"][0]) * g
    ratio = s.m / denominator
    s.clipped = np.sum(np.abs(ratio) > hp["rho"])
    return theta * (1 - hp["lr"] * hp["weight_decay"]) - hp["lr"] * np.clip(ratio, -hp["rho"], hp["rho"])


def adahessian(theta, g, h, s, hp):
    b2 = hp["betas"][1]
    if h is not None:
        s.r, s.v = s.r + 1, b2 * s.v + (1 - b2) * h**2
    return adam(theta, g, s.v / (1 - b2**s.r), s, hp)


def diag_hessian(theta, g, h, s, hp):
    if h is not None:
        s.H = h
    d, p = hp["diff"], hp["square"]
    phi1, phi2 = p * d ** (p - 1), p * (p - 1) * d ** (p - 2)
    c = phi2 * g**2 + phi1 * s.H
    c = np.where(np.isfinite(c), c, 0.0)
    lam = max(0.0, -c.min()) + hp["damping"]
    b2 = hp["betas"][1]
    s.v = b2 * s.v + (1 - b2) * c**2
    return adam(theta, phi1 * g / (c + lam), s.v / (1 - b2 ** (s.t + 1)), s, hp)


def adam(theta, u, unbiased_square, s, hp):
    b1, s.t = hp["betas"][0], s.t + 1
    s.m = b1 * s.m + (1 - b1) * u
    root = np.sqrt(unbiased_square) + hp["eps"]
    return theta * (1 - hp["lr"] * hp["weight_decay"]) - hp["lr"] * (s.m / (1 - b1**s.t)) / root


def newton(theta, g, h, s, hp):
    u = g
    if h is not None:
        u = np.linalg.solve(h + hp["damping"] * np.eye(g.size), g.reshape(-1)).reshape(g.shape)
    return theta * (1 - hp["lr"] * hp["weight_decay"]) - hp["lr"] * u


# Of two parameter groups, chosen so that some entries clip and no parameter comes near zero. lr, lr weight_decay and
# lr rho are powers of two: float32 has them exactly, and does not round 50 steps in a row to the same side.
CLIPPED = [
    {"lr": 2**-5, "betas": (0.9, 0.8), "rho": 2**-2, "eps": 1e-2, "weight_decay": 2**-4},
    {"lr": 2**-6, "betas": (0.5, 0.95), "rho": 2**-1, "eps": 0.1, "weight_decay": 2**-3},
]
ADAM = [
    {"lr": 2**-8, "betas": (0.9, 0.99), "eps": 0.1, "weight_decay": 2**-3},
    {"lr": 2**-6, "betas": (0.5, 0.9), "eps": 0.3, "weight_decay": 2**-5},
]
POWERED = [
    {**ADAM[0], "lr": 2**-7, "diff": 0.3, "square": 5.0, "damping": 0.1},
    {**ADAM[1], "lr": 2**-4, "diff": 0.9, "square": 2.0, "damping": 1.0},
]
NEWTON = [
    {"lr": 2**-6, "damping": 0.5, "sampling_rate": 0.0, "weight_decay": 2**-3},
    {"lr": 2**-4, "damping": 1.5, "sampling_rate": 0.0, "weight_decay": 2**-5},
]
RULES = {
    SADH: (sadh, CLIPPED),
    SSDH: (ssdh, CLIPPED),
    SSVP: (ssdh, CLIPPED),
    Sophia: (sophia, CLIPPED),
    AdaHessian: (adahessian, ADAM),
    DiagHessian: (diag_hessian, POWERED),
    SubsampledNewton: (newton, NEWTON),
}
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
each_dtype = pytest.mark.parametrize("dtype", CLOSE, ids=str)


def draw_curvature(rule, rng, shape):
    """Of both signs and with zeros; for SubsampledNewton positive definite blocks."""
    if rule is SubsampledNewton:
        root = rng.normal(0, 0.5, (int(np.prod(shape)),) * 2)
        return root @ root.T
    return np.asarray(rng.normal(0.7, 1.0, shape) * (rng.random(shape) > 0.2))


class Given(Estimator):
    """The tensors that were prepared for it."""

    prepared = ()

    def __call__(self, refresh):
        return self.prepared

    def cost(self, refresh):
        return 0.0


class Lockstep:
    """A rule and its reference over the same gradients and curvatures, four parameters in two groups.

    The first parameter is not contiguous, the second gets no gradient, the third has no dimension.
    """

    def __init__(self, rule, dtype=torch.float64, **options):
        self.rng = np.random.default_rng(0)
        self.rule, (self.reference, (first, second)) = rule, RULES[rule]
        wide = nn.Parameter(torch.from_numpy(self.rng.uniform(2, 3, (3, 4))).to(dtype).t())
        self.unused = nn.Parameter(torch.ones(2, dtype=dtype))
        scalar = nn.Parameter(torch.tensor(2.5, dtype=dtype))
        vector = nn.Parameter(torch.from_numpy(self.rng.uniform(-3, -2, 5)).to(dtype))
        self.used, self.hp = [wide, scalar, vector], [first, second, second]
        groups = [{"params": [wide, self.unused], **first}, {"params": [scalar, vector], **second}]
        self.optimizer = rule(groups, **options)
        self.starts = [p.detach().double().numpy().copy() for p in self.used]
        self.thetas = list(self.starts)
        self.states = [SimpleNamespace(m=0.0, H=np.zeros_like(t), v=0.0, t=0, r=0) for t in self.thetas]

    def draw(self):
        """A step's gradients and curvatures, in the parameters' dtype."""
        shapes = [tuple(p.shape) for p in self.used]
        grads = [np.asarray(self.rng.normal(0.1, 1.0, shape)) for shape in shapes]
        curvatures = [draw_curvature(self.rule, self.rng, shape) for shape in shapes]
        return [[torch.from_numpy(a).to(self.used[0].dtype) for a in arrays] for arrays in (grads, curvatures)]

    def closure(self, grads):
        return lambda: sum((p * g).sum() for p, g in zip(self.used, grads, strict=True))

    def inject(self, grads, curvatures):
        first, *rest = [None] * 3 if curvatures is None else curvatures
        nothing = None if curvatures is None else torch.zeros(self.rule.curvature_shape(self.unused))
        self.optimizer.step(self.closure(grads), curvature=[first, nothing, *rest])

    def follow(self, grads, curvatures):
        """The reference's step."""
        for i, (g, h) in enumerate(zip(grads, curvatures or [None] * 3, strict=True)):
            h = None if h is None else h.double().numpy()
            self.thetas[i] = self.reference(self.thetas[i], g.double().numpy(), h, self.states[i], self.hp[i])

    def assert_equal(self, rtol):
        for param, start, theta in zip(self.used, self.starts, self.thetas, strict=True):
            assert np.abs(theta - start).max() > 0.005 and np.abs(theta).min() > 0.3
            np.testing.assert_allclose(param.detach().numpy(), theta, rtol=rtol, atol=0)
        assert torch.equal(self.unused, torch.ones_like(self.unused)) and self.unused not in self.optimizer.state


@each_rule
@each_dtype
def test_fifty_steps_with_fresh_curvature_equal_the_reference(rule, dtype):
    pair = Lockstep(rule, dtype)
    assert not pair.used[0].is_contiguous()
    for _ in range(50):
        grads, curvatures = pair.draw()
        pair.inject(grads, curvatures)
        pair.follow(grads, curvatures)
    pair.assert_equal(CLOSE[dtype])


@each_rule
@each_dtype
def test_fifty_steps_with_curvature_at_every_third_equal_the_reference(rule, dtype):
    pair = Lockstep(rule, dtype)
    for step in range(50):
        grads, curvatures = pair.draw()
        curvatures = curvatures if step % 3 == 0 else None
        pair.inject(grads, curvatures)
        pair.follow(grads, curvatures)
    pair.assert_equal(CLOSE[dtype])


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule is not SubsampledNewton], ids=lambda r: r.__name__)
def test_an_estimate_reaches_the_rule_at_every_third_step(rule):
    estimator = Given()
    pair = Lockstep(rule, estimator=estimator, update_period=3)
    for step in range(50):
        grads, curvatures = pair.draw()
        estimator.prepared = curvatures
        pair.optimizer.step(pair.closure(grads))
        pair.follow(grads, curvatures if step % 3 == 0 else None)
    pair.assert_equal(1e-12)


@pytest.mark.parametrize("rule", [SADH, SSDH, SSVP, Sophia])
def test_clipped_fraction_is_a_count_of_entries_and_nan_at_first(rule):
    pair, counts = Lockstep(rule), set()
    assert torch.isnan(pair.optimizer.clipped_fraction)
    for step in range(30):
        grads, curvatures = pair.draw()
        curvatures = curvatures if step % 3 == 0 else None
        pair.inject(grads, curvatures)
        pair.follow(grads, curvatures)
        fraction = pair.optimizer.clipped_fraction
        count = sum(s.clipped for s in pair.states)
        assert isinstance(fraction, torch.Tensor) and fraction.shape == ()
        assert fraction.item() == pytest.approx(count / sum(p.numel() for p in pair.used), rel=1e-6)
        assert pair.optimizer.diagnostics().keys() == {"clipped_fraction"}
        assert torch.equal(pair.optimizer.diagnostics()["clipped_fraction"], fraction)
        counts.add(count)
    assert len(counts) > 3 and max(counts) < 18


BAD = {
    "lr": [-1e-3, float("nan"), torch.tensor(-1.0)],
    "betas": [(1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, -0.1), (0.9,), (float("nan"), 0.9)],
    "rho": [0.0, -1.0, float("nan")],
    "eps": [-1e-8, float("nan")],
    "weight_decay": [-0.1, float("nan")],
    "diff": [0.0, -0.25, float("nan")],
    "square": [0.5, float("nan")],
    "damping": [-1e-3, float("nan")],
    "sampling_rate": [-0.1, 1.1, float("nan")],
    "update_period": [0, -1, 1.5],
}


@pytest.mark.parametrize(
    ("rule", "name", "value"),
    [
        (rule, name, value)
        for rule, (_, (hp, _)) in RULES.items()
        for name in [*hp, *([] if rule is SubsampledNewton else ["update_period"])]
        for value in BAD[name]
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(rule, name, value):
    with pytest.raises(ValueError, match=name):
        rule([nn.Parameter(torch.ones(1))], **{name: value})


@each_rule
def test_the_edges_of_the_ranges_are_accepted(rule):
    edges = {"lr": 0.0, "betas": (0.0, 0.0), "eps": 0.0, "weight_decay": 0.0, "damping": 0.0, "square": 1.0}
    param = nn.Parameter(torch.tensor([2.0, 3.0]))
    optimizer = rule([param], **{k: v for k, v in edges.items() if k in RULES[rule][1][0]})
    optimizer.step(lambda: param.pow(3).sum(), curvature=[torch.ones(rule.curvature_shape(param))])
    assert param.tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        *[
            (r, {"lr": 6e-2, "betas": (0.96, 0.99), "rho": 1e-2, "eps": 1e-12, "weight_decay": 0.0})
            for r in (SADH, SSDH, SSVP, Sophia)
        ],
        (DiagHessian, {"lr": 1e-6, "betas": (0.9, 0.999), "eps": 1e-7, "damping": 1e-3, "diff": 0.25, "square": 9.0}),
        (AdaHessian, {"lr": 0.15, "betas": (0.9, 0.999), "eps": 1e-4, "weight_decay": 0.0}),
    ],
)
def test_defaults_are_the_published_ones(rule, expected):
    optimizer = rule([nn.Parameter(torch.ones(1))])
    assert {name: optimizer.defaults[name] for name in expected} == expected
    assert optimizer.update_period == (10 if "rho" in expected else 1)


def test_sophia_draws_gaussian_probes_as_published():
    """Of a Hessian that is the identity the estimate is v squared: chi-squared with mean 1 and variance 2."""
    torch.manual_seed(0)
    param = nn.Parameter(torch.zeros(20_000))
    optimizer = Sophia([param], betas=(0.0, 0.0))
    optimizer.step(lambda: param.square().sum() / 2)
    hessian = optimizer.state[param]["hessian"]
    assert hessian.mean().item() == pytest.approx(1, abs=4 * (2 / 20_000) ** 0.5)
    assert hessian.var().item() == pytest.approx(2, abs=4 * (56 / 20_000) ** 0.5)

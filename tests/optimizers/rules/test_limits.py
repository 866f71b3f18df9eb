"""First-order limits: where a rule's curvature says nothing, the rule is a well-known optimizer of torch.optim."""

import pytest
import torch
from torch import nn

from optimizers import SADH, SSDH, SSVP, AdaHessian, DiagHessian, HessianLRAdaptation, Sophia, SubsampledNewton

STEPS = 30
SHAPES = [(4, 3), (), (6,)]
DECAY = 0.1
each_clipped = pytest.mark.parametrize("rule", [SADH, SSDH, SSVP, Sophia])
B2 = 0.75
# The average after one refresh from zero is (1 - b2) of its term; for SSDH and SSVP the term is a square.
ONCE = {SADH: 1 - B2, Sophia: 1 - B2, SSDH: (1 - B2) ** 0.5, SSVP: (1 - B2) ** 0.5}


def draw(shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def parameters():
    return [nn.Parameter(draw(shape, i)) for i, shape in enumerate(SHAPES)]


def gradients(step):
    return [draw(shape, 100 * (step + 1) + i) for i, shape in enumerate(SHAPES)]


def linear_loss(params, grads):
    """Its gradient is ``grads``, wherever the parameters are."""
    return lambda: sum((p * g).sum() for p, g in zip(params, grads, strict=True))


def run(make, curvature):
    """Parameters after all steps; ``curvature(step, gradients)`` is injected."""
    params = parameters()
    optimizer = make(params)
    for step in range(STEPS):
        grads = gradients(step)
        optimizer.step(linear_loss(params, grads), curvature=curvature(step, grads))
    return [p.detach() for p in params]


def run_torch(make, lr=lambda step: None, decay=0.0):
    """The same with an optimizer of PyTorch; ``decay`` is taken off before its step, as decoupled decay is."""
    params = parameters()
    optimizer = make(params)
    for step in range(STEPS):
        for param, grad in zip(params, gradients(step), strict=True):
            param.grad = grad
            param.data.mul_(1 - decay)
        optimizer.param_groups[0]["lr"] = lr(step) or optimizer.param_groups[0]["lr"]
        optimizer.step()
    return [p.detach() for p in params]


def assert_close(found, expected, rtol=1e-11):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-13)
    assert all((p - q).abs().max() > 1e-3 for p, q in zip(found, parameters(), strict=True))


@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_adahessian_fed_the_gradient_is_adamw(decay):
    hp = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": decay}
    found = run(lambda params: AdaHessian(params, **hp), lambda step, grads: grads)
    assert_close(found, run_torch(lambda params: torch.optim.AdamW(params, **hp)))
    signs = run(lambda params: AdaHessian(params, **hp), lambda step, grads: [-g for g in grads])
    assert_close(signs, found)


@each_clipped
@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_with_constant_curvature_and_a_bound_out_of_reach_it_is_momentum_sgd(rule, decay):
    c, lr, b1 = 4.0, 0.3, 0.8
    found = run(
        lambda params: rule(params, lr=lr, betas=(b1, 0.0), rho=1e9, eps=0.0, weight_decay=decay),
        lambda step, grads: [torch.full_like(g, c) for g in grads],
    )
    # PyTorch's buffer sums what m averages: m = (1 - b1) buffer.
    sgd = run_torch(lambda params: torch.optim.SGD(params, lr=lr * (1 - b1) / c, momentum=b1), decay=lr * decay)
    assert_close(found, sgd)


@each_clipped
def test_curvature_seen_once_is_a_constant_from_then_on(rule):
    c, lr, b1 = 4.0, 0.3, 0.8
    found = run(
        lambda params: rule(params, lr=lr, betas=(b1, B2), rho=1e9, eps=0.0),
        lambda step, grads: [None if step else torch.full_like(g, c) for g in grads],
    )
    sgd = run_torch(lambda params: torch.optim.SGD(params, lr=lr * (1 - b1) / (ONCE[rule] * c), momentum=b1))
    assert_close(found, sgd)


@each_clipped
def test_a_large_eps_leaves_momentum_sgd_whatever_the_curvature(rule):
    eps, b1 = 1e9, 0.8
    found = run(
        lambda params: rule(params, lr=0.1 * eps, betas=(b1, 0.9), rho=1e9, eps=eps),
        lambda step, grads: [draw(g.shape, step) for g in grads],
    )
    sgd = run_torch(lambda params: torch.optim.SGD(params, lr=0.1 * (1 - b1), momentum=b1))
    assert_close(found, sgd, rtol=1e-6)


class ClippedMomentum(torch.optim.Optimizer):
    """PyTorch's dampened momentum, scaled and clipped to ``bound``."""

    def __init__(self, params, lr, momentum, scale, bound):
        super().__init__(params, {"lr": lr})
        self.momentum, self.scale, self.bound = momentum, scale, bound
        self.copies = [nn.Parameter(torch.zeros_like(p)) for p in self.param_groups[0]["params"]]
        self.sgd = torch.optim.SGD(self.copies, lr=1.0, momentum=momentum, dampening=momentum)
        for copy in self.copies:  # the first buffer is the gradient itself: let it be zero
            copy.grad = torch.zeros_like(copy)
        self.sgd.step()

    def step(self):
        group = self.param_groups[0]
        for param, copy in zip(group["params"], self.copies, strict=True):
            copy.grad, copy.data = param.grad, torch.zeros_like(copy)
        self.sgd.step()
        for param, copy in zip(group["params"], self.copies, strict=True):
            param.data.add_((copy.detach() * self.scale).clip(-self.bound, self.bound), alpha=group["lr"])


@each_clipped
@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_with_constant_curvature_it_is_clipped_momentum_sgd(rule, decay):
    c, lr, b1, rho, eps = 4.0, 0.3, 0.8, 0.05, 0.5
    found = run(
        lambda params: rule(params, lr=lr, betas=(b1, 0.0), rho=rho, eps=eps, weight_decay=decay),
        lambda step, grads: [torch.full_like(g, c) for g in grads],
    )
    scale = 1 / max(c, eps) if rule is Sophia else 1 / (c + eps)
    assert_close(found, run_torch(lambda params: ClippedMomentum(params, lr, b1, scale, rho), decay=lr * decay))


@each_clipped
@pytest.mark.parametrize("b1", [0.0, 0.8])
def test_without_curvature_it_steps_by_the_sign_of_the_momentum(rule, b1):
    lr, rho = 0.3, 0.05
    found = run(
        lambda params: rule(params, lr=lr, betas=(b1, 0.9), rho=rho, eps=1e-12),
        lambda step, grads: [torch.full_like(g, 1e-14) for g in grads],
    )
    expected, momentum = [p.detach() for p in parameters()], [0.0] * len(SHAPES)
    for step in range(STEPS):
        momentum = [b1 * m + (1 - b1) * g for m, g in zip(momentum, gradients(step), strict=True)]
        expected = [p - lr * rho * m.sign() for p, m in zip(expected, momentum, strict=True)]
    assert_close(found, expected)


def test_sophia_steps_by_the_sign_where_the_curvature_is_negative_and_sadh_does_not():
    for rule, step in ((Sophia, 0.05), (SADH, 1.0 / 40)):
        param = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        optimizer = rule([param], lr=1.0, betas=(0.0, 0.0), rho=0.05, eps=0.0)
        optimizer.step(lambda param=param: param[0] - param[1], curvature=[torch.full((2,), -40.0)])
        assert param.tolist() == pytest.approx([-step, step])


@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_diag_hessian_of_power_1_without_curvature_is_momentum_sgd_up_to_bias_correction(decay):
    # phi' = 1 and c = 0: u = g / damping, and the root is eps.
    lr, b1, eps, damping = 1e-5, 0.8, 1e-2, 0.04
    hp = {"diff": 0.7, "square": 1.0, "betas": (b1, 0.99), "eps": eps, "damping": damping, "weight_decay": decay}
    found = run(
        lambda params: DiagHessian(params, lr=lr, **hp, estimator="none"),
        lambda step, grads: None,
    )
    sgd = run_torch(
        lambda params: torch.optim.SGD(params, lr=1.0, momentum=b1),
        lr=lambda step: lr * (1 - b1) / (1 - b1 ** (step + 1)) / (damping * eps),
        decay=lr * decay,
    )
    assert_close(found, sgd)


def test_diag_hessian_of_power_1_with_constant_curvature_is_that_over_its_square():
    c, lr, b1, eps, damping = 4.0, 0.5, 0.8, 1.0, 1.0
    hp = {"square": 1.0, "betas": (b1, 0.99), "eps": eps, "damping": damping}
    found = run(
        lambda params: DiagHessian(params, lr=lr, **hp),
        lambda step, grads: [torch.full_like(g, c) for g in grads],
    )
    sgd = run_torch(
        lambda params: torch.optim.SGD(params, lr=1.0, momentum=b1),
        lr=lambda step: lr * (1 - b1) / (1 - b1 ** (step + 1)) / ((c + damping) * (c + eps)),
    )
    assert_close(found, sgd)


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam])
def test_hessian_lr_adaptation_of_constant_gradients_is_its_base_fed_them_over_eps(base):
    eps = 0.25
    params, others = parameters(), parameters()
    optimizer, other = HessianLRAdaptation(base(params, lr=0.01), eps=eps), base(others, lr=0.01)
    for step in range(5):
        for param, q, grad in zip(params, others, gradients(0), strict=True):
            param.grad, q.grad = grad, grad / (eps if step else 1.0)
        optimizer.step()
        other.step()
        torch.testing.assert_close(params, others, rtol=1e-13, atol=0)
    assert_close([p.detach() for p in params], [p.detach() for p in others])


@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_subsampled_newton_that_draws_nothing_is_sgd(decay):
    lr = 0.02
    found = run(lambda p: SubsampledNewton(p, lr=lr, sampling_rate=0.0, weight_decay=decay), lambda step, grads: None)
    assert_close(found, run_torch(lambda params: torch.optim.SGD(params, lr=lr), decay=lr * decay))


def test_subsampled_newton_that_always_draws_solves_a_quadratic_in_a_step():
    root, target = draw((6, 6), 1), draw((2, 3), 2)
    param = nn.Parameter(draw((3, 2), 3).t())
    optimizer = SubsampledNewton([param], lr=1.0, damping=0.0, sampling_rate=1.0)
    optimizer.step(lambda: (root @ (param - target).reshape(-1)).square().sum())
    torch.testing.assert_close(param.detach(), target, rtol=1e-9, atol=1e-9)

"""The whole diagonal: its mean over all random signs, to rounding, and over draws, against brute force."""

import warnings
from itertools import pairwise
from statistics import NormalDist

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from benchmarks.networks import digits
from optimizers.curvature import hessian, output_hessian
from optimizers.curvature.gauss_newton import GGNMC
from optimizers.curvature.hessian import HessianMC
from tests.support.networks import (
    CLASSES,
    PIECEWISE_LINEAR,
    Keep,
    Once,
    Problem,
    assert_goes_on_to_the_bit,
    draw,
    estimate,
    flat,
    gauss_newton,
    of_both_directions,
    per_sample,
    problem,
)
from tests.support.smooth_networks import ACTIVATIONS, LOSSES, NETWORKS, Of, dense, hessian_diagonal, smooth
from tests.support.thinned import thinned


def mean_over_signs(given, monkeypatch, **options):
    """The estimate is a quadratic form of its signs: its mean is the form's trace, found by one sign at a time."""
    memory = {}
    once = Once(HessianMC(**options), given, given.params, memory=memory)
    place = {"next": 0, "one": -1}

    def signs(like, generator):
        count = sum(t.numel() for t in like)
        drawn = torch.zeros(count, dtype=like[0].dtype)
        if 0 <= place["one"] - place["next"] < count:
            drawn[place["one"] - place["next"]] = 1
        place["next"] += count
        return [part.view(t.shape) for part, t in zip(drawn.split([t.numel() for t in like]), like, strict=True)]

    for module in (hessian, output_hessian):
        monkeypatch.setattr(module, "random_signs", signs)

    def of(one):
        nonlocal once
        if once.refresh.memory.get(hessian.SAID):  # Hutchinson's products leave no graph
            once = Once(HessianMC(**options), given, given.params, memory=memory)
        place.update(next=0, one=one)
        return flat(once())

    constant = of(-1)
    signs_drawn = place["next"]
    return constant + sum(of(one) - constant for one in range(signs_drawn)), once


@pytest.mark.parametrize("name", [*NETWORKS, *ACTIVATIONS])
def test_the_mean_over_all_signs_is_the_hessians_diagonal(name, monkeypatch):
    given = smooth(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*knows no layer")
        found, once = mean_over_signs(given, monkeypatch)
    expected = hessian_diagonal(given)
    assert not once.refresh.record.lost
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12 * expected.abs().max().item())


@pytest.mark.parametrize("loss", LOSSES)
def test_of_other_losses_too(loss, monkeypatch):
    given = smooth("2 hidden, tanh", LOSSES[loss])
    found, _ = mean_over_signs(given, monkeypatch)
    torch.testing.assert_close(found, hessian_diagonal(given), rtol=1e-8, atol=1e-12)


def steps_of(params, closure, count):
    """Curvatures of an optimizer's steps."""
    optimizer, found = Keep(params, "hessian_mc"), []
    for _ in range(count):
        optimizer.step(closure)
        found.append(flat(optimizer.curvatures))
    return torch.stack(found)


def draws_of(given, count, **options):
    once = Once(HessianMC(**options), given, given.params)
    return torch.stack([flat(once()) for _ in range(count)]), once


TWELVE = [
    *("1 hidden, tanh", "2 hidden, tanh", "3 hidden, tanh", "5 hidden, tanh", "gelu", "silu", "softplus", "mixed"),
    *("convolution", "residual", "embedding", "encoder", "gated", "layer norm"),
]


@pytest.mark.parametrize("name", thinned(TWELVE, 7))
@pytest.mark.filterwarnings("ignore:.*knows no layer")
def test_the_mean_of_2000_draws_is_the_hessians_diagonal(name):
    given, count = smooth(name), 2000
    found, _ = draws_of(given, count)
    check_mean(found, hessian_diagonal(given))


@pytest.mark.parametrize("loss", thinned(LOSSES, 4))
def test_the_mean_of_2000_draws_is_so_for_other_losses(loss):
    given = smooth("3 hidden, tanh", LOSSES[loss])
    check_mean(draws_of(given, 2000)[0], hessian_diagonal(given))


def check_mean(found, expected):
    """The largest |z| within Bonferroni's bound at 1e-4 in all, and the mean of z^2 near 1."""
    error, spread = found.mean(0) - expected, found.std(0) / len(found) ** 0.5
    random = spread > 1e-9 * expected.abs().max()
    torch.testing.assert_close(error[~random], torch.zeros_like(error[~random]), rtol=0, atol=1e-8)
    z = error[random] / spread[random]
    assert z.abs().max() < -NormalDist().inv_cdf(1e-4 / 2 / len(z))
    assert 0.4 < z.square().mean() < (2.2 if len(z) > 30 else 5)  # entries depend on each other


@pytest.mark.parametrize("name", PIECEWISE_LINEAR)
@pytest.mark.parametrize("draws", ["signs", "labels"])
def test_on_a_piecewise_linear_network_it_is_ggn_mc(name, draws):
    given = problem(name)
    for samples in (1, 3):
        options = {"draws": draws, "samples": samples}
        once = Once(HessianMC(**options), given, given.params)
        torch.testing.assert_close(once(), estimate(GGNMC(**options), given))
        assert once.estimator.cost(once.refresh) == GGNMC(**options).cost(once.refresh)


@pytest.mark.parametrize(("hidden", "worst"), [((32,), 0.3), ((16, 16), 0.5)])
def test_four_samples_come_near_the_diagonal_of_a_network_of_digits(hidden, worst):
    torch.manual_seed(0)
    images, classes = digits()
    sizes = (64, *hidden, 10)
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh())]
    given = Problem(nn.Sequential(*layers[:-1]).double(), images[:32].flatten(1).double(),
                    lambda o: F.cross_entropy(o, classes[:32]))  # fmt: skip
    expected = hessian_diagonal(given)
    found, _ = draws_of(given, 30, samples=4)
    assert ((found - expected).norm(dim=1) / expected.norm()).mean() < worst
    of_ggn = flat(gauss_newton(given))
    assert (of_ggn - expected).norm() / expected.norm() > 0.2  # what Gauss-Newton cannot see


class Tied(nn.Module):
    """An embedding whose weights are the head's, too."""

    def __init__(self):
        super().__init__()
        self.words, self.middle = nn.Embedding(5, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.middle(self.words(x)).tanh().mean(1) @ self.words.weight.T


class Cell(nn.Module):
    """Some steps of a recurrent network."""

    def __init__(self, cell):
        super().__init__()
        self.cell, self.out = cell, nn.Linear(4, CLASSES)

    def forward(self, x):
        h = torch.zeros_like(x)
        for shift in range(2):
            h = self.cell(x.roll(shift, 1), h)
        return self.out(h)


def scaled_to_one(net, x):
    h = net.l0(x)
    return net.out(net.l1(h / h.norm(dim=1, keepdim=True)).tanh())


def two_convolutions(net, x):
    return net.out(net.conv(net.conv(x[:, None, None]).tanh()).tanh().flatten(1))


MORE_THAN_ONCE = {
    "tied": Tied,
    "used twice": lambda: Of(lambda net, x: net.out(net.l0(net.l0(x).tanh()).tanh()), **dense(1)),
    "a recurrent cell": lambda: Cell(nn.GRUCell(4, 4)),
}
LOST = {
    "a norm": (lambda: Of(scaled_to_one, **dense(2)), {"l0.weight", "l0.bias"}),
    "a convolution used twice": (
        lambda: Of(two_convolutions, conv=nn.Conv2d(1, 1, (1, 1), bias=False), out=nn.Linear(4, CLASSES)),
        {"conv.weight"},
    ),
}


def of_classes(make):
    torch.manual_seed(1)
    model = make().double()
    x = torch.tensor([[0, 1, 1], [2, 3, 0], [4, 4, 4]]) if isinstance(model, Tied) else draw(3, 4)
    return Problem(model, x, lambda o: F.cross_entropy(o, torch.arange(3)))


def with_lost(name):
    return of_classes(LOST[name][0])


@pytest.mark.parametrize("name", MORE_THAN_ONCE)
@pytest.mark.filterwarnings("ignore:.*knows no layer")
def test_parameters_may_be_used_more_than_once(name, monkeypatch):
    given = of_classes(MORE_THAN_ONCE[name])
    found, once = mean_over_signs(given, monkeypatch)
    assert not once.refresh.record.lost
    torch.testing.assert_close(found, hessian_diagonal(given), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", LOST)
@pytest.mark.filterwarnings("ignore:.*knows no layer")
def test_what_is_not_known_is_hutchinsons_and_said_and_the_rest_is_as_ever(name, monkeypatch):
    given = with_lost(name)
    with pytest.warns(UserWarning, match="does not know .*hutchinson's estimate is used for") as said:
        found, once = mean_over_signs(given, monkeypatch)
    assert sum("does not know" in str(each.message) for each in said) == 1
    expected, start = hessian_diagonal(given), 0
    for i, (each, param) in enumerate(given.model.named_parameters()):
        part = slice(start, start + param.numel())
        start += param.numel()
        is_lost = bool(once.refresh.record.lost >> i & 1)
        assert is_lost == (each in LOST[name][1])
        if not is_lost:
            torch.testing.assert_close(found[part], expected[part], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", LOST)
@pytest.mark.filterwarnings("ignore:HessianMC")
def test_hutchinsons_part_is_unbiased_too(name):
    given = with_lost(name)
    check_mean(steps_of(given.params, given, 600), hessian_diagonal(given))


@pytest.mark.filterwarnings("ignore:HessianMC")
def test_what_the_loss_has_beside_the_outputs_is_not_lost():
    given = smooth("1 hidden, tanh")
    penalised = given.params[:2]

    def closure():
        loss, outputs = given()
        return loss + sum(p.pow(4).sum() for p in penalised), outputs

    found = steps_of(given.params, closure, 400)
    expected = hessian_diagonal(given) + flat([12 * p**2 for p in penalised] + [0 * p for p in given.params[2:]])
    check_mean(found, expected)


@pytest.mark.parametrize("estimator", ["hessian_mc", "hesscale", {"name": "ggn_mc", "residual": "carried"}])
@pytest.mark.parametrize("name", ["mixed", "convolution", "layer norm"])
def test_gradients_are_to_the_bit_those_without_curvature(name, estimator):
    given = smooth(name)
    given.model.float()
    given.x = given.x.float()
    optimizer = Keep(given.params, estimator)
    optimizer.step(given)
    found = [p.grad for p in given.params]
    assert all(grad.grad_fn is None for grad in found)
    for param in given.params:
        param.grad = None
    given()[0].backward()
    assert all(torch.equal(grad, param.grad) for grad, param in zip(found, given.params, strict=True))


@pytest.mark.parametrize("estimator", ["hessian_mc", "hesscale", {"name": "ggn_exact", "residual": "carried"}])
def test_maximising_the_negated_loss_is_minimising_the_loss(estimator):
    torch.testing.assert_close(*of_both_directions(smooth("3 hidden, tanh"), estimator))


@pytest.mark.parametrize("estimator", ["hessian_mc", "hesscale"])
def test_a_resumed_optimizer_goes_on_to_the_bit(estimator):
    def start():
        given = smooth("gated")
        return given, Keep(given.params, estimator, lr=0.1, update_period=2)

    assert_goes_on_to_the_bit(start, 4)


def test_it_listens_to_the_gradients_own_backward_pass_and_needs_no_other():
    """Unless nobody lets it: then the pass is gone through once more, to the same estimate."""
    given = smooth("3 hidden, tanh")
    once = Once(HessianMC(), given, given.params)
    again = Once(HessianMC(), given, given.params)
    again.refresh.record.operations = None
    torch.testing.assert_close(once(), again())


def test_a_function_of_each_entry_may_be_anybodys_own():
    class Cubed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * 3 * x**2

    torch.manual_seed(0)
    model = Of(lambda net, x: net.out(Cubed.apply(net.l1(Cubed.apply(net.l0(x))))), **dense(2)).double()
    given = Problem(model, draw(3, 4), per_sample)
    check_mean(draws_of(given, 300)[0], hessian_diagonal(given))


@pytest.mark.filterwarnings("ignore:.*knows no layer")
def test_powers_of_a_network_are_each_their_own(monkeypatch):
    """To the power of nothing a function has no slope, which says nothing of the next power."""
    torch.manual_seed(0)
    model = Of(lambda net, x: net.out(net.l1(net.l0(x) ** 2 + net.l0(x) ** 0) ** 3), **dense(2)).double()
    given = Problem(model, draw(3, 4), per_sample)
    found, _ = mean_over_signs(given, monkeypatch)
    torch.testing.assert_close(found, hessian_diagonal(given), rtol=1e-8, atol=1e-12)

"""Diagonals that are carried back, against the recursion written out for a perceptron, and where they are exact."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from optimizers.curvature.gauss_newton import GGNMC, GGNExact
from optimizers.curvature.hessian import HesScale
from tests.support.networks import PIECEWISE_LINEAR, Problem, draw, estimate, flat, gauss_newton, per_sample, problem
from tests.support.smooth_networks import ACTIVATIONS, NETWORKS, hessian_diagonal, smooth, stacked

OF_SEVERAL_OPERATIONS = {"tanhshrink", "softsign", "written out", "erf"}
"""What goes two ways through them has a product that is lost."""


def hesscale_of_perceptron(given, activation, start):
    """Per layer, from the outputs: h_z, then h_a = h_z W^2 and h_z = h_a phi'^2 + g_a phi''."""
    linears = [m for m in given.model if isinstance(m, nn.Linear)]
    a, inputs, zs = given.x, [], []
    for i, linear in enumerate(linears):
        inputs.append(a)
        zs.append(linear(a))
        a = activation(zs[-1]) if i < len(linears) - 1 else zs[-1]
    grads = torch.autograd.grad(given.loss(a), zs, retain_graph=True)
    h, found = start(a.detach()), []
    for i in reversed(range(len(linears))):
        found = [h.T @ inputs[i].detach().square(), h.sum(0), *found]
        if i:
            z = zs[i - 1].detach()
            first = torch.func.vmap(torch.func.grad(lambda x: activation(x)))(z.flatten()).view_as(z)
            second = torch.func.vmap(torch.func.grad(torch.func.grad(lambda x: activation(x))))(z.flatten()).view_as(z)
            (g,) = torch.autograd.grad(zs[i], [inputs[i]], grads[i], retain_graph=True)
            h = (h @ linears[i].weight.detach().square()) * first.square() + g * second
    return flat(found)


def softmax_diagonal(outputs):
    p = outputs.softmax(1)
    return (p - p.square()) / len(p)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("activation", [torch.tanh, F.softplus, F.silu])
def test_hesscale_is_the_recursion(depth, activation):
    torch.manual_seed(0)
    layer = {torch.tanh: nn.Tanh, F.softplus: nn.Softplus, F.silu: nn.SiLU}[activation]
    given = Problem(stacked(layer, depth).double(), draw(5, 4), per_sample)
    found = flat(estimate(HesScale(), given))
    torch.testing.assert_close(found, hesscale_of_perceptron(given, activation, softmax_diagonal))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_carried_residual_is_the_same_recursion_from_zero(depth):
    torch.manual_seed(0)
    given = Problem(stacked(nn.Tanh, depth).double(), draw(5, 4), per_sample)
    residual = flat(estimate(GGNExact(residual="carried"), given)) - flat(estimate(GGNExact(), given))
    torch.testing.assert_close(residual, hesscale_of_perceptron(given, torch.tanh, torch.zeros_like))


@pytest.mark.parametrize(
    "name", ["1 hidden, tanh", "2 hidden, tanh", *sorted(ACTIVATIONS.keys() - OF_SEVERAL_OPERATIONS)]
)
def test_to_two_hidden_layers_ggn_exact_with_the_carried_residual_is_the_hessian(name):
    given = smooth(name)
    found = flat(estimate(GGNExact(residual="carried"), given))
    torch.testing.assert_close(found, hessian_diagonal(given), rtol=1e-8, atol=1e-12)


def test_ggn_mc_with_the_carried_residual_has_the_same_residual():
    given = smooth("3 hidden, tanh")
    both = [flat(estimate(GGNMC(residual=residual), given)) for residual in ("carried", "none")]
    exact = [flat(estimate(GGNExact(residual=residual), given)) for residual in ("carried", "none")]
    torch.testing.assert_close(both[0] - both[1], exact[0] - exact[1])


@pytest.mark.parametrize("name", PIECEWISE_LINEAR)
def test_nothing_is_carried_where_a_network_is_piecewise_linear(name):
    given = problem(name)
    torch.testing.assert_close(estimate(GGNExact(residual="carried"), given), gauss_newton(given))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:.*knows no layer")
def test_every_network_is_carried_through(name):
    given = smooth(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*carries nothing")
        found = flat(estimate(HesScale(), given))
    expected = hessian_diagonal(given)
    assert (found - expected).norm() < 2 * expected.norm()
    last = given.params[-1].numel()  # the last layer's bias
    torch.testing.assert_close(found[-last:], expected[-last:], rtol=1e-8, atol=1e-12)

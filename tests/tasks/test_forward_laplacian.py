"""Values and Laplacians carried forward, against nested differentiation and NumPy."""

import numpy as np
import pytest
import torch
from torch.func import functional_call, jacrev, vmap

from tasks.forward_laplacian import TanhJets, coordinates, tanh, with_one


@pytest.mark.parametrize("widths", [(2, 7, 5, 1), (1, 4, 1), (3, 6, 6, 6, 1)])
def test_the_laplacian_is_the_trace_of_the_hessian_by_the_inputs(widths):
    torch.manual_seed(3)
    model = TanhJets(*widths).double()
    with torch.no_grad():
        for param in model.parameters():
            param.normal_()  # biases, too
    places = torch.randn(20, widths[0], dtype=torch.float64)

    def value(place):
        return model(place[None])[0, 0]

    outputs = model(places)
    assert outputs.shape == (20, 2)
    torch.testing.assert_close(outputs[:, 1], vmap(jacrev(jacrev(value)))(places).diagonal(dim1=1, dim2=2).sum(1))


def test_slopes_are_those_of_jacrev():
    places = torch.randn(5, 3, dtype=torch.float64)
    jets = tanh(coordinates(places))
    torch.testing.assert_close(jets[:, 1:-1], vmap(jacrev(torch.tanh))(places).transpose(1, 2))


def test_the_value_is_the_perceptrons_whose_biases_are_the_last_columns():
    model = TanhJets(2, 4, 3, 1)
    places = torch.rand(6, 2)
    w1, w2, w3 = (p.detach().numpy() for p in model.parameters())
    assert not any(w[:, -1].any() for w in (w1, w2, w3))
    values = np.tanh(np.tanh(places.numpy() @ w1[:, :-1].T + w1[:, -1]) @ w2[:, :-1].T + w2[:, -1])
    np.testing.assert_allclose(model(places)[:, 0].detach(), values @ w3[0, :-1] + w3[0, -1], rtol=1e-5, atol=1e-6)


def test_the_constant_one_has_no_slope():
    one = with_one(torch.zeros(2, 4, 3))[:, :, -1]
    np.testing.assert_array_equal(one, [[1, 0, 0, 0]] * 2)


def test_weights_gradients_are_those_of_nested_differentiation():
    torch.manual_seed(0)
    model = TanhJets(2, 5, 1).double()
    places = torch.randn(8, 2, dtype=torch.float64)
    params = dict(model.named_parameters())

    def nested(params):
        laplacians = vmap(jacrev(jacrev(lambda place: functional_call(model, params, (place[None],))[0, 0])))(places)
        return laplacians.diagonal(dim1=1, dim2=2).sum(1).square().mean()

    expected = torch.func.grad(nested)(params)
    model(places)[:, 1].square().mean().backward()
    for name, param in params.items():
        torch.testing.assert_close(param.grad, expected[name])

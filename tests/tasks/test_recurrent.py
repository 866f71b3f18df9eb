"""The GRU of plain products against PyTorch's own."""

import pytest
import torch
from torch import nn

from tasks.recurrent import GRU

NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def pair(inputs, hidden, directions):
    """Ours and PyTorch's with the same weights, in double precision."""
    torch.manual_seed(0)
    ours = GRU(inputs, hidden, directions).double()
    theirs = nn.GRU(inputs, hidden, batch_first=True, bidirectional=directions == 2).double()
    for suffix, given, state in zip(("", "_reverse"), ours.from_input, ours.from_state, strict=False):
        for name, param in zip(NAMES, (given.weight, state.weight, given.bias, state.bias), strict=True):
            getattr(theirs, name + suffix).data = param.data.clone()
    return ours, theirs


@pytest.mark.parametrize(("inputs", "hidden", "directions"), [(1, 6, 2), (3, 5, 1), (2, 1, 2)])
def test_states_and_gradients_are_those_of_pytorchs(inputs, hidden, directions):
    ours, theirs = pair(inputs, hidden, directions)
    sequences = torch.randn(4, 7, inputs, dtype=torch.float64)
    mine, expected = ours(sequences), theirs(sequences)[0]
    assert mine.shape == (4, 7, directions * hidden)
    torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)
    for outputs in (mine, expected):
        outputs.square().sum().backward()
    theirs_by_name = dict(theirs.named_parameters())
    for suffix, given, state in zip(("", "_reverse"), ours.from_input, ours.from_state, strict=False):
        for name, param in zip(NAMES, (given.weight, state.weight, given.bias, state.bias), strict=True):
            torch.testing.assert_close(param.grad, theirs_by_name[name + suffix].grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("directions", [1, 2])
def test_parameters_are_as_many_and_as_small_as_pytorchs(directions):
    ours, theirs = pair(3, 16, directions)
    count = sum(param.numel() for param in ours.parameters())
    assert count == sum(param.numel() for param in theirs.parameters()) == directions * 3 * 16 * (3 + 16 + 2)
    largest = max(param.abs().max() for param in ours.parameters())
    assert 0.99 / 4 < largest <= 1 / 4


def test_it_can_be_differentiated_twice():
    ours, _ = pair(2, 3, 2)
    sequences = torch.randn(2, 4, 2, dtype=torch.float64)
    params = list(ours.parameters())
    loss = ours(sequences).square().sum()
    gradients = torch.autograd.grad(loss, params, create_graph=True)
    direction = [torch.randn_like(param) for param in params]
    along = sum((gradient * way).sum() for gradient, way in zip(gradients, direction, strict=True))
    products = torch.autograd.grad(along, params)
    step = 1e-5
    moved = []
    for sign in (1, -1):
        with torch.no_grad():
            for param, way in zip(params, direction, strict=True):
                param.add_(way, alpha=sign * step)
        moved.append(torch.autograd.grad(ours(sequences).square().sum(), params))
        with torch.no_grad():
            for param, way in zip(params, direction, strict=True):
                param.sub_(way, alpha=sign * step)
    for product, ahead, behind in zip(products, *moved, strict=True):
        torch.testing.assert_close(product, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-7)

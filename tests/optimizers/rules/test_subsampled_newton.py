"""SubsampledNewton: its Newton steps against linear algebra, its draws against the binomial distribution."""

import io
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from optimizers import SubsampledNewton


def draw(shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("transposed", [False, True])
def test_a_linear_model_with_summed_squares_is_solved_in_one_step(transposed):
    X, Y = draw((20, 4), 1), draw((20, 3), 2)
    W = nn.Parameter(draw((3, 4), 3).t().contiguous().t() if transposed else draw((3, 4), 3))
    assert W.is_contiguous() != transposed
    optimizer = SubsampledNewton([W], lr=1.0, damping=0.0, sampling_rate=1.0)
    optimizer.step(lambda: (X @ W.T - Y).square().sum())
    solution = np.linalg.lstsq(X.numpy(), Y.numpy(), rcond=None)[0].T
    np.testing.assert_allclose(W.detach().numpy(), solution, rtol=1e-10)


def test_each_tensor_is_solved_with_its_own_block_at_the_same_point():
    # f = x^2 + x y + y^2 at (3, -1): g = (5, 1); both own blocks are 2.
    x, y = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (3.0, -1.0))
    SubsampledNewton([x, y], lr=1.0, damping=0.0, sampling_rate=1.0).step(lambda: x.square() + x * y + y.square())
    assert (x.item(), y.item()) == pytest.approx((0.5, -1.5))


def test_damping_lr_and_weight_decay_by_hand():
    # f = 3 x^2 at 2: g = 12, H + damping = 8, u = 1.5; decay takes 2 to 2 (1 - 0.5 * 0.1).
    x = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    SubsampledNewton([x], lr=0.5, damping=2.0, sampling_rate=1.0, weight_decay=0.1).step(lambda: 3 * x.square())
    assert x.item() == pytest.approx(1.9 - 0.75)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3)])
@pytest.mark.parametrize("kind", ["definite", "negative", "indefinite", "not symmetric"])
def test_injected_blocks_are_solved_as_numpy_does(shape, kind):
    n = math.prod(shape)
    root, param, grad = draw((n, n), 1), nn.Parameter(draw(shape, 2)), draw(shape, 3)
    signs = torch.diag(torch.tensor([-1.0, 1.0, 1.0, -1.0, 1.0, 1.0][:n], dtype=torch.float64))
    block = {"definite": root @ root.T, "negative": -root @ root.T - torch.eye(n), "indefinite": root @ signs @ root.T}
    block = block.get(kind, root)
    before = param.detach().numpy().copy()
    optimizer = SubsampledNewton([param], lr=0.3, damping=0.1, sampling_rate=0.0)
    optimizer.step(lambda: (param * grad).sum(), curvature=[block])
    step = np.linalg.solve(block.numpy() + 0.1 * np.eye(n), grad.numpy().reshape(-1)).reshape(shape)
    np.testing.assert_allclose(param.detach().numpy(), before - 0.3 * step, rtol=1e-10)


@pytest.mark.parametrize(
    "block",
    [[[0.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [2.0, 4.0]], [[math.nan, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [0.0, 5.0]]],
)
def test_a_singular_block_takes_the_gradient_step(block):
    param, grad = nn.Parameter(torch.zeros(2)), torch.tensor([3.0, -4.0])
    damping = 1.0 if block[0][0] == -1.0 else 0.0
    optimizer = SubsampledNewton([param], lr=0.5, damping=damping, sampling_rate=0.0)
    optimizer.step(lambda: (param * grad).sum(), curvature=[torch.tensor(block)])
    assert param.tolist() == [-1.5, 2.0]


def test_a_loss_without_curvature_takes_the_gradient_step():
    param = nn.Parameter(torch.ones(2))
    SubsampledNewton([param], lr=0.5, damping=0.0, sampling_rate=1.0).step(lambda: param.sum())
    assert param.tolist() == [0.5, 0.5]


def test_a_block_beside_a_singular_one_is_still_solved():
    params = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    optimizer = SubsampledNewton(params, lr=1.0, damping=0.0)
    optimizer.step(lambda: 8 * (params[0] + params[1]).sum(), curvature=[torch.zeros(1, 1), torch.full((1, 1), 4.0)])
    assert [p.item() for p in params] == [-8.0, -2.0]


def test_rows_beyond_one_batched_backward_pass_are_in_the_block():
    root, target = draw((150, 150), 1) + 20 * torch.eye(150), draw((150,), 2)
    param = nn.Parameter(torch.zeros(150, dtype=torch.float64))
    optimizer = SubsampledNewton([param], lr=1.0, damping=0.0, sampling_rate=1.0)
    optimizer.step(lambda: (root @ (param - target)).square().sum())
    np.testing.assert_allclose(param.detach().numpy(), target.numpy(), rtol=1e-8, atol=1e-8)


class Square(torch.autograd.Function):
    """x^2; notes at each backward pass whether that is itself recorded for differentiation."""

    @staticmethod
    def forward(ctx, x, log):
        ctx.save_for_backward(x)
        ctx.log = log
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        ctx.log.append(torch.is_grad_enabled())
        return 2 * ctx.saved_tensors[0] * grad, None


def drawn(rates, steps, seed=0):
    """Of each parameter and step, whether it took the Newton step, which is half of the gradient step here."""
    torch.manual_seed(seed)
    params = [nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in rates]
    groups = [{"params": [p], "sampling_rate": rate} for p, rate in zip(params, rates, strict=True)]
    optimizer = SubsampledNewton(groups, lr=1.0, damping=0.0)
    taken = []
    for _ in range(steps):
        before = [p.item() for p in params]
        optimizer.step(lambda before=before: sum((p - b + 1).square() for p, b in zip(params, before, strict=True)))
        moves = [b - p.item() for p, b in zip(params, before, strict=True)]
        assert all(round(move, 9) in (1.0, 2.0) for move in moves)
        taken.append([round(move, 9) == 1.0 for move in moves])
    return np.array(taken)


def test_tensors_are_drawn_at_their_groups_rates_and_independently():
    n, rates = 600, np.array([0.0, 0.1, 0.5, 0.5, 1.0])
    taken = drawn(rates, n)
    assert (np.abs(taken.mean(axis=0) - rates) <= 4 * np.sqrt(rates * (1 - rates) / n)).all()
    both = (taken[:, 2] & taken[:, 3]).mean()
    assert abs(both - 0.25) < 4 * math.sqrt(0.25 * 0.75 / n)
    again = (taken[1:, 2] & taken[:-1, 2]).mean()
    assert abs(again - 0.25) < 4 * math.sqrt(0.25 * 0.75 / n) * 1.5  # neighbouring pairs share draws


def test_draws_follow_the_global_seed_and_leave_the_random_streams_as_they_were():
    rates = [0.5] * 4
    random.seed(0)
    state = random.getstate()
    first = drawn(rates, 20, seed=1)
    after = torch.get_rng_state()
    assert random.getstate() == state
    assert np.array_equal(first, drawn(rates, 20, seed=1)) and not np.array_equal(first, drawn(rates, 20, seed=2))
    torch.manual_seed(1)
    assert torch.equal(after, torch.get_rng_state())


def test_a_step_that_draws_nothing_records_no_graph_and_costs_a_gradient():
    torch.manual_seed(0)
    param, log = nn.Parameter(torch.ones(3)), []
    optimizer = SubsampledNewton([param], lr=0.1, damping=1.0, sampling_rate=0.3)
    recorded, costs = [], []
    for _ in range(40):
        log.clear()
        cost = optimizer.grad_equivalents
        optimizer.step(lambda: Square.apply(param, log).sum())
        recorded.append(log[0])
        costs.append(optimizer.grad_equivalents - cost)
        assert param.grad.grad_fn is None
        if not recorded[-1]:
            assert len(log) == 1
    assert 4 <= sum(recorded) <= 22
    # Three Hessian-vector products of two gradients each.
    assert costs == [1 + 3 * 2 if r else 1 for r in recorded]


def test_only_the_tensors_drawn_pay_for_a_block():
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(50))
    groups = [{"params": [first], "sampling_rate": 1.0}, {"params": [second]}]
    optimizer = SubsampledNewton(groups, lr=0.1, sampling_rate=0.0)
    optimizer.step(lambda: first.square().sum() + second.square().sum())
    assert optimizer.grad_equivalents == 1 + 3 * 2


def test_a_clone_from_a_saved_state_dict_draws_the_same():
    def train(optimizer, param, steps):
        path = []
        for _ in range(steps):
            optimizer.step(lambda: param.pow(4).sum())
            path.append(param.tolist())
        return path

    torch.manual_seed(5)
    param = nn.Parameter(torch.linspace(1, 2, 4))
    optimizer = SubsampledNewton([param], lr=0.01, sampling_rate=0.5)
    train(optimizer, param, 9)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    torch.manual_seed(6)
    clone = nn.Parameter(param.detach().clone())
    other = SubsampledNewton([clone], lr=1.0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert train(optimizer, param, 20) == train(other, clone, 20)
    assert optimizer.grad_equivalents == other.grad_equivalents


def test_frozen_and_unused_parameters_are_left_alone():
    used, unused, frozen = (nn.Parameter(torch.ones(2)) for _ in range(3))
    frozen.requires_grad_(False)
    optimizer = SubsampledNewton([frozen, unused, used], lr=1.0, damping=0.0, sampling_rate=1.0)
    optimizer.step(lambda: (used * frozen).square().sum())
    assert [p.tolist() for p in (frozen, unused, used)] == [[1, 1], [1, 1], [0, 0]]


def test_maximize_solves_for_the_maximum():
    param = nn.Parameter(torch.tensor([3.0, -1.0]))
    optimizer = SubsampledNewton([param], lr=1.0, damping=0.0, sampling_rate=1.0, maximize=True)
    optimizer.step(lambda: -(param - 2).square().sum())
    assert param.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("shape", [(3,), (9,), (3, 2)])
def test_an_injected_block_of_wrong_shape_is_refused(shape):
    param = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"expected \[\(3, 3\)\]"):
        SubsampledNewton([param]).step(lambda: param.sum(), curvature=[torch.ones(shape)])

"""HessianLRAdaptation against its equation in NumPy, over bases of torch.optim, and PyTorch's conventions."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from optimizers import HessianLRAdaptation, Sophia, adapt_learning_rate

CLOSE = {torch.float32: 1e-6, torch.float64: 1e-12}


class Sgd:
    """theta -= lr g."""

    def __init__(self, lr):
        self.lr = lr

    def step(self, theta, g):
        return theta - self.lr * g


class Adam:
    """With PyTorch's defaults, one tensor at a time."""

    def __init__(self, lr):
        self.lr, self.m, self.v, self.t = lr, 0.0, 0.0, 0

    def step(self, theta, g):
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g**2
        root = np.sqrt(self.v / (1 - 0.999**self.t)) + 1e-8
        return theta - self.lr * self.m / (1 - 0.9**self.t) / root


class Adapted:
    """The equation in float64, before a base's step."""

    def __init__(self, base, beta, eps):
        self.base, self.beta, self.eps = base, beta, eps
        self.previous, self.e = None, 0.0

    def step(self, theta, g):
        if self.previous is None:
            scaled = g
        else:
            self.e = self.beta * self.e + (1 - self.beta) * (g - self.previous) ** 2
            scaled = g / (np.sqrt(self.e) + self.eps)
        self.previous = g
        return self.base.step(theta, scaled)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize(("base", "reference"), [(torch.optim.SGD, Sgd), (torch.optim.Adam, Adam)])
@pytest.mark.parametrize("foreach", [False, True], ids=["loop", "foreach"])
def test_fifty_steps_equal_the_reference(base, reference, dtype, foreach):
    rng = np.random.default_rng(0)
    wide = nn.Parameter(torch.from_numpy(rng.uniform(2, 3, (3, 4))).to(dtype).t())
    scalar = nn.Parameter(torch.tensor(-2.5, dtype=dtype))
    unused = nn.Parameter(torch.ones(2, dtype=dtype))
    params, lrs = [wide, scalar], [2**-9, 2**-7]
    groups = [{"params": [wide, unused], "lr": lrs[0]}, {"params": [scalar], "lr": lrs[1]}]
    optimizer = HessianLRAdaptation(base(groups, foreach=foreach), beta=0.8, eps=0.1)
    thetas = [p.detach().double().numpy().copy() for p in params]
    starts = list(thetas)
    references = [Adapted(reference(lr), 0.8, 0.1) for lr in lrs]
    for step in range(50):
        for i, param in enumerate(params):
            if step % 7 == 3 and i == 1:  # a step without gradient changes nothing, and is no previous one
                param.grad = None
                continue
            param.grad = torch.from_numpy(np.asarray(rng.normal(0.3, 1.0, param.shape))).to(dtype)
            thetas[i] = references[i].step(thetas[i], param.grad.double().numpy())
        optimizer.step()
    for param, theta, start in zip(params, thetas, starts, strict=True):
        assert np.abs(theta - start).max() > 0.02 and np.abs(theta).min() > 0.5
        np.testing.assert_allclose(param.detach().numpy(), theta, rtol=CLOSE[dtype], atol=0)
    assert unused.tolist() == [1, 1] and unused not in optimizer.state


def test_two_steps_by_hand():
    # g = 3, then 5: e = 0.25 * 4 = 1, so that the base sees 5 / (1 + 1).
    param = nn.Parameter(torch.tensor(0.0))
    optimizer = HessianLRAdaptation(torch.optim.SGD([param], lr=1.0), beta=0.75, eps=1.0)
    moves = []
    for grad in (3.0, 5.0):
        before, param.grad = param.item(), torch.tensor(grad)
        optimizer.step()
        moves.append(before - param.item())
    assert moves == [3.0, 2.5]


@pytest.mark.parametrize("fails", [False, True])
def test_grad_is_left_as_it_was_even_by_a_base_that_fails(fails):
    param = nn.Parameter(torch.ones(3))
    optimizer = HessianLRAdaptation(torch.optim.SGD([param], lr=0.1))
    for step in range(3):
        grad = param.grad = torch.full((3,), 1.0 + step)
        if step == 2 and fails:
            optimizer.base_optimizer.step = lambda: 1 / 0
            with pytest.raises(ZeroDivisionError):
                optimizer.step()
        else:
            optimizer.step()
        assert param.grad is grad and grad.tolist() == [1.0 + step] * 3


def test_gradients_overwritten_in_place_are_not_lost():
    # As with zero_grad(set_to_none=False): the previous gradient must be a copy.
    param = nn.Parameter(torch.zeros(1))
    optimizer = HessianLRAdaptation(torch.optim.SGD([param], lr=1.0), beta=0.0, eps=0.0)
    param.grad, moves = torch.zeros(1), []
    for grad in (1.0, 3.0, 7.0):
        before = param.item()
        param.grad.fill_(grad)
        optimizer.step()
        moves.append(before - param.item())
    assert moves == [1.0, 3.0 / 2.0, 7.0 / 4.0]


@pytest.mark.parametrize("given", ["wrapper", "base"])
def test_schedulers_may_be_given_the_wrapper_or_the_base(given):
    param = nn.Parameter(torch.zeros(1))
    base = torch.optim.SGD([param], lr=1.0)
    optimizer = HessianLRAdaptation(base, beta=0.0, eps=1.0)
    schedule = lr_scheduler.ExponentialLR(optimizer if given == "wrapper" else base, gamma=0.5)
    moves = []
    for _ in range(4):
        before, param.grad = param.item(), torch.ones(1)
        optimizer.step()
        moves.append(before - param.item())
        schedule.step()
    assert moves == [1.0, 0.5, 0.25, 0.125]
    assert optimizer.param_groups is base.param_groups


@pytest.mark.parametrize("to", ["wrapper", "base"])
def test_a_group_that_is_added_takes_part(to):
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    base = torch.optim.SGD([first], lr=1.0)
    optimizer = HessianLRAdaptation(base, beta=0.0, eps=1.0)
    (optimizer if to == "wrapper" else base).add_param_group({"params": [second], "lr": 0.25})
    for _ in range(2):
        first.grad, second.grad = torch.ones(1), torch.ones(1)
        optimizer.step()
    assert (first.item(), second.item()) == (-2.0, -0.5)
    assert len(optimizer.param_groups) == len(base.param_groups) == 2 and second in optimizer.state


def perceptron(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.randn(8, 3), torch.randn(8, 2)
    return model, lambda model: nn.functional.mse_loss(model(x), y)


def train(optimizer, loss, model, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()


BASES = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
    "adam": lambda params: torch.optim.Adam(params, lr=0.01),
}


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_a_clone_from_a_saved_state_dict_goes_on_to_the_bit(base, dtype, steps):
    model, _ = perceptron()
    model.to(dtype)
    x = torch.randn(8, 3, dtype=dtype)

    def loss(model):
        return model(x).square().mean()

    optimizer = HessianLRAdaptation(base(model.parameters()), beta=0.7)
    train(optimizer, loss, model, steps)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    clone = copy.deepcopy(model)
    other = HessianLRAdaptation(base(clone.parameters()), beta=0.7)
    other.base_optimizer.param_groups[0]["lr"] = 9.0
    other.load_state_dict(torch.load(file, weights_only=True))
    start = [p.detach().clone() for p in model.parameters()]
    train(optimizer, loss, model, 10)
    train(other, loss, clone, 10)
    for p, q, s in zip(model.parameters(), clone.parameters(), start, strict=True):
        assert torch.equal(p, q) and not torch.equal(p, s)


def test_schedulers_still_reach_both_after_loading():
    model, loss = perceptron()
    optimizer = HessianLRAdaptation(torch.optim.Adam(model.parameters(), lr=0.01))
    train(optimizer, loss, model, 2)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.param_groups[0]["lr"] = 0.5
    assert optimizer.base_optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_a_copy_of_model_and_optimizer_goes_on_to_the_bit_and_alone(base, duplicate):
    model, loss = perceptron()
    optimizer = HessianLRAdaptation(base(model.parameters()))
    train(optimizer, loss, model, 4)
    clone, other = duplicate((model, optimizer))
    train(optimizer, loss, model, 6)
    after = [p.detach().clone() for p in model.parameters()]
    train(other, loss, clone, 6)
    for p, q, a in zip(model.parameters(), clone.parameters(), after, strict=True):
        assert torch.equal(p, q) and torch.equal(p, a)
    assert other.param_groups is other.base_optimizer.param_groups


def test_a_base_that_takes_its_own_gradients_is_refused():
    for make in (Sophia, torch.optim.LBFGS):
        with pytest.raises(TypeError, match=make.__name__):
            HessianLRAdaptation(make([nn.Parameter(torch.ones(1))]))
    with pytest.raises(TypeError, match="base_optimizer"):
        HessianLRAdaptation([nn.Parameter(torch.ones(1))])


@pytest.mark.parametrize(
    ("name", "value"), [("beta", 1.0), ("beta", -0.1), ("beta", float("nan")), ("eps", -1e-8), ("eps", float("nan"))]
)
def test_an_argument_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        HessianLRAdaptation(torch.optim.SGD([nn.Parameter(torch.ones(1))]), **{name: value})


def test_sparse_and_complex_gradients_are_refused_before_anything_changes():
    table, other = nn.Embedding(5, 3, sparse=True), nn.Parameter(torch.ones(2))
    optimizer = HessianLRAdaptation(torch.optim.SGD([other, *table.parameters()], lr=0.1))
    (table(torch.tensor([1, 2])).sum() + other.sum()).backward()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert other.tolist() == [1, 1] and not optimizer.state
    param = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    param.grad = torch.ones_like(param)
    with pytest.raises(RuntimeError, match="complex"):
        HessianLRAdaptation(torch.optim.SGD([param], lr=0.1)).step()


def test_the_closure_is_called_once_with_gradients_on_and_its_loss_returned():
    param, calls = nn.Parameter(torch.tensor([3.0])), []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    optimizer = HessianLRAdaptation(torch.optim.SGD([param], lr=0.25))
    assert optimizer.step(closure).item() == 9.0
    assert calls == [True] and param.item() == 1.5
    assert optimizer.step() is None and calls == [True]


def test_no_gradient_no_step():
    param = nn.Parameter(torch.ones(1))
    optimizer = HessianLRAdaptation(torch.optim.Adam([param]))
    optimizer.step()
    assert param.item() == 1 and not optimizer.state


def test_adapt_learning_rate_makes_the_base_by_its_dotted_path():
    param = nn.Parameter(torch.ones(1))
    optimizer = adapt_learning_rate([param], "torch.optim.SGD", beta=0.5, eps=0.1, lr=0.3, momentum=0.7)
    base = optimizer.base_optimizer
    assert type(base) is torch.optim.SGD and (optimizer.beta, optimizer.eps) == (0.5, 0.1)
    assert (base.param_groups[0]["lr"], base.param_groups[0]["momentum"]) == (0.3, 0.7)
    assert base.param_groups[0]["params"] == [param]
    assert type(adapt_learning_rate([param]).base_optimizer) is torch.optim.Adam

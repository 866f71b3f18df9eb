"""The pure rules against PyTorch's own classes, on given gradients, in double precision."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from optimizers.stacking.first_order import PURE
from tests.support.examples import examples

STEPS = 30
SHAPE = (2, 3)

START = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
GRADIENTS = torch.randn(STEPS, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def by_pytorch(optimizer, **hp):
    """The parameter after each step."""
    param = nn.Parameter(START.clone())
    own = optimizer([param], **hp)
    path = []
    for step in range(STEPS):
        param.grad = GRADIENTS[step].clone()
        own.step()
        path.append(param.detach().clone())
    return torch.stack(path)


def settings_of(optimizer, **hp):
    """All hyperparameters, as the parameter group of PyTorch's class has them."""
    group = optimizer([nn.Parameter(START.clone())], **hp).param_groups[0]
    return {name: value for name, value in group.items() if name != "params"}


def by_rule(optimizer, **hp):
    rule, hp = PURE[optimizer], settings_of(optimizer, **hp)
    param, state, path = START.clone(), {}, []
    for step in range(STEPS):
        param, state = rule(param, GRADIENTS[step], None, state, hp)
        path.append(param)
    return torch.stack(path)


def stacked(optimizer, members):
    """The rule under ``vmap``, all hyperparameters that are numbers as tensors of one per member."""
    hps = [settings_of(optimizer, **hp) for hp in members]
    numbers = {name: value for name, value in hps[0].items() if isinstance(value, float | tuple)}
    stacks = {
        name: tuple(map(column, zip(*(hp[name] for hp in hps), strict=True)))
        if isinstance(value, tuple)
        else column([hp[name] for hp in hps])
        for name, value in numbers.items()
    }
    param, state, path = START.expand(len(members), *SHAPE), {}, []

    def update(param, grad, state, own):
        return PURE[optimizer](param, grad, None, state, {**hps[0], **own})

    for step in range(STEPS):
        grad = GRADIENTS[step].expand(len(members), *SHAPE)
        param, state = torch.vmap(update)(param, grad, state, stacks)
        path.append(param)
    return torch.stack(path, dim=1)


def column(values):
    return torch.tensor(values, dtype=torch.float64)


def assert_close(path, expected):
    torch.testing.assert_close(path, expected, rtol=1e-11, atol=1e-13)


lrs = st.floats(1e-4, 0.2)
decays = st.sampled_from([0.0, 1e-3, 0.3])
betas = st.tuples(st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.0, 0.9, 0.999]))
adam_numbers = st.fixed_dictionaries(
    {"lr": lrs, "betas": betas, "eps": st.sampled_from([1e-8, 1e-3]), "weight_decay": decays}
)
sgd_numbers = st.fixed_dictionaries({"lr": lrs, "momentum": st.sampled_from([0.5, 0.95]), "weight_decay": decays})


@examples(50)
@given(sgd_numbers, st.sampled_from([0, 0.0, 0.3]), st.booleans(), st.booleans())
def test_sgd_makes_the_steps_of_pytorch(hp, dampening, nesterov, momentum):
    hp = {**hp, "dampening": 0.0 if nesterov else dampening, "nesterov": nesterov}
    if not momentum and not nesterov:
        hp["momentum"] = 0.0
    assert_close(by_rule(torch.optim.SGD, **hp), by_pytorch(torch.optim.SGD, **hp))


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
@examples(50)
@given(hp=adam_numbers, amsgrad=st.booleans(), decoupled=st.booleans())
def test_adam_makes_the_steps_of_pytorch(optimizer, hp, amsgrad, decoupled):
    hp = {**hp, "amsgrad": amsgrad}
    if optimizer is torch.optim.Adam:
        hp["decoupled_weight_decay"] = decoupled
    assert_close(by_rule(optimizer, **hp), by_pytorch(optimizer, **hp))


@pytest.mark.parametrize("optimizer", PURE)
def test_defaults_make_the_steps_of_pytorch(optimizer):
    assert_close(by_rule(optimizer, lr=0.1), by_pytorch(optimizer, lr=0.1))


def test_amsgrad_keeps_the_largest_second_moment():
    hp = {"lr": 0.01, "betas": (0.0, 0.1)}
    plain, largest = (by_rule(torch.optim.Adam, amsgrad=amsgrad, **hp) for amsgrad in (False, True))
    assert not torch.allclose(plain, largest, rtol=1e-3)
    assert_close(largest, by_pytorch(torch.optim.Adam, amsgrad=True, **hp))


@pytest.mark.parametrize("nesterov", [False, True])
@examples(10)
@given(members=st.lists(sgd_numbers, min_size=2, max_size=4))
def test_sgd_of_a_stack_makes_each_members_own_steps(nesterov, members):
    members = [{**hp, "dampening": 0.0, "nesterov": nesterov} for hp in members]
    expected = torch.stack([by_pytorch(torch.optim.SGD, **hp) for hp in members])
    assert_close(stacked(torch.optim.SGD, members), expected)


def test_sgd_of_a_stack_dampens_each_members_own_momentum():
    members = [{"lr": 0.1, "momentum": momentum, "dampening": d} for momentum in (0.5, 0.9) for d in (0.0, 0.2, 0.7)]
    expected = torch.stack([by_pytorch(torch.optim.SGD, **hp) for hp in members])
    assert_close(stacked(torch.optim.SGD, members), expected)


@pytest.mark.parametrize("dampening", [0.0, 0.5])
def test_sgd_of_a_stack_where_a_member_has_no_momentum(dampening):
    members = [{"lr": 0.1, "momentum": momentum, "dampening": dampening} for momentum in (0.0, 0.9)]
    expected = torch.stack([by_pytorch(torch.optim.SGD, **hp) for hp in members])
    assert_close(stacked(torch.optim.SGD, members), expected)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("amsgrad", [False, True])
@examples(10)
@given(members=st.lists(adam_numbers, min_size=2, max_size=4))
def test_adam_of_a_stack_makes_each_members_own_steps(optimizer, amsgrad, members):
    members = [{**hp, "amsgrad": amsgrad} for hp in members]
    expected = torch.stack([by_pytorch(optimizer, **hp) for hp in members])
    assert_close(stacked(optimizer, members), expected)


@pytest.mark.parametrize(
    ("optimizer", "hp"),
    [(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}), (torch.optim.Adam, {"lr": 0.1, "amsgrad": True})],
)
def test_rules_are_pure(optimizer, hp):
    """Neither the parameter, nor the gradient, nor the state that came in is changed or handed out again."""
    rule, hp = PURE[optimizer], settings_of(optimizer, **hp)
    param, state = START, {}
    for step in range(3):
        grad = GRADIENTS[step].clone()
        given_in = [param, grad, *state.values()]
        before = [tensor.clone() for tensor in given_in]
        param, state = rule(param, grad, None, state, hp)
        assert all(map(torch.equal, given_in, before))
        storages = {tensor.untyped_storage().data_ptr() for tensor in given_in}
        assert storages.isdisjoint(tensor.untyped_storage().data_ptr() for tensor in (param, *state.values()))


@pytest.mark.parametrize("optimizer", PURE)
def test_a_float32_parameter_stays_float32(optimizer):
    hp = settings_of(optimizer, lr=0.1)
    param, state = START.float(), {}
    for step in range(2):
        param, state = PURE[optimizer](param, GRADIENTS[step].float(), None, state, hp)
    assert param.dtype == torch.float32 and all(value.dtype == torch.float32 for value in state.values())

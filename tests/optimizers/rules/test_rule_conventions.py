"""What every rule promises beside its equation: purity; the same numbers one by one, in lists, stacked and compiled."""

import copy
import logging
import pickle
import warnings

import pytest
import torch
from torch import nn

from optimizers import DiagHessian, Sophia, SubsampledNewton
from tests.support.settings import SETTINGS

NEWTON = {"lr": 0.05, "damping": 0.5, "sampling_rate": 0.5, "weight_decay": 0.1}
each_rule = pytest.mark.parametrize("rule", SETTINGS, ids=lambda rule: rule.__name__)
each_with_newton = pytest.mark.parametrize(
    ("rule", "hp"), [*SETTINGS.items(), (SubsampledNewton, NEWTON)], ids=lambda v: getattr(v, "__name__", "")
)

SHAPES = [(3, 4), (), (5,), (2, 2, 2)]


def draw(shape, seed, dtype=torch.float64):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def draw_curvature(rule, shape, seed, dtype=torch.float64):
    """Of both signs; for SubsampledNewton a positive definite block."""
    if rule is not SubsampledNewton:
        return draw(shape, seed, dtype)
    numel = torch.Size(shape).numel()
    root = draw((numel, numel), seed)
    return (root @ root.T).to(dtype)


def ten_steps(rule, hp, dtype=torch.float32, lr=None, **options):
    """Parameters and states after ten steps; at some of them some parameters, or all, have no curvature or gradient."""
    params = [nn.Parameter(draw(shape, i, dtype)) for i, shape in enumerate(SHAPES)]
    params[0] = nn.Parameter(params[0].detach().t())
    lrs = (hp["lr"], 2 * hp["lr"]) if lr is None else lr
    optimizer = rule([{"params": params[:3], "lr": lrs[0]}, {"params": params[3:], "lr": lrs[1]}], **hp, **options)
    for step in range(10):
        grads = [draw(p.shape, 100 * step + i, dtype) for i, p in enumerate(params)]
        curvature = [draw_curvature(rule, p.shape, 200 * step + i, dtype) for i, p in enumerate(params)]
        curvature = [None if step % 3 == 2 or (step % 3 == 1 and i == 1) else c for i, c in enumerate(curvature)]
        terms = [(p * g).sum() for p, g in zip(params, grads, strict=True)]
        optimizer.step(lambda terms=terms, step=step: sum(terms[1 if step == 3 else 0 :]), curvature=curvature)
    return [p.detach() for p in params], [optimizer.state[p] for p in params]


def assert_same(first, second):
    for (p, state), (q, other) in zip(zip(*first, strict=True), zip(*second, strict=True), strict=True):
        assert torch.equal(p, q)
        assert state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)


@each_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_foreach_equals_the_loop_to_the_bit(rule, dtype):
    loop = ten_steps(rule, SETTINGS[rule], dtype, foreach=False)
    assert_same(ten_steps(rule, SETTINGS[rule], dtype, foreach=True), loop)
    assert_same(ten_steps(rule, SETTINGS[rule], dtype), loop)


@each_rule
def test_foreach_equals_the_loop_to_the_bit_where_step_counts_differ(rule):
    found = []
    for foreach in (False, True):
        params = [nn.Parameter(draw((50,), i)) for i in range(4)]
        optimizer = rule(params, **{**SETTINGS[rule], "lr": 0.3}, foreach=foreach)
        for step in range(20):
            terms = [(p * draw((50,), 100 * step + i)).sum() for i, p in enumerate(params)]
            curvature = [draw((50,), 200 * step + i) for i in range(4)]
            optimizer.step(lambda terms=terms, step=step: sum(terms[step % 3 :]), curvature=curvature)
        found.append(([p.detach() for p in params], [optimizer.state[p] for p in params]))
    assert_same(*found)


@each_with_newton
@pytest.mark.parametrize("foreach", [False, True], ids=["loop", "foreach"])
def test_a_tensor_lr_equals_the_same_number(rule, hp, foreach):
    options = {} if rule is SubsampledNewton else {"foreach": foreach}
    lr = [torch.tensor(value, dtype=torch.float64) for value in (hp["lr"], 2 * hp["lr"])]
    tensors = ten_steps(rule, hp, torch.float64, lr, **options)
    torch.testing.assert_close(tensors, ten_steps(rule, hp, torch.float64, **options), rtol=1e-12, atol=0)


def history(rule, shape=(3, 2), seed=0):
    """Parameter, gradient and curvature of three calls; the last has no curvature."""
    given = [[draw(shape, seed + 10 * t + i) for i in (1, 2)] for t in range(3)]
    curvatures = [draw_curvature(rule, shape, seed + 7), draw_curvature(rule, shape, seed + 17), None]
    return [(p, g, c) for (p, g), c in zip(given, curvatures, strict=True)]


def call(rule, hp, seed=0):
    """Each call's new parameter and new state; the first call has no state."""
    state, results = {}, []
    for param, grad, curvature in history(rule, seed=seed):
        param, state = rule.update(param, grad, curvature, state, hp)
        results.append({"param": param, **state})
    return results


@each_with_newton
def test_hyperparameters_may_be_0_dim_tensors(rule, hp):
    def tensor(value):
        return tuple(map(tensor, value)) if isinstance(value, tuple) else torch.tensor(value, dtype=torch.float64)

    tensors = {name: tensor(value) for name, value in hp.items()}
    torch.testing.assert_close(call(rule, tensors), call(rule, hp), rtol=1e-12, atol=0)


@each_with_newton
def test_update_is_pure_it_repeats_itself_and_changes_none_of_its_inputs(rule, hp):
    state = {}
    for given in history(rule):
        inputs = [*given, state, hp]
        before = copy.deepcopy(inputs)
        first, second = rule.update(*inputs), rule.update(*before)
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        torch.testing.assert_close(inputs[1:4], before[1:4], rtol=0, atol=0)
        assert torch.equal(inputs[0], before[0]) and hp == before[4]
        state = first[1]
        assert all(value.shape in ((3, 2), ()) for value in state.values())


@each_with_newton
def test_vmap_over_a_stack_of_members_equals_the_loop_over_members(rule, hp):
    members = range(4)
    lr = torch.tensor([hp["lr"] * (m + 1) for m in members], dtype=torch.float64)

    def update(param, grad, curvature, state, lr):
        return rule.update(param, grad, curvature, state, {**hp, "lr": lr})

    histories = [history(rule, seed=1000 * m) for m in members]
    state, states = {}, [{} for _ in members]
    for t in range(3):
        given = [
            None if parts[0] is None else torch.stack(parts) for parts in zip(*(h[t] for h in histories), strict=True)
        ]
        in_dims = (0, 0, None if given[2] is None else 0, 0 if state else None, 0)
        stacked, state = torch.vmap(update, in_dims=in_dims)(*given, state, lr)
        for m in members:
            alone, states[m] = update(*histories[m][t], states[m], lr[m])
            torch.testing.assert_close(stacked[m], alone, rtol=1e-12, atol=0)
            torch.testing.assert_close({k: v[m] for k, v in state.items()}, states[m], rtol=1e-12, atol=0)


@pytest.fixture
def quiet_compiler():
    """Compiling says things that are no concern of a rule, through logging and warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        yield
        logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet_compiler")
def test_compile_equals_eager():
    for rule in (DiagHessian, Sophia):
        starts = [draw((3, 4), 1, torch.float32), draw((), 2, torch.float32)]
        found = []
        for compile in (False, True):
            params = [nn.Parameter(p.clone()) for p in starts]
            optimizer = rule(params, **SETTINGS[rule], compile=compile)
            for step in range(6):
                curvature = [draw(p.shape, step, torch.float32) for p in params]
                optimizer.param_groups[0]["lr"] *= 0.9
                optimizer.step(lambda params=params: sum(p.pow(3).sum() for p in params), curvature=curvature)
            found.append([(p.detach(), optimizer.state[p]) for p in params])
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(found[0][0][0], starts[0], rtol=1e-2)


def perceptron(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.randn(8, 3), torch.randn(8, 2)
    return model, lambda model: nn.functional.mse_loss(model(x), y)


@each_with_newton
def test_maximize_mirrors_minimising_the_negated_loss(rule, hp):
    up, loss = perceptron()
    down = copy.deepcopy(up)
    ascending, descending = (
        rule(model.parameters(), **hp, maximize=maximize) for model, maximize in ((up, 1), (down, 0))
    )
    for _ in range(10):
        assert torch.equal(ascending.step(lambda: loss(up)), -descending.step(lambda: -loss(down)))
        for p, q in zip(up.parameters(), down.parameters(), strict=True):
            assert torch.equal(p, q) and torch.equal(p.grad, -q.grad)


@each_with_newton
def test_curvature_injected_while_maximizing_is_that_of_the_loss(rule, hp):
    up, loss = perceptron()
    down = copy.deepcopy(up)
    ascending, descending = (
        rule(model.parameters(), **hp, maximize=maximize) for model, maximize in ((up, 1), (down, 0))
    )
    for step in range(4):
        curvature = [draw_curvature(rule, p.shape, 10 * step + i) for i, p in enumerate(up.parameters())]
        ascending.step(lambda: loss(up), curvature=curvature)
        descending.step(lambda: -loss(down), curvature=[-c for c in curvature])
    for p, q in zip(up.parameters(), down.parameters(), strict=True):
        assert torch.equal(p, q)


@each_with_newton
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
def test_a_copy_of_model_and_optimizer_goes_on_to_the_bit(rule, hp, duplicate):
    model, loss = perceptron()
    optimizer = rule(model.parameters(), **hp)
    for _ in range(4):
        optimizer.step(lambda: loss(model))
    start = [p.detach().clone() for p in model.parameters()]
    clone, other = duplicate((model, optimizer))
    for _ in range(12):
        optimizer.step(lambda: loss(model))
    assert all(torch.equal(p, q) for p, q in zip(clone.parameters(), start, strict=True))
    for _ in range(12):
        other.step(lambda: loss(clone))
    for p, q, before in zip(model.parameters(), clone.parameters(), start, strict=True):
        assert torch.equal(p, q) and not torch.equal(p, before)

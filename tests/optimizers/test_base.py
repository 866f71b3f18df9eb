"""What CurvatureOptimizer does for every rule, seen through a plain gradient rule and an estimator that counts."""

import copy
import gc
import io
import math
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from optimizers import CurvatureOptimizer, DiagHessian
from optimizers.curvature.estimators import Hutchinson
from optimizers.curvature.interface import Estimator
from optimizers.curvature.registry import ESTIMATORS


class Plain(CurvatureOptimizer):
    """theta -= lr g; the state keeps the gradient and the last curvature, and counts the steps that had one."""

    def __init__(self, params, lr=0.1, **kwargs):
        super().__init__(params, {"lr": lr}, **kwargs)

    @staticmethod
    def update(param, grad, curvature, state, hp):
        if curvature is not None:
            state = {"curvature": curvature, "refreshes": state.get("refreshes", torch.zeros(())) + 1}
        return param - hp["lr"] * grad, {**state, "grad": grad}


class Counting(Estimator):
    """Ones; keeps what each call was given."""

    def __init__(self, double_backward=True):
        self.double_backward = double_backward
        self.graphs = []
        self.outputs = []

    def __call__(self, refresh):
        self.graphs.append([g.requires_grad for g in refresh.grads])
        self.outputs.append(refresh.outputs)
        return [torch.ones_like(p) for p in refresh.params]

    def cost(self, refresh):
        return 10.0


class Spy(torch.autograd.Function):
    """x^2 that notes each backward pass, whether it is itself recorded for differentiation, and when it is freed."""

    @staticmethod
    def forward(ctx, x, log):
        ctx.save_for_backward(x)
        ctx.log, ctx.held = log, Held()
        log["forward"] += 1
        log["alive"].append(weakref.ref(ctx.held))
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        ctx.log["recorded"].append(torch.is_grad_enabled())
        return 2 * ctx.saved_tensors[0] * grad, None


class Held:
    """Something to watch with a weak reference."""


def parameter(*values, dtype=torch.float64):
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def perceptron(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.randn(8, 3), torch.randn(8, 2)

    def loss(model=model):
        outputs = model(x)
        return nn.functional.mse_loss(outputs, y), outputs

    return model, loss


def squared(outputs):
    """What a closure returns: the loss and the outputs."""
    return outputs.square().sum(), outputs


@pytest.mark.parametrize(("period", "expected"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6]), (10, [0])])
def test_refreshes_at_multiples_of_the_period_and_nowhere_else(period, expected):
    param, estimator = parameter(1.0), Counting()
    optimizer = Plain([param], estimator=estimator, update_period=period)
    refreshed = []
    for step in range(7):
        before = len(estimator.graphs)
        optimizer.step(lambda: param.square().sum())
        refreshed += [step] * (len(estimator.graphs) - before)
    assert refreshed == expected
    assert optimizer.state[param]["refreshes"] == len(expected)


@pytest.mark.parametrize("double_backward", [True, False])
def test_one_forward_and_one_backward_pass_a_step_recorded_only_for_a_refresh_that_needs_it(double_backward):
    param, log = parameter(1.0, 2.0), {"forward": 0, "recorded": [], "alive": []}
    estimator = Counting(double_backward)
    optimizer = Plain([param], estimator=estimator, update_period=3)
    for _ in range(7):
        optimizer.step(lambda: Spy.apply(param, log).sum())
    assert log["forward"] == 7
    assert log["recorded"] == [double_backward and step % 3 == 0 for step in range(7)]
    assert estimator.graphs == [[double_backward]] * 3


def test_a_step_with_injected_curvature_is_not_recorded():
    param, log = parameter(1.0), {"forward": 0, "recorded": [], "alive": []}
    Plain([param]).step(lambda: Spy.apply(param, log).sum(), curvature=[torch.ones(1)])
    assert log["recorded"] == [False]


class WithGraph(Counting):
    """The gradients themselves, graph and all."""

    def __call__(self, refresh):
        return list(refresh.grads)


def test_a_rule_sees_neither_a_gradient_nor_a_curvature_with_a_graph():
    param = parameter(1.0)
    optimizer = Plain([param], estimator=WithGraph())
    optimizer.step(lambda: param.pow(3).sum())
    assert [optimizer.state[param][key].requires_grad for key in ("grad", "curvature")] == [False, False]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_step_frees_its_graph_without_the_garbage_collector(estimator):
    weight, log = parameter([1.0, 2.0]), {"forward": 0, "recorded": [], "alive": []}
    x = torch.ones(3, 2, dtype=torch.float64)
    optimizer = Plain([weight], estimator=estimator)
    gc.disable()
    try:
        optimizer.step(lambda: squared(Spy.apply(nn.functional.linear(x, weight), log)))
        assert [ref() for ref in log["alive"]] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_grad_is_the_plain_gradient_and_holds_no_graph(estimator):
    model, loss = perceptron()
    optimizer = Plain(model.parameters(), estimator=estimator, update_period=2)
    for _ in range(4):
        expected = torch.autograd.grad(loss()[0], list(model.parameters()))
        returned = optimizer.step(loss)
        for param, grad in zip(model.parameters(), expected, strict=True):
            assert param.grad.grad_fn is None and not param.grad.requires_grad
            assert torch.equal(param.grad, grad)
        assert returned.grad_fn is None


def test_step_returns_the_loss_before_it():
    param = parameter(3.0)
    optimizer = Plain([param], lr=0.1, estimator="none")
    assert [optimizer.step(lambda: param.square().sum()).item() for _ in range(2)] == pytest.approx([9.0, 5.76])


def test_closure_may_return_the_outputs_too_and_the_estimator_gets_them():
    param, estimator, outputs = parameter(1.0), Counting(), object()
    optimizer = Plain([param], estimator=estimator)
    optimizer.step(lambda: (param.sum(), outputs))
    assert optimizer.step(lambda: param.sum()) == pytest.approx(0.9)
    assert estimator.outputs == [outputs, None]


@pytest.mark.parametrize("returned", [None, 1.0, torch.tensor(1.0), (None, None), (torch.tensor(1.0), None)])
def test_a_closure_without_a_loss_to_differentiate_is_refused(returned):
    with pytest.raises(RuntimeError, match="closure must return the loss"):
        Plain([parameter(1.0)]).step(lambda: returned)


def test_complex_parameters_are_refused():
    param = parameter(1 + 2j, dtype=torch.complex64)
    with pytest.raises(RuntimeError, match="complex"):
        Plain([param]).step(lambda: param.abs().square().sum())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_sparse_gradients_are_refused(estimator):
    table = nn.Embedding(5, 3, sparse=True)
    with pytest.raises(RuntimeError, match="sparse"):
        Plain(table.parameters(), estimator=estimator).step(lambda: table(torch.tensor([1, 2])).square().sum())


@pytest.mark.parametrize("period", [0, -1])
def test_an_update_period_below_1_is_refused(period):
    with pytest.raises(ValueError, match="update_period"):
        Plain([parameter(1.0)], update_period=period)


def test_injected_curvature_reaches_its_parameter_instead_of_the_estimate():
    first, second, estimator = parameter(1.0, 2.0), parameter(3.0), Counting()
    optimizer = Plain([{"params": [second]}, {"params": [first]}], estimator=estimator, update_period=5)
    for step in range(3):
        injected = [torch.full((1,), 7.0 + step), torch.full((2,), 8.0 + step)]
        optimizer.step(lambda: first.sum() + second.sum(), curvature=injected)
        assert optimizer.state[second]["curvature"].tolist() == [7 + step]
        assert optimizer.state[first]["curvature"].tolist() == [8 + step] * 2
    assert estimator.graphs == [] and optimizer.grad_equivalents == 3


@pytest.mark.parametrize("shapes", [[], [(2,)], [(2,), (1,), (1,)], [(2,), (2,)], [(1,), (2,)]])
def test_injected_curvature_of_wrong_count_or_shape_is_refused(shapes):
    params = [parameter(1.0, 2.0), parameter(3.0)]
    with pytest.raises(ValueError, match="one tensor per parameter"):
        Plain(params).step(lambda: params[0].sum() + params[1].sum(), curvature=[torch.ones(s) for s in shapes])


def test_each_parameter_group_has_its_own_hyperparameters():
    slow, fast = parameter(1.0), parameter(1.0)
    groups = [{"params": [slow]}, {"params": [fast], "lr": 0.5}]
    Plain(groups, lr=0.25, estimator="none").step(lambda: (slow + fast).sum())
    assert (slow.item(), fast.item()) == (0.75, 0.5)


def test_a_tensor_lr_equals_the_same_number():
    params = [parameter(1.0, 2.0), parameter(1.0, 2.0)]
    lrs = [torch.tensor(0.0625, dtype=torch.float64), 0.0625]
    for param, lr in zip(params, lrs, strict=True):
        optimizer = DiagHessian([param], lr=lr)
        for _ in range(3):
            optimizer.step(lambda param=param: param.pow(4).sum())
    assert torch.equal(*params) and params[0][0] != 1


@pytest.mark.parametrize("lr", [1.0, torch.tensor(1.0, dtype=torch.float64)])
@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (lambda o: lr_scheduler.ExponentialLR(o, gamma=0.5), [1, 0.5, 0.25, 0.125]),
        (lambda o: lr_scheduler.StepLR(o, step_size=2), [1, 1, 0.1, 0.1]),
        (lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=4), [(1 + math.cos(math.pi * t / 4)) / 2 for t in range(4)]),
        (lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (t + 1)), [1, 1 / 2, 1 / 3, 1 / 4]),
    ],
)
def test_pytorchs_schedulers_set_the_lr(scheduler, expected, lr):
    param = parameter(0.0)
    optimizer = Plain([param], lr=lr if isinstance(lr, float) else lr.clone(), estimator="none")
    schedule = scheduler(optimizer)
    moves = []
    for _ in expected:
        before = param.item()
        optimizer.step(lambda: param.sum())
        moves.append(before - param.item())
        schedule.step()
    assert moves == pytest.approx(expected)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_frozen_and_unused_parameters_are_left_alone(estimator):
    used, unused, frozen = (parameter([1.0, 2.0]) for _ in range(3))
    frozen.requires_grad_(False)
    optimizer = Plain([frozen, used, unused], estimator=estimator)
    optimizer.step(lambda: squared(nn.functional.linear(frozen, used)))
    for param in (unused, frozen):
        assert param.tolist() == [[1.0, 2.0]] and param.grad is None and param not in optimizer.state
    assert used.tolist() != [[1.0, 2.0]]


def test_an_unused_parameter_loses_the_gradient_of_the_step_before():
    first, second = parameter(1.0), parameter(1.0)
    optimizer = Plain([first, second], lr=0.5, estimator="none")
    optimizer.step(lambda: (first + second).sum())
    optimizer.step(lambda: first.sum())
    assert second.grad is None and second.item() == 0.5


@pytest.mark.parametrize("steps", [0, 10])
def test_a_clone_from_a_saved_state_dict_goes_on_to_the_bit(steps):
    model, loss = perceptron(seed=3)
    optimizer = DiagHessian(model.parameters(), lr=1e-3, update_period=3)
    for _ in range(steps):
        optimizer.step(loss)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    clone = copy.deepcopy(model)
    torch.manual_seed(99)
    other = DiagHessian(clone.parameters(), lr=1.0, diff=0.9, update_period=3)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(10):
        optimizer.step(loss)
        other.step(lambda: loss(clone))
        for p, q in zip(model.parameters(), clone.parameters(), strict=True):
            assert torch.equal(p, q)
    assert optimizer.grad_equivalents == other.grad_equivalents


def test_probes_leave_the_global_random_stream_as_it_was():
    model, loss = perceptron()
    optimizer = DiagHessian(model.parameters(), estimator=Hutchinson(samples=3))
    before = torch.get_rng_state()
    for _ in range(3):
        optimizer.step(loss)
    assert torch.equal(torch.get_rng_state(), before)


def test_probes_follow_the_global_seed():
    def curvature(seed):
        param = nn.Parameter(torch.ones(60))
        torch.manual_seed(seed)
        optimizer = Plain([param])
        optimizer.step(lambda: param.sum().square())
        return optimizer.state[param]["curvature"]

    assert torch.equal(curvature(1), curvature(1))
    assert not torch.equal(curvature(1), curvature(2))


def test_probes_are_not_the_draws_that_made_the_weights():
    torch.manual_seed(3)
    param = nn.Parameter(torch.randn(50))
    torch.manual_seed(3)
    optimizer, weights = Plain([param], estimator=Hutchinson(probe="gaussian")), param.detach().clone()
    optimizer.step(lambda: 0.5 * param.square().sum())
    assert not torch.allclose(optimizer.state[param]["curvature"], weights.square())


def test_fused_attention_is_set_aside_on_refresh_steps_only():
    torch.manual_seed(0)
    param = nn.Parameter(torch.randn(1, 2, 4, 8))
    optimizer = Plain([param], estimator="hutchinson", update_period=2)
    fused = []

    def closure():
        fused.append(torch.backends.cuda.flash_sdp_enabled())
        return nn.functional.scaled_dot_product_attention(param, param, param).square().sum()

    for _ in range(3):
        optimizer.step(closure)
    assert fused == [False, True, False] and torch.backends.cuda.flash_sdp_enabled()
    assert optimizer.state[param]["curvature"].abs().sum() > 0


def test_batch_norm_statistics_are_updated_once_a_step():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), torch.randn(8, 3)
    optimizer = Plain(model.parameters(), estimator=Hutchinson(samples=2))
    for _ in range(5):
        optimizer.step(lambda: model(x).square().mean())
    assert model[1].num_batches_tracked == 5


@pytest.mark.parametrize(
    ("estimator", "period", "expected"),
    [
        ("none", 1, 7),
        ("hutchinson", 1, 7 + 7 * 2),
        ("hutchinson", 3, 7 + 3 * 2),
        (Hutchinson(samples=4), 3, 7 + 3 * 8),
        ("exact", 7, 7 + 2 * 5),
    ],
)
def test_cost_in_gradients_adds_two_per_hessian_vector_product(estimator, period, expected):
    params = [parameter(1.0, 2.0), parameter(1.0, 2.0, 3.0)]
    optimizer = Plain(params, estimator=estimator, update_period=period)
    for _ in range(7):
        optimizer.step(lambda: sum(p.square().sum() for p in params))
    assert optimizer.grad_equivalents == expected


def test_gradients_can_be_changed_in_place_each_on_its_own():
    first, second = parameter(1.0, 2.0), parameter(1.0, 2.0)
    optimizer = Plain([first, second], estimator="none")
    optimizer.step(lambda: (first + second).sum())
    first.grad.mul_(5)
    assert (first.grad.tolist(), second.grad.tolist()) == ([5, 5], [1, 1])
    optimizer.zero_grad(set_to_none=False)
    assert second.grad.tolist() == [0, 0]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("steps", [0, 4])
def test_a_copy_of_model_and_optimizer_goes_on_to_the_bit(duplicate, steps):
    model, loss = perceptron()
    optimizer = DiagHessian(model.parameters(), lr=1e-3, update_period=3)
    for _ in range(steps):
        optimizer.step(loss)
    clone, other = duplicate((model, optimizer))
    for _ in range(4):
        optimizer.step(loss)
        other.step(lambda: loss(clone))
    for p, q in zip(model.parameters(), clone.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_empty_parameter_is_left_alone(estimator):
    some, empty = parameter([1.0]), nn.Parameter(torch.empty(0, 1, dtype=torch.float64))
    x = torch.ones(1, 1, dtype=torch.float64)
    optimizer = Plain([empty, some], estimator=estimator)
    optimizer.step(lambda: squared(torch.cat([nn.functional.linear(x, p) for p in (empty, some)], dim=1)))
    assert some.item() == pytest.approx(0.8) and empty.shape == (0, 1)


def test_a_step_without_a_parameter_to_train_changes_nothing():
    frozen, elsewhere = parameter(1.0).requires_grad_(False), parameter(2.0)
    optimizer = Plain([frozen])
    assert optimizer.step(lambda: (frozen * elsewhere).sum()) == 2
    assert frozen.item() == 1 and frozen.grad is None


def test_injected_curvature_is_kept_as_a_copy_in_the_parameters_dtype():
    param, injected = parameter(1.0, dtype=torch.float32), torch.ones(1, dtype=torch.float64)
    optimizer = Plain([param])
    optimizer.step(lambda: param.sum(), curvature=[injected])
    injected.fill_(7)
    kept = optimizer.state[param]["curvature"]
    assert (kept.item(), kept.dtype) == (1.0, torch.float32)

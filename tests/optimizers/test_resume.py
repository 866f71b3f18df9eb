"""Every rule with every estimator: a clone from a saved state_dict goes on to the bit, no step waits for the device."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from optimizers import SADH, SSDH, SSVP, AdaHessian, DiagHessian, Sophia, SubsampledNewton, arithmetic
from optimizers.curvature.registry import ESTIMATORS

RULES = {
    SADH: {"lr": 0.1, "rho": 0.1},
    SSDH: {"lr": 0.1, "rho": 0.1},
    SSVP: {"lr": 0.1, "rho": 0.1},
    Sophia: {"lr": 0.1, "rho": 0.1},
    AdaHessian: {"lr": 0.01, "eps": 0.1},
    DiagHessian: {"lr": 0.01, "diff": 0.5, "square": 3.0, "damping": 0.1, "eps": 0.1},
}
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On a busy machine threads wait for each other: for the small operations here up to a hundred times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Classifier:
    """A perceptron and its closure: a fresh batch every step, and at every fourth a parameter without gradient."""

    def __init__(self, dtype=torch.float32):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
        self.scale = nn.Parameter(torch.tensor(1.0, dtype=dtype))
        self.params = [*self.model.parameters(), self.scale]
        self.steps = 0

    def __call__(self):
        generator = torch.Generator().manual_seed(self.steps)
        x = torch.randn(8, 4, generator=generator).to(self.scale.dtype)
        y = torch.randint(0, 3, (8,), generator=generator)
        self.steps += 1
        outputs = self.model(x)
        penalty = 0 if self.steps % 4 == 0 else self.scale.square()
        return nn.functional.cross_entropy(outputs, y) + penalty, outputs


def through_a_file(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_resumes(make, dtype=torch.float32, before=6):
    """Steps up to a refresh; a clone with other hyperparameters and another seed loads the state; ten more of each.

    At a refresh the estimator secant needs the gradients of the step before.
    """
    task = Classifier(dtype)
    optimizer = make(task.params)
    for _ in range(before):
        optimizer.step(task)
    clone = copy.deepcopy(task)
    torch.manual_seed(99)
    other = make(clone.params, lr=9.0)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    start = [p.detach().clone() for p in task.params]
    for _ in range(10):
        assert torch.equal(optimizer.step(task), other.step(clone))
    for p, q, s in zip(task.params, clone.params, start, strict=True):
        first, second = optimizer.state[p], other.state[q]
        assert torch.equal(p, q) and (p.ndim == 0 or not torch.equal(p, s))
        assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    assert optimizer.grad_equivalents == other.grad_equivalents


# The scale belongs to no layer, which estimators that work layer by layer say once.
no_layer = pytest.mark.filterwarnings("ignore:.* (knows no layer|does not know):UserWarning")


@no_layer
@each_rule
@each_estimator
def test_a_clone_from_a_saved_state_dict_goes_on_to_the_bit(rule, estimator):
    def make(params, **changed):
        return rule(params, **{**RULES[rule], **changed}, estimator=estimator, update_period=3)

    assert_resumes(make)


@no_layer
@each_rule
@pytest.mark.parametrize("estimator", ["hutchinson", "ggn_mc", "secant"])
@pytest.mark.parametrize(("dtype", "foreach"), [(torch.bfloat16, False), (torch.bfloat16, True), (torch.float32, True)])
def test_so_it_does_in_half_precision_and_as_lists(rule, estimator, dtype, foreach):
    def make(params, **changed):
        return rule(params, **{**RULES[rule], **changed}, estimator=estimator, update_period=2, foreach=foreach)

    assert_resumes(make, dtype)


@pytest.mark.parametrize("before", [0, 1])
def test_so_it_does_before_the_first_steps(before):
    def make(params, lr=0.1):
        return SSVP(params, lr=lr, rho=0.1, update_period=2)

    assert_resumes(make, before=before)


def test_so_does_subsampled_newton():
    def make(params, lr=0.05):
        return SubsampledNewton(params, lr=lr, damping=1.0, sampling_rate=0.3)

    assert_resumes(make)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_clipped_fraction_is_saved_too(dtype):
    params = [nn.Parameter(torch.ones(1000, dtype=dtype)), nn.Parameter(torch.ones(3, dtype=dtype))]
    optimizer = Sophia(params, lr=0.1, betas=(0.0, 0.0), rho=0.5)
    clipped = torch.arange(1000) < 777
    optimizer.step(lambda: sum(p.sum() for p in params), curvature=[torch.where(clipped, 1.0, 4.0), torch.ones(3)])
    other = Sophia(copy.deepcopy(params))
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    assert optimizer.clipped_fraction.item() == pytest.approx(780 / 1003, rel=1e-6)
    assert torch.equal(other.clipped_fraction, optimizer.clipped_fraction)


# Operations whose result, or its shape, the host has to read off the device.
READS = {"_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "masked_select", "unique_dim", "_unique2"}


def refuse(*_):
    raise AssertionError("waits for the device")


class NoReading(TorchDispatchMode):
    """Refuses them, whichever Python or C++ function asks; indexing with a mask is ``nonzero`` too."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masked = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in READS or masked:
            raise AssertionError(f"waits for the device: {name}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: float(x[0]),
        lambda x: x[x > 0],
        lambda x: torch.equal(x, x),
        lambda x: x.nonzero(),
    ],
)
def test_the_mode_notices_what_waits_for_the_device(read):
    with pytest.raises((AssertionError, RuntimeError)), NoReading():
        read(torch.ones(3))


@no_layer
@pytest.mark.parametrize("foreach", [False, True], ids=["loop", "foreach"])
@each_rule
@each_estimator
def test_no_step_after_the_first_waits_for_the_device(rule, estimator, foreach, monkeypatch):
    task = Classifier()
    lr = torch.tensor(RULES[rule]["lr"])
    optimizer = rule(task.params, **{**RULES[rule], "lr": lr}, estimator=estimator, update_period=2, foreach=foreach)
    batches = [nn.functional.one_hot(torch.arange(8) % 3, 3).float(), torch.randn(8, 4)]

    def closure():
        outputs = task.model(batches[1]) * task.scale
        return nn.functional.cross_entropy(outputs, batches[0]), outputs

    optimizer.step(closure)
    monkeypatch.setattr(arithmetic, "at_hand", lambda count: False)  # as on a GPU
    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    with NoReading():
        for _ in range(4):
            optimizer.step(closure)
            optimizer.diagnostics()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equal_counts_are_one_tensor_again(dtype):
    """So that a list of parameters has one count, and not as many as parameters."""
    task = Classifier(dtype)
    optimizer = AdaHessian(task.params, lr=0.01)
    for _ in range(5):
        optimizer.step(task)
    other = AdaHessian(task.params, lr=0.01)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    counts = [other.state[p]["step"] for p in task.params]
    assert all(count is counts[0] for count in counts[:-1])
    assert counts[-1] is not counts[0]  # of the parameter that had no gradient once
    assert [float(count) for count in counts] == [5, 5, 5, 5, 4]

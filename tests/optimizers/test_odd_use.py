"""Uses that once went wrong without a word."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from optimizers import SADH, SSDH, SSVP, AdaHessian, DiagHessian, Sophia
from tests.support.networks import Keep


def classifier(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double(), torch.randn(6, 4).double()


def curvature(loss, earlier=()):
    """What ggn_exact finds for a loss, after refreshes with earlier ones."""
    model, x = classifier()
    optimizer = Keep(model.parameters(), lr=0.0, estimator="ggn_exact")
    for one in (*earlier, loss):
        optimizer.step(lambda one=one: (lambda outputs: (one(outputs), outputs))(model(x)))
    return [optimizer.state[p]["curvature"] for p in model.parameters()]


FIRST, SECOND = torch.tensor([0, 1, 0, 1, 1, 0]), torch.tensor([1, 1, 0, 0, 1, 1])
LOSSES = {
    "labels": lambda o: F.cross_entropy(o, FIRST),
    "labels, scaled": lambda o: 3.0 * F.cross_entropy(o, FIRST),
    "mixed with weight one": lambda o: 1.0 * F.cross_entropy(o, FIRST) + 0.0 * F.cross_entropy(o, SECOND),
    "mixed by halves": lambda o: 0.5 * F.cross_entropy(o, FIRST) + 0.5 * F.cross_entropy(o, SECOND),
    "smoothed": lambda o: F.cross_entropy(o, FIRST, label_smoothing=0.3) + 0.0,
    "unsmoothed": lambda o: F.cross_entropy(o, FIRST) + 0.0,
    "squares": lambda o: 1.0 * F.mse_loss(o, F.one_hot(FIRST).double()),
}


@pytest.mark.parametrize("after", LOSSES)
@pytest.mark.parametrize("before", LOSSES)
def test_what_was_found_of_one_loss_is_not_taken_for_another(before, after):
    torch.testing.assert_close(curvature(LOSSES[after], [LOSSES[before]]), curvature(LOSSES[after]))


@pytest.mark.parametrize("rule", [SADH, SSDH, SSVP, Sophia, AdaHessian, DiagHessian])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_entry_without_gradient_or_curvature_stays_finite_in_half_precision(rule, dtype):
    param = nn.Parameter(torch.ones(4, dtype=dtype))
    optimizer = rule([param])
    for _ in range(3):
        optimizer.step(lambda: (0 * param).sum(), curvature=[torch.zeros(4)])
    assert torch.equal(param.detach(), torch.ones(4, dtype=dtype))


@pytest.mark.parametrize("rule", [SADH, SSDH, SSVP, Sophia, AdaHessian, DiagHessian])
def test_a_parameter_first_used_between_refreshes_trains(rule):
    first, late = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = rule([first, late], update_period=3)
    for step in range(7):
        optimizer.step(lambda step=step: first.square().sum() + (late.square().sum() if step > 1 else 0.0))
    assert late.isfinite().all() and (late < 1).all()


def test_half_precision_compiled_follows_eager(recwarn):
    params = [nn.Parameter(torch.ones(40, dtype=torch.bfloat16)) for _ in range(2)]
    optimizers = [AdaHessian([params[0]]), AdaHessian([params[1]], compile=True)]
    for _ in range(4):
        for param, optimizer in zip(params, optimizers, strict=True):
            optimizer.step(lambda param=param: param.sum(), curvature=[torch.ones(40)])
    torch.testing.assert_close(*(p.detach() for p in params), rtol=2e-2, atol=0)
    assert (params[0] < 0.6).all()


def test_a_compiled_model_is_refreshed_uncompiled(recwarn):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    plain = Keep(model.parameters(), lr=0.0, estimator="exact")
    plain.step(lambda: model(x).square().sum())
    wanted = [plain.state[p]["curvature"] for p in model.parameters()]
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = Keep(model.parameters(), lr=0.0, estimator="exact", update_period=2)
    for _ in range(3):
        optimizer.step(lambda: compiled(x).square().sum())
    torch.testing.assert_close([optimizer.state[p]["curvature"] for p in model.parameters()], wanted)

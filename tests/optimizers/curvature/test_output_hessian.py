"""The loss's Hessian in the outputs against torch.func, loss by loss."""

import pytest
import torch
from torch import nn
from torch.func import jacrev
from torch.nn import functional as F  # noqa: N812

from optimizers import GNB
from optimizers.curvature import output_hessian
from optimizers.curvature.output_hessian import OutputHessian
from tests.support.networks import Once, draw, labels

WEIGHTS = torch.tensor([1.0, 2.0, 0.5]).double()
MISSING = torch.tensor([0, -100, 2, 1])
SEQUENCE = labels(4, 2)

LOSSES = {
    "cross-entropy": ((4, 3), lambda o: F.cross_entropy(o, labels(4)), 1),
    "summed": ((4, 3), lambda o: F.cross_entropy(o, labels(4), reduction="sum"), 1),
    "smoothed": ((4, 3), lambda o: F.cross_entropy(o, labels(4), label_smoothing=0.1), 1),
    "weighted": ((4, 3), lambda o: F.cross_entropy(o, labels(4), weight=WEIGHTS), 1),
    "smoothed and weighted": (
        (4, 3), lambda o: F.cross_entropy(o, labels(4), weight=WEIGHTS, label_smoothing=0.1, reduction="sum"), 1
    ),
    "some ignored": ((4, 3), lambda o: F.cross_entropy(o, MISSING), 1),
    "soft labels": ((4, 3), lambda o: F.cross_entropy(o, draw(4, 3).softmax(1)), 1),
    "log-likelihood": ((4, 3), lambda o: F.nll_loss(o.log_softmax(1), labels(4)), 1),
    "samples weighted": ((4, 3), lambda o: F.cross_entropy(o, labels(4), reduction="none") @ draw(4).abs(), 1),
    "two classes": ((4, 2), lambda o: F.cross_entropy(o, labels(4) % 2), 1),
    "classes last": ((4, 2, 3), lambda o: F.cross_entropy(o.flatten(0, 1), SEQUENCE.flatten()), 2),
    "classes second": ((4, 3, 2), lambda o: F.cross_entropy(o, SEQUENCE), 1),
    "classes second, square": ((4, 3, 3), lambda o: F.cross_entropy(o, labels(4, 3)), 1),
    "images": ((4, 3, 2, 1), lambda o: F.cross_entropy(o, SEQUENCE[..., None]), 1),
    "squared error": ((4, 3), lambda o: F.mse_loss(o, draw(4, 3)), None),
    "squared errors, one output": ((4,), lambda o: F.mse_loss(o, draw(4), reduction="sum"), None),
    "binary cross-entropy": ((4, 3), lambda o: F.binary_cross_entropy_with_logits(o, draw(4, 3).sigmoid()), None),
    "Poisson": ((4, 2, 3), lambda o: F.poisson_nll_loss(o, draw(4, 2, 3).abs()), None),
}  # fmt: skip


def head(outputs, loss):
    """As an estimator makes it."""
    outputs = nn.Parameter(outputs)

    def closure():
        copy = outputs * 1
        return loss(copy), copy

    return OutputHessian(Once(GNB(), closure, [outputs]).refresh)


def full_hessian(outputs, loss):
    return jacrev(jacrev(loss))(outputs).reshape(outputs.numel(), outputs.numel())


@pytest.mark.parametrize("name", LOSSES)
def test_columns_are_a_factor_of_the_hessian_of_each_sample(name):
    shape, loss, classes = LOSSES[name]
    outputs = draw(*shape, seed=4)
    found = head(outputs, loss)
    assert found.classes == classes
    assert found.factors == outputs[0].numel()
    columns = torch.cat([found.columns(0, 1), found.columns(1, found.factors)]) if found.factors > 1 else None
    whole = found.columns(0, found.factors)
    if columns is not None:
        torch.testing.assert_close(columns, whole)
    S = whole.reshape(*whole.shape[:2], -1)  # (columns, samples, outputs of a sample)
    H = torch.block_diag(*torch.einsum("knp,knq->npq", S, S))
    torch.testing.assert_close(H, full_hessian(outputs, loss), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("draws", ["signs", "labels"])
@pytest.mark.parametrize("name", ["weighted", "classes last", "classes second", "binary cross-entropy"])
def test_draws_have_mean_zero_and_the_hessian_as_covariance(name, draws):
    shape, loss, _ = LOSSES[name]
    outputs, n = draw(*shape, seed=4), 3000
    found, generator = head(outputs, loss), torch.Generator().manual_seed(0)
    vectors = torch.stack([getattr(found, draws)(generator).flatten() for _ in range(n)])
    H = full_hessian(outputs, loss)
    products = vectors[:, :, None] * vectors[:, None, :]
    assert (vectors.mean(0).abs() <= 5 * (H.diagonal() / n).sqrt() + 1e-12).all()
    assert ((products.mean(0) - H).abs() <= 7 * products.std(0) / n**0.5 + 1e-9).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [5.0, 9.0, 13.0, 18.0, 25.0, 1e3, 1e6])
def test_certain_predictions_give_finite_columns(margin, dtype):
    outputs = torch.tensor([[margin, 0, 0.5], [0, 0.5, margin], [0.1, margin, 0]], dtype=dtype)
    found = head(outputs, lambda o: F.cross_entropy(o, torch.tensor([0, 1, 1])))
    found = head(outputs, lambda o: F.cross_entropy(o, torch.tensor([0, 1, 1])))
    columns, generator = found.columns(0, 3), torch.Generator()
    assert columns.isfinite().all() and found.signs(generator).isfinite().all()
    assert found.labels(generator).isfinite().all()
    true = full_hessian(outputs.double(), lambda o: F.cross_entropy(o, torch.tensor([0, 1, 1]))).diagonal()
    torch.testing.assert_close(columns.square().sum(0).flatten().double(), true, rtol=1e-3, atol=1e-30 + 1e-9)


def step_losses():
    """What is degenerate at first, then a cross-entropy."""
    return {
        "zero weight": lambda o, step: step * F.cross_entropy(o, labels(4)),
        "nothing but ignored": lambda o, step: F.cross_entropy(
            o, labels(4) if step else torch.full((4,), -100), reduction="sum"
        ),
        "certain": lambda o, step: F.cross_entropy(o * (1 if step else 1e6), labels(4)),
    }


@pytest.mark.parametrize("name", step_losses())
def test_a_degenerate_first_loss_decides_nothing(name):
    loss, memory, outputs = step_losses()[name], {}, nn.Parameter(draw(4, 3))
    for step in (0, 1):

        def closure(step=step):
            copy = outputs * 1
            return loss(copy, step), copy

        found = OutputHessian(Once(GNB(), closure, [outputs], memory=memory).refresh)
    expected = full_hessian(outputs.detach(), lambda o: loss(o, 1)).diagonal()
    torch.testing.assert_close(found.columns(0, 3).square().sum(0).flatten(), expected)


@pytest.mark.parametrize(
    "loss",
    [
        lambda o: F.mse_loss(o, draw(4, 3)).sqrt(),  # the samples are under one root
        lambda o: F.cross_entropy(o, labels(4)).square(),
        lambda o: -F.mse_loss(o, draw(4, 3)),
        lambda o: o.mean(0).square().sum(),
    ],
)
def test_other_losses_are_refused(loss):
    with pytest.raises(ValueError, match=r"need a loss that is a sum over samples .* use hutchinson for any other"):
        head(draw(4, 3, seed=4), loss)


@pytest.mark.parametrize("outputs", [None, "text", torch.zeros(4, 3), lambda p: p.sum()])
def test_outputs_that_are_missing_or_have_no_graph_are_refused(outputs):
    param = nn.Parameter(draw(4, 3))
    given = outputs(param) if callable(outputs) else outputs
    once = Once(GNB(), lambda: (param.square().sum(), given), [param])
    with pytest.raises(ValueError, match=r"need the network's outputs: the closure must return \(loss, outputs\)"):
        once()


def test_outputs_that_the_loss_was_not_computed_from_are_refused():
    """A view made for returning it is not on the way from the parameters to the loss."""
    param = nn.Parameter(draw(4, 3))

    def closure():
        outputs = param * 2
        return F.cross_entropy(outputs, labels(4)), outputs.view(4, 3)

    with pytest.raises(ValueError, match="outputs"):
        Once(GNB(), closure, [param])()


@pytest.mark.parametrize("name", ["cross-entropy", "squared error", "binary cross-entropy"])
def test_half_precision_outputs(name):
    """As under autocast: the loss itself is computed in single precision."""
    shape, loss, classes = LOSSES[name]
    outputs = draw(*shape, seed=4).bfloat16()
    found = head(outputs, lambda o: loss(o.double()))
    assert found.classes == classes
    columns = found.columns(0, 3).double()
    expected = full_hessian(outputs.double(), loss).diagonal()
    torch.testing.assert_close(columns.square().sum(0).flatten(), expected, rtol=0.06, atol=1e-3)


@pytest.mark.parametrize("loss", [lambda o: (o * draw(4, 3)).sum(), lambda o: F.nll_loss(o, labels(4))])
def test_a_loss_that_is_linear_in_the_outputs_is_refused_with_advice(loss):
    with pytest.raises(ValueError, match=r"linear in these outputs.* return the logits"):
        head(draw(4, 3, seed=4), loss)


def test_the_numbers_that_recognise_a_loss_are_kept_where_they_are_few_alone():
    kept = output_hessian._kept_noise
    kept.cache_clear()
    few, many = (2, 3), (2, output_hessian.KEPT_ENTRIES)
    for shape in (few, many):
        first, again = (output_hessian._noise(shape, torch.float32, torch.device("cpu")) for _ in range(2))
        assert torch.equal(first, again)
    assert kept.cache_info().currsize == 1

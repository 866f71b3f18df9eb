"""Hessians beside those known in closed form, and by other routes; that to look at one changes nothing."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from optimizers import SSVP, AdaHessian, DiagHessian, Sophia, SubsampledNewton
from tasks.quadratic_deep import QuadraticDeep
from tasks.rahimi_recht import RahimiRecht
from tests.support.members import NETWORKS, Small
from tuner.hessian import hessian
from tuner.hessian.analysis import analyze_curvature
from tuner.hessian.estimates import compare_estimate
from tuner.hessian.spectrum import Spectrum, analyze


def set_up(task: Any) -> Any:
    task.setup(None, torch.device("cpu"))
    return task


def quadratic() -> Any:
    return set_up(QuadraticDeep(metric="val_loss", mode="min", batch_size=128))


def linear_network() -> Any:
    return set_up(RahimiRecht(dataset="cond29", metric="train_loss", mode="min", batch_size=128))


def by_autograd(task: Any, model: nn.Module, batch: Any) -> Tensor:
    """The Hessian by ``torch.autograd.functional``, (parameters, parameters)."""
    names = [name for name, param in model.named_parameters() if param.requires_grad]
    params = [model.get_parameter(name).detach() for name in names]

    def loss(flat: Tensor) -> Tensor:
        parts = [p.view_as(q) for p, q in zip(flat.split([q.numel() for q in params]), params, strict=True)]
        state = dict(zip(names, parts, strict=True))
        return task.loss(partial(functional_call, model, state), batch)[0]

    model.eval()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        found = torch.autograd.functional.hessian(loss, torch.cat([p.flatten() for p in params]))
    model.train()
    return found


def test_of_the_published_quadratic_it_is_the_published_matrix() -> None:
    # The instance is defined by its spectrum: 90 eigenvalues from U(0, 1), then 10 from U(30, 60), with seed 42.
    stream = np.random.RandomState(42)
    published = np.sort(np.concatenate([stream.uniform(0, 1, 90), stream.uniform(30, 60, 10)]))[::-1]
    task = quadratic()
    spectrum = analyze(task, task.build(0))
    np.testing.assert_allclose(spectrum.eigenvalues, published, atol=1e-4)  # its matrix is float32
    assert spectrum.ranks.tolist() == list(range(100))
    assert (spectrum.parameters, spectrum.rows, spectrum.trace_error) == (100, 1000, 0.0)
    assert spectrum.trace == pytest.approx(published.sum(), rel=1e-6)
    assert spectrum.diagonal is not None
    np.testing.assert_allclose(spectrum.diagonal, np.diag(task.hessian.numpy()), rtol=1e-5)


def linear_network_hessian(inputs: np.ndarray, targets: np.ndarray, first: np.ndarray, second: np.ndarray) -> Any:
    """Of f = (|R|^2 / n)^(1/2), R = X W1^T W2^T - Y with n entries, by hand.

    f'' = (J^T J + sum R R'') / (n f) - f' f'^T / f.

    dR = X dW1^T W2^T + X W1^T dW2^T, and the second derivative in the direction of both is 2 X dW1^T dW2^T.
    """
    hidden, width = first.shape
    residuals = inputs @ first.T @ second.T - targets
    count, loss = residuals.size, np.sqrt((residuals**2).mean())
    of_first = np.einsum("ri,oh->rohi", inputs, second).reshape(count, -1)
    of_second = np.einsum("rh,op->roph", inputs @ first.T, np.eye(len(second))).reshape(count, -1)
    jacobian = np.concatenate([of_first, of_second], axis=1)
    mixed = np.zeros((hidden, width, len(second), hidden))
    for unit in range(hidden):
        mixed[unit, :, :, unit] = inputs.T @ residuals
    cross = mixed.reshape(first.size, second.size)
    second_order = np.block([
        [np.zeros((first.size, first.size)), cross],
        [cross.T, np.zeros((second.size, second.size))],
    ])  # fmt: skip
    gradient = jacobian.T @ residuals.ravel() / (count * loss)
    return (jacobian.T @ jacobian + second_order) / (count * loss) - np.outer(gradient, gradient) / loss


def test_of_a_linear_network_it_is_what_is_derived_by_hand() -> None:
    task = linear_network()
    model = task.build(3)
    inputs, targets = (split.double().numpy() for split in task.splits["train"])
    first, second = (param.detach().double().numpy() for param in model.parameters())
    expected = linear_network_hessian(inputs, targets, first, second)
    spectrum = analyze(task, model)
    assert (spectrum.parameters, spectrum.rows) == (338, 700)
    assert spectrum.diagonal is not None
    np.testing.assert_allclose(spectrum.diagonal, np.diag(expected), rtol=1e-9)
    np.testing.assert_allclose(spectrum.eigenvalues[::-1], np.linalg.eigvalsh(expected), atol=1e-10)
    assert spectrum.eigenvalues[-1] < -0.01  # a saddle: both signs were compared


@pytest.mark.parametrize("network", NETWORKS)
def test_it_is_the_hessian_that_autograd_finds_in_evaluation_mode(network: str) -> None:
    task = Small(NETWORKS[network])
    model = task.build(1)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.add_(torch.rand(buffer.shape, generator=torch.Generator().manual_seed(0)))
    expected = by_autograd(task, model, task.splits["train"])
    spectrum = analyze(task, model)
    assert spectrum.diagonal is not None
    np.testing.assert_allclose(spectrum.diagonal, expected.diagonal(), atol=1e-10)
    np.testing.assert_allclose(spectrum.eigenvalues[::-1], np.linalg.eigvalsh(expected), atol=1e-9)


def test_batches_count_by_their_rows() -> None:
    task = Small()
    inputs, targets = task.splits["train"]
    parts = list(zip(inputs.split([40, 10, 7]), targets.split([40, 10, 7]), strict=True))
    whole, split = analyze(task, task.build(0)), analyze(task, task.build(0), parts)
    assert split.rows == whole.rows == 57
    np.testing.assert_allclose(split.eigenvalues, whole.eigenvalues, atol=1e-12)


def test_products_are_those_of_an_independent_library() -> None:
    task = Small(NETWORKS["convolutional"])
    model = task.build(2).eval()
    parts = [(x, y) for x, y in zip(*(tensor.split(20) for tensor in task.splits["train"]), strict=True)]
    names, params = zip(*model.named_parameters(), strict=True)
    ours = hessian.Hessian(task, model, names, parts, None)
    vectors = torch.randn(ours.shape[0], 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it imports says of PyTorch
        from curvlinops import HessianLinearOperator

        other = HessianLinearOperator(model, nn.CrossEntropyLoss(), list(params), parts)
        expected = other @ vectors
    torch.testing.assert_close(ours @ vectors, expected, rtol=1e-9, atol=1e-12)


# Estimated, beside the exact one.


@pytest.fixture(scope="module")
def both() -> tuple[Spectrum, Spectrum]:
    """Of 613 parameters: exact, and by Lanczos."""
    task = Small(lambda: nn.Sequential(nn.Linear(6, 60), nn.Tanh(), nn.Linear(60, 3), nn.Linear(3, 3)))
    model = task.build(0)
    return analyze(task, model), analyze(task, model, exact_up_to=0, probes=200)


def test_the_ends_of_the_spectrum_are_the_exact_ones(both: Any) -> None:
    exact, estimated = both
    size = exact.parameters
    assert size == 615
    assert estimated.ranks.tolist() == [0, 1, 2, 3, 4, *range(size - 5, size)]
    largest = np.abs(exact.eigenvalues).max()
    np.testing.assert_allclose(estimated.eigenvalues, exact.eigenvalues[estimated.ranks], atol=1e-4 * largest)
    assert (np.diff(exact.eigenvalues[:5]) < -1e-3 * largest).all()  # they differ by more than the tolerance


def test_the_trace_is_within_its_error_which_is_that_of_its_probes(both: Any) -> None:
    exact, estimated = both
    assert estimated.trace == pytest.approx(exact.trace, abs=4 * estimated.trace_error)
    # A Rademacher probe's variance is twice the sum of the squared entries beside the diagonal.
    assert exact.diagonal is not None
    beside = (exact.eigenvalues**2).sum() - (exact.diagonal**2).sum()
    assert estimated.trace_error == pytest.approx(np.sqrt(2 * beside / 200), rel=0.25)


def test_the_density_has_the_mass_and_the_mean_of_the_spectrum(both: Any) -> None:
    exact, estimated = both
    grid, density = estimated.density
    assert exact.density is None
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=0.02)
    width = grid[-1] - grid[0]
    assert np.trapezoid(grid * density, grid) == pytest.approx(exact.eigenvalues.mean(), abs=0.01 * width)
    within = (exact.eigenvalues > -0.05 * width) & (exact.eigenvalues < 0.05 * width)
    middle = np.where(np.abs(grid) < 0.05 * width, density, 0)
    assert np.trapezoid(middle, grid) == pytest.approx(within.mean(), abs=0.1)


def test_it_is_the_same_for_the_same_seed() -> None:
    task = Small()
    model = task.build(0)
    first, second = (analyze(task, model, exact_up_to=0, seed=7).findings() for _ in range(2))
    other = analyze(task, model, exact_up_to=0, seed=8).findings()
    assert first == second
    assert first != other


# What is found of the diagonal.


def test_the_diagonal_is_told_by_quantiles_and_the_share_of_positive_entries() -> None:
    diagonal = np.array([-1.0, 0.0, 1.0, 2.0, 3.0])
    spectrum = Spectrum(5, 9, np.zeros(5), np.arange(5), 5.0, 0.0, diagonal=diagonal)
    found = spectrum.findings()
    quantiles = [(x, value) for quantity, _, value, x in found if quantity == "diagonal_quantile"]
    assert dict(quantiles) == pytest.approx({0: -1, 0.05: -0.8, 0.25: 0, 0.5: 1, 0.75: 2, 0.95: 2.8, 1: 3})
    assert ("positive_share", 0, 0.6, None) in found
    assert ("rows", 0, 9.0, None) in found


def test_an_exact_estimator_agrees_and_a_rough_one_less() -> None:
    task = Small()
    model = task.build(0)
    found = {
        name: compare_estimate(task, model, DiagHessian(model.parameters(), estimator=name))
        for name in ("exact", "hutchinson")
    }
    assert found["exact"] is not None
    assert found["exact"].relative_error < 1e-12
    assert found["exact"].cosine == pytest.approx(1.0, abs=1e-12)
    assert found["hutchinson"] is not None
    assert found["hutchinson"].relative_error > 0.5
    assert found["hutchinson"].cosine < 0.95


def test_the_error_of_the_hutchinson_estimate_is_what_theory_says() -> None:
    # Of n Rademacher probes an entry has the variance of the sum of the squares of its row beside the diagonal, over n.
    task, samples = Small(), 400
    model = task.build(0)
    optimizer = AdaHessian(model.parameters(), estimator={"name": "hutchinson", "samples": samples})
    found = compare_estimate(task, model, optimizer)
    matrix = by_autograd(task, model, next(iter(task.batches(0, 0))))
    diagonal = matrix.diagonal()
    expected = ((matrix.square().sum() - diagonal.square().sum()) / samples).sqrt() / diagonal.norm()
    assert found is not None
    assert found.relative_error == pytest.approx(float(expected), rel=0.25)


def test_ascent_estimates_the_same_curvature() -> None:
    task = Small()
    model = task.build(0)
    found = compare_estimate(task, model, DiagHessian(model.parameters(), estimator="exact", maximize=True))
    assert found is not None
    assert found.cosine == pytest.approx(1.0)


@pytest.mark.parametrize(
    "make",
    [torch.optim.Adam, SSVP, SubsampledNewton, partial(DiagHessian, estimator="none"),
     partial(DiagHessian, estimator="secant")],
)  # fmt: skip
def test_what_is_no_estimate_of_a_diagonal_is_not_compared(make: Any) -> None:
    task = Small()
    model = task.build(0)
    assert compare_estimate(task, model, make(model.parameters())) is None


# Nothing is changed, and nothing raised.


class Restless(nn.Module):
    """Draws, counts its calls and normalises."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        torch.rand(3)
        return self.layers(x)


def test_neither_network_nor_optimizer_nor_random_streams_are_changed() -> None:
    task = Small(Restless)
    model = task.build(0)
    model.layers[2].eval()
    optimizer = Sophia(model.parameters(), estimator="hutchinson")
    for batch in task.batches(0, 0):
        optimizer.step(lambda batch=batch: task.loss(model, batch))

    def state() -> Any:
        return copy.deepcopy((
            {name: tensor.detach() for name, tensor in model.state_dict().items()},
            [param.grad for param in model.parameters()],
            optimizer.state_dict(),
            [module.training for module in model.modules()],
            torch.get_rng_state(), task.splits,
        ))  # fmt: skip

    numpy_state = np.random.get_state()[1].copy()
    before = state()
    for exact_up_to in (2000, 0):
        analyze(task, model, exact_up_to=exact_up_to)
    assert compare_estimate(task, model, optimizer) is not None
    torch.testing.assert_close(state(), before, rtol=0, atol=0)
    assert (np.random.get_state()[1] == numpy_state).all()


class Bag(nn.EmbeddingBag):
    """A sum of the vectors of numbers that are positive or not: a function without a second derivative in PyTorch."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward((x > 0).long())


def test_what_cannot_be_differentiated_twice_is_said_in_a_line() -> None:
    task = Small(lambda: Bag(2, 3))
    found, why = analyze_curvature(task, task.build(0), None)
    assert found == []
    assert why == "NotImplementedError: the derivative for '_embedding_bag_backward' is not implemented."
    assert "\n" not in why


def test_what_was_found_before_a_fault_is_kept() -> None:
    task = Small()
    model = task.build(0)
    optimizer = DiagHessian(model.parameters(), estimator="exact")
    optimizer.estimator.watch = None  # type: ignore[assignment]
    found, why = analyze_curvature(task, model, optimizer)
    assert {quantity for quantity, *_ in found} >= {"eigenvalue", "trace", "positive_share"}
    assert why.startswith("TypeError: ")


def test_a_network_that_is_not_finite_has_no_spectrum() -> None:
    task = Small()
    model = task.build(0)
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    for exact_up_to in (2000, 0):
        with pytest.raises(ValueError, match="not finite"):
            analyze(task, model, exact_up_to=exact_up_to)


def test_a_network_without_parameters_to_train_has_no_hessian() -> None:
    task = Small()
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        analyze(task, task.build(0).requires_grad_(False))


# Rows.


def test_small_networks_see_all_training_rows_and_large_ones_always_the_same(monkeypatch: Any) -> None:
    task = Small()
    (inputs, targets), train = hessian.fixed_batches(task, 10)[0], task.splits["train"]
    torch.testing.assert_close((inputs, targets), train)
    monkeypatch.setattr(hessian, "LEAST_ROWS", 5)
    monkeypatch.setattr(hessian, "MOST_WORK", 2000)
    task.evaluation_rows = 8
    batches = hessian.fixed_batches(task, 100)
    assert [len(targets) for _, targets in batches] == [8, 8, 4]
    seen = torch.cat([inputs for inputs, _ in batches])
    assert len(seen.unique(dim=0)) == 20
    assert all((train[0] == row).all(1).any() for row in seen)
    torch.testing.assert_close(hessian.fixed_batches(task, 100), batches, rtol=0, atol=0)
    assert sum(len(targets) for _, targets in hessian.fixed_batches(task, 10**9)) == 5

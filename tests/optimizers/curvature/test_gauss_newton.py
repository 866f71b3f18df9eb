"""Gauss-Newton estimators against the diagonal of J^T H J by brute force, and against the variances that follow."""

import itertools
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from optimizers import GGNMC, GNB, Exact, GGNExact
from optimizers.curvature.registry import ESTIMATORS, find_estimator
from tests.support.networks import (
    NETWORKS,
    PIECEWISE_LINEAR,
    Keep,
    Once,
    Problem,
    assert_goes_on_to_the_bit,
    draw,
    estimate,
    flat,
    gauss_newton,
    moments,
    of_both_directions,
    per_sample,
    problem,
    relative_error,
)
from tests.support.thinned import thinned

UNCOUPLED = [name for name in NETWORKS if name != "batch norm"]
SAMPLING = {
    "gnb": (GNB, "labels", "whole_batch"),
    "ggn_mc": (GGNMC, "signs", "per_sample"),
    "ggn_mc by labels": (partial(GGNMC, draws="labels"), "labels", "per_sample"),
}


@pytest.mark.parametrize("name", UNCOUPLED)
def test_ggn_exact_is_the_gauss_newton_diagonal(name):
    given = problem(name)
    found, expected = estimate(GGNExact(), given), gauss_newton(given)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)
    assert flat(found).gt(0).float().mean() > 0.5


@pytest.mark.parametrize("name", UNCOUPLED)
def test_ggn_exact_in_single_precision(name):
    given = problem(name)
    expected = gauss_newton(given)
    single = Problem(given.model.float(), given.x if given.x.dtype == torch.int64 else given.x.float(), given.loss)
    found = estimate(GGNExact(), single)
    assert all(f.dtype == torch.float32 for f in found)
    assert relative_error([f.double() for f in found], expected) < 1e-5


@pytest.mark.parametrize("name", ["batch norm"])
def test_batch_norm_in_evaluation_mode_couples_nothing(name):
    given = problem(name)
    given.model(given.x)  # running statistics other than zeros and ones
    given.model.eval()
    torch.testing.assert_close(estimate(GGNExact(), given), gauss_newton(given), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", PIECEWISE_LINEAR)
def test_the_hessian_of_a_piecewise_linear_network_is_ggn_exact(name):
    given = problem(name)
    hessian = estimate(Exact(), given)
    torch.testing.assert_close(estimate(GGNExact(), given), hessian, rtol=1e-8, atol=1e-13)


def check_mean_and_variance(estimator, draws, kind, given, start=0):
    """An error that falls as the root of the number of draws is one standard deviation at any number."""
    expected, repeats = moments(given, draws), 24
    mean, variance = expected.mean, getattr(expected, kind)
    random = variance.sqrt() > 1e-7 * mean.max()  # a key's bias, for instance, has no effect
    random[: sum(p.numel() for p in given.params[:start])] = False
    for samples in (2, 32):
        once = Once(estimator(samples=samples), given, given.params)
        found = torch.stack([flat(once()) for _ in range(repeats)])
        scores = (found - mean)[:, random] / (variance[random] / samples).sqrt()
        assert (scores.mean(0) * repeats**0.5).abs().max() < 6
        assert 0.7 < scores.square().mean().sqrt() < 1.4


@pytest.mark.parametrize("estimator", SAMPLING)
@pytest.mark.parametrize("name", thinned(UNCOUPLED, 4))
def test_sampling_estimators_are_unbiased_with_the_known_variance_over_the_samples(name, estimator):
    check_mean_and_variance(*SAMPLING[estimator], problem(name))


@pytest.mark.parametrize("draws", ["labels", "signs"])
def test_the_moments_that_the_tests_expect_are_those_of_enumerated_draws(draws):
    """One prediction of three classes: what can be drawn is easily listed."""
    given = Problem(nn.Linear(2, 3, bias=False).double(), draw(1, 2), per_sample)
    p = given()[1].detach().softmax(1)[0]
    if draws == "labels":
        vectors, weights = torch.eye(3).double() - p, p
    else:
        signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3))).double()
        vectors, weights = (signs * p.sqrt()) @ (torch.eye(3).double() - p), torch.full((8,), 1 / 8).double()
    squares = torch.stack([torch.outer(r, given.x[0]).square().flatten() for r in vectors])
    mean = weights @ squares
    expected = moments(given, draws)
    torch.testing.assert_close(expected.mean, mean)
    torch.testing.assert_close(flat(gauss_newton(given)), mean)
    for variance in (expected.per_sample, expected.whole_batch):
        torch.testing.assert_close(variance, weights @ (squares - mean).square())


@pytest.mark.parametrize("draws", ["labels", "signs"])
@pytest.mark.parametrize("name", ["relu", "convolution", "attention"])
def test_squares_per_sample_have_less_variance_than_the_batchs_square(name, draws):
    expected = moments(problem(name), draws)
    assert expected.whole_batch.sum() > expected.per_sample.sum()
    assert (expected.whole_batch > expected.per_sample * (1 - 1e-9) - 1e-18).all()


def last_batch_norm(given):
    """Where its parameters start."""
    names = [n for n, _ in given.model.named_parameters()]
    return names.index("5.weight")


def test_after_the_last_batch_norm_in_training_mode_ggn_exact_is_exact():
    given = problem("batch norm")
    start = last_batch_norm(given)
    found, expected = estimate(GGNExact(), given), gauss_newton(given)
    torch.testing.assert_close(found[start:], expected[start:], rtol=1e-9, atol=1e-14)


def test_before_a_batch_norm_in_training_mode_ggn_estimators_are_an_approximation():
    """Of the right order, and not exact: other samples' inputs are left out."""
    given = problem("batch norm")
    start, expected = last_batch_norm(given), gauss_newton(given)
    for estimator in (GGNExact(), GGNMC(samples=400)):
        error = relative_error(estimate(estimator, given)[:start], expected[:start])
        assert 0.05 < error < 2


def test_gnb_is_unbiased_before_a_batch_norm_in_training_mode_too():
    check_mean_and_variance(*SAMPLING["gnb"], problem("batch norm"))


def test_ggn_mc_after_the_last_batch_norm_is_unbiased():
    given = problem("batch norm")
    check_mean_and_variance(*SAMPLING["ggn_mc"], given, start=last_batch_norm(given))


@pytest.mark.parametrize("samples", [0, -1])
@pytest.mark.parametrize("estimator", [GNB, GGNMC])
def test_a_number_of_samples_below_one_is_refused(estimator, samples):
    with pytest.raises(ValueError, match="samples must be at least 1"):
        estimator(samples=samples)


def use_counts(model):
    counts = []
    model.register_forward_hook(lambda *_: counts.append(1))
    return counts


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_forward_pass_a_step_and_one_update_of_running_statistics(estimator):
    given, plain = problem("batch norm"), problem("batch norm")
    counts = use_counts(given.model)
    optimizer = Keep(given.params, estimator, update_period=2)
    for step in range(3):
        optimizer.step(given)
        plain()
        assert len(counts) == step + 1
        for found, expected in zip(given.model.buffers(), plain.model.buffers(), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("estimator", ["gnb", "ggn_mc", "ggn_exact"])
@pytest.mark.filterwarnings("ignore:.* knows no layer")
def test_looking_at_a_network_for_the_first_time_draws_no_random_numbers(estimator):
    given, drawn = problem("encoder"), []
    for memory in ({}, None):
        estimator_ = find_estimator(estimator)
        once = Once(estimator_, given, given.params)
        if memory is None:
            once()
            once.refresh.generator.manual_seed(0)
        torch.manual_seed(5)
        drawn.append((flat(once()), once.refresh.generator.get_state(), torch.get_rng_state()))
        torch.manual_seed(5)
        assert torch.equal(drawn[-1][2], torch.get_rng_state())
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])


def dropping(seed=3):
    """Dropout before and after a layer; each forward pass draws its mask from the global stream."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Dropout(0.4), nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    return Problem(model, draw(4, 4), per_sample)


def test_dropout_masks_are_the_gradients_own():
    given = dropping()
    torch.manual_seed(9)
    found = estimate(GGNExact(), given)
    masks = []
    for module in given.model:
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda _, args, out: masks.append((out != 0).double()))
    torch.manual_seed(9)
    given()
    kept = [mask / (1 - p) for mask, p in zip(masks, (0.4, 0.5), strict=True)]

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = given.model[1], given.model[4]

        def forward(self, x):
            return self.last(self.first(x * kept[0]).relu() * kept[1])

    torch.testing.assert_close(found, gauss_newton(Problem(Masked(), given.x, per_sample)), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("estimator", ["gnb", "ggn_mc", "ggn_exact"])
def test_a_resumed_optimizer_goes_on_to_the_bit(estimator):
    def start():
        given = dropping()
        return given, Keep(given.params, estimator, lr=0.1, update_period=2)

    assert_goes_on_to_the_bit(start, 6)


@pytest.mark.parametrize("estimator", ["gnb", "ggn_mc", "ggn_exact"])
def test_maximising_the_negated_loss_is_minimising_the_loss(estimator):
    torch.testing.assert_close(*of_both_directions(problem("relu"), estimator))


class Mixed(nn.Module):
    """A parameter and layers that the estimators do not know, before and after ones that they do."""

    def __init__(self, odd):
        super().__init__()
        self.first, self.odd, self.last = nn.Linear(4, 4), odd, nn.Linear(4, 3)

    def forward(self, x):
        h = self.first(x).tanh()
        h = h @ self.odd if isinstance(self.odd, torch.Tensor) else self.odd(h)
        return self.last(h)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.tied = nn.Linear(4, 4)

    def forward(self, x):
        return self.tied(self.tied(x).tanh())


ODD = {
    "parameter": lambda: nn.Parameter(draw(4, 4)),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "convolution in one dimension": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 1, 3, padding=1), nn.Flatten()
    ),
    "used twice": Twice,
}


@pytest.mark.parametrize("name", ODD)
def test_an_unknown_layers_parameters_get_an_unbiased_estimate_and_one_warning(name):
    torch.manual_seed(2)
    given = Problem(Mixed(ODD[name]()).double(), draw(4, 4), per_sample)
    names, expected = [n for n, _ in given.model.named_parameters()], gauss_newton(given)
    optimizer, total = Keep(given.params, "ggn_exact"), torch.zeros(len(flat(expected))).double()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(400):
            optimizer.step(given)
            total += flat(optimizer.curvatures) / 400
    odd = [p for n, p in given.model.named_parameters() if n.startswith("odd")]
    assert [w.category for w in caught] == [UserWarning] and "knows no layer" in str(caught[0].message)
    assert all(str(tuple(p.shape)) in str(caught[0].message) for p in odd)
    for n, found, true in zip(names, optimizer.curvatures, expected, strict=True):
        if not n.startswith("odd"):
            torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-14)
    assert (total - flat(expected)).norm() < 0.15 * flat(expected).norm()


@pytest.mark.parametrize("estimator", [GGNExact, partial(GGNMC, samples=4)])
@pytest.mark.parametrize("shape", ["positions first", "flattened, positions first", "flattened, samples first"])
@pytest.mark.filterwarnings("ignore:.*finds its samples mixed")
def test_outputs_whose_first_dimension_is_not_the_sample_are_never_silently_wrong(shape, estimator):
    given = problem("sequence-first encoder", samples=5)

    class Rearranged(nn.Module):
        def forward(self, x):
            outputs = given.model(x)
            if shape != "flattened, samples first":
                outputs = outputs.transpose(0, 1)
            return outputs if shape == "positions first" else outputs.flatten(0, 1)

    model = Rearranged()
    model.inner = given.model
    changed = Problem(model, given.x, lambda o: F.cross_entropy(o.reshape(-1, 3), torch.arange(15) % 3))
    expected, once = flat(gauss_newton(changed)), Once(estimator(), changed, changed.params)
    found = sum(flat(once()) for _ in range(200)) / 200
    assert (found - expected).norm() < 0.2 * expected.norm()


def test_a_head_of_zeros_decides_nothing_about_the_layers_before_it():
    given = problem("relu")
    with torch.no_grad():
        given.model[2].weight.zero_()
    optimizer = Keep(given.params, "ggn_exact")
    optimizer.step(given)
    torch.testing.assert_close(optimizer.curvatures, gauss_newton(given))
    with torch.no_grad():
        given.model[2].weight.copy_(draw(3, 5))
    optimizer.step(given)
    torch.testing.assert_close(optimizer.curvatures, gauss_newton(given))


def test_a_last_sample_that_reaches_nothing_does_not_matter():
    """All its units are off: the layer is exact all the same, at the first refresh too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        model[0].weight.abs_()
    given = Problem(model, torch.cat([draw(3, 4).abs(), -draw(1, 4).abs()]), per_sample)
    torch.testing.assert_close(estimate(GGNExact(), given), gauss_newton(given))


def test_a_first_batch_of_one_sample_does_not_settle_the_order_of_rows():
    given, alone = (problem("multi-head, sequence first", samples=n) for n in (4, 1))
    given.model.load_state_dict(alone.model.state_dict())
    optimizer = Keep(given.params, "ggn_exact")
    for x in (alone.x, given.x):
        given.x = x
        optimizer.step(given)
    torch.testing.assert_close(optimizer.curvatures, gauss_newton(given))

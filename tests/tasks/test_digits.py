"""Digits: the splits, the three networks and their losses against NumPy, SciPy and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torch.nn import functional

from tasks.base import epoch_generator
from tasks.digits import DigitsAutoencoder, DigitsCNN, DigitsVAE, parts_of_bound
from tests.support.members import Member, alone, of
from tests.support.task_checks import assert_curvature, assert_stacks
from tests.tasks.test_tabular_mlp import rows_of_splits
from tuner.training.records import Budget

TASKS = {"cnn": (DigitsCNN, 3706), "autoencoder": (DigitsAutoencoder, 5620), "vae": (DigitsVAE, 6888)}


def made(name):
    task = TASKS[name][0](metric="val_loss", mode="min", batch_size=64, dataset="digits")
    task.setup(None, torch.device("cpu"))
    return task


@pytest.fixture(params=TASKS, scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def task(name):
    return made(name)


def trained(task, lr, epochs):
    result, _ = alone(task, of(torch.optim.Adam), Member({"lr": lr}, 0), Budget(epochs, evaluations=1, test=True))
    return result.metrics


def weights(model):
    return [param.detach().double().numpy() for param in model.parameters()]


def test_60_20_20_percent_of_each_class_in_the_datas_own_order(task, name):
    digits = load_digits()
    assert digits.data.shape == (1797, 64) and digits.data.min() == 0 and digits.data.max() == 16
    for split, rows in rows_of_splits(digits.target).items():
        inputs, targets = (part.numpy() for part in task.splits[split])
        assert len(inputs) == len(targets) == {"train": 1079, "val": 359, "test": 359}[split]
        np.testing.assert_array_equal(inputs[:, :64] * 16, digits.data[rows])
        np.testing.assert_array_equal(
            targets if name == "cnn" else targets * 16, (digits.target if name == "cnn" else digits.data)[rows]
        )


def test_parameters(task, name):
    assert sum(param.numel() for param in task.build(0).parameters()) == TASKS[name][1]


def test_same_seed_same_weights_and_other_seed_other_weights(task):
    first, again, other = (torch.nn.utils.parameters_to_vector(task.build(seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_bound_on_the_loss_is_far_above_an_untrained_network(task):
    metrics = task.evaluate(task.build(0), "train")
    assert set(metrics) == set(task.worst) and task.worst["loss"] > 3 * metrics["loss"]


def test_a_stack_trains_as_its_members_do_alone(task):
    assert_stacks(task, 150)


def test_curvature_can_be_estimated(task):
    assert_curvature(task, 150)


# The classifier.


def test_the_classifiers_metrics_are_scikit_learns_of_outputs_by_hand():
    task = made("cnn")
    model = task.build(3)
    inputs, targets = (part.numpy() for part in task.splits["test"])
    w1, b1, w2, b2, w3, b3 = weights(model)

    def layer(images, w, b):
        """A convolution with padding 1, GELU by SciPy's normal distribution, and means over squares of 2 by 2."""
        around = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
        patches = np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(2, 3))
        hidden = np.einsum("ncijkl,ockl->noij", patches, w) + b[:, None, None]
        hidden = hidden * stats.norm.cdf(hidden)
        rows, channels, height, width = hidden.shape
        return hidden.reshape(rows, channels, height // 2, 2, width // 2, 2).mean(axis=(3, 5))

    hidden = layer(layer(inputs.reshape(-1, 1, 8, 8).astype(np.float64), w1, b1), w2, b2)
    logits = hidden.reshape(len(inputs), -1) @ w3.T + b3
    odds = np.exp(logits)
    assert task.evaluate(model, "test") == {
        "loss": pytest.approx(log_loss(targets, odds / odds.sum(axis=1, keepdims=True)), rel=1e-5),
        "acc": pytest.approx(accuracy_score(targets, logits.argmax(axis=1))),
        "f1": pytest.approx(f1_score(targets, logits.argmax(axis=1), average="macro")),
    }


def test_the_classifier_learns_to_be_as_good_as_logistic_regression():
    task = made("cnn")
    parts = {split: [part.numpy() for part in task.splits[split]] for split in ("train", "test")}
    logistic = LogisticRegression(max_iter=2000).fit(*parts["train"])
    assert trained(task, 3e-2, 20)["test_acc"] > logistic.score(*parts["test"]) - 0.01


# The autoencoder.


def test_the_autoencoders_loss_is_the_squared_error_of_an_image():
    task = made("autoencoder")
    model = task.build(3)
    images = task.splits["test"][0].double().numpy()
    hidden, layers = images, weights(model)
    for w, b in zip(layers[::2], layers[1::2], strict=True):
        hidden = hidden @ w.T + b
        hidden = np.tanh(hidden) if len(w) < 64 else 1 / (1 + np.exp(-hidden))
    assert [len(b) for b in layers[1::2]] == [32, 16, 8, 4, 8, 16, 32, 64]
    expected = ((hidden - images) ** 2).sum(axis=1).mean()
    assert task.evaluate(model, "test") == {"loss": pytest.approx(expected, rel=1e-5)}


def test_the_autoencoder_beats_principal_components_on_its_training_images():
    """Four of them are the best linear code of four numbers."""
    task = made("autoencoder")
    images = task.splits["train"][0].double().numpy()
    pca = PCA(4).fit(images)
    linear = ((pca.inverse_transform(pca.transform(images)) - images) ** 2).sum(axis=1).mean()
    assert linear == pytest.approx(2.3746, abs=1e-3)
    assert task.worst["loss"] == pytest.approx(10 * images.var(axis=0).sum(), rel=1e-5)
    assert trained(task, 5e-3, 40)["train_loss"] < linear


# The variational autoencoder.


def test_the_bound_is_the_one_by_scipys_distributions():
    task = made("vae")
    model = task.build(3)
    inputs, targets = (part.numpy().astype(np.float64) for part in task.splits["test"])
    images, noise = inputs[:, :64], inputs[:, 64:]
    np.testing.assert_array_equal(images, targets)
    w1, b1, w2, b2, w3, b3, w4, b4 = weights(model)
    encoded = np.tanh(images @ w1.T + b1) @ w2.T + b2
    mean, deviation = encoded[:, :4], np.exp(encoded[:, 4:] / 2)
    chance = 1 / (1 + np.exp(-(np.tanh((mean + deviation * noise) @ w3.T + b3) @ w4.T + b4)))
    reconstruction = -(images * np.log(chance) + (1 - images) * np.log(1 - chance)).sum(axis=1).mean()
    # The divergence by Monte Carlo's exact counterpart: Gauss-Hermite quadrature of log q - log p under q.
    points, of_point = np.polynomial.hermite_e.hermegauss(8)
    of_point = of_point / of_point.sum()
    codes = mean[..., None] + deviation[..., None] * points
    gaps = stats.norm.logpdf(codes, mean[..., None], deviation[..., None]) - stats.norm.logpdf(codes)
    kl = (gaps @ of_point).sum(axis=1).mean()
    assert task.evaluate(model, "test") == {
        "loss": pytest.approx(reconstruction + kl, rel=1e-5),
        "reconstruction": pytest.approx(reconstruction, rel=1e-5),
        "kl": pytest.approx(kl, rel=1e-4),
    }


def test_the_divergence_from_the_prior_itself_is_0():
    outputs = torch.zeros(3, 72)
    reconstruction, kl = parts_of_bound(outputs, torch.rand(3, 64))
    assert kl == 0 and reconstruction.item() == pytest.approx(64 * np.log(2), rel=1e-6)


def test_an_epoch_has_each_image_once_with_noise_of_seed_and_epoch_alone():
    task = made("vae")
    first, again, other = (torch.cat([x for x, _ in task.batches(seed, 2)]) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first[:, 64:], other[:, 64:])
    order = torch.randperm(1079, generator=epoch_generator(0, 2))
    assert torch.equal(first[:, :64], task.splits["train"][1][order])
    assert stats.kstest(first[:, 64:].flatten().numpy(), "norm").pvalue > 0.01
    for inputs, images in task.batches(0, 0):
        assert torch.equal(inputs[:, :64], images)


def test_evaluations_have_the_same_noise_each_time_and_it_is_normal():
    one, other = made("vae"), made("vae")
    for split in ("train", "val", "test"):
        noise = one.splits[split][0][:, 64:]
        assert torch.equal(noise, other.splits[split][0][:, 64:])
        assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.01


def test_the_variational_autoencoder_beats_pixels_on_their_own():
    """The best bound without a code is that of each pixel's mean over the training images."""
    task = made("vae")
    train, test = (task.splits[split][1].double() for split in ("train", "test"))
    chance = train.mean(dim=0).clamp(1e-3, 1 - 1e-3).expand_as(test)
    without = functional.binary_cross_entropy(chance, test, reduction="sum").item() / len(test)
    assert trained(task, 1e-2, 20)["test_loss"] < without - 1

"""The fitted photograph: its pixels and how they are split, SIREN's initialisation, and interpolation to beat."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from tasks.image_fit import psnr
from tests.support.shipped_tasks import assert_stacks_as_alone, shipped, trained_with_adam


@pytest.fixture(scope="module")
def task():
    return shipped("image_fit")


@pytest.fixture(scope="module")
def image():
    """(53, 80, 3): means of 8 x 8 pixels of the middle, a cell after the other."""
    pixels = load_sample_image("china.jpg").astype(np.float64)
    assert pixels.shape == (427, 640, 3)
    cells = np.empty((53, 80, 3))
    for i in range(53):
        for j in range(80):
            cells[i, j] = pixels[1 + 8 * i : 9 + 8 * i, 8 * j : 8 * j + 8].mean(axis=(0, 1))
    return cells / 127.5 - 1


def split_of(i, j):
    return "train" if (i + j) % 2 == 0 else ("val", "test")[i % 2]


def test_each_pixel_is_at_its_place_in_its_split(task, image):
    parts = {"train": [], "val": [], "test": []}
    for i in range(53):
        for j in range(80):
            parts[split_of(i, j)].append((i, j))
    assert [len(places) for places in parts.values()] == [2120, 1080, 1040]
    for split, places in parts.items():
        inputs, colours = (part.numpy() for part in task.splits[split])
        expected = [((i + 0.5 - 26.5) / 40, (j + 0.5 - 40) / 40) for i, j in places]
        np.testing.assert_allclose(inputs, expected, atol=1e-6)
        np.testing.assert_allclose(colours, [image[place] for place in places], atol=1e-5)


def test_evaluate_equals_numpy(task):
    model = task.build(0)
    w1, b1, w2, b2, w3, b3, w4, b4 = (p.detach().double().numpy() for p in model.parameters())
    x, y = (part.double().numpy() for part in task.splits["val"])
    hidden = np.sin(30 * (np.sin(30 * (np.sin(30 * (x @ w1.T + b1)) @ w2.T + b2)) @ w3.T + b3))
    error = np.mean((hidden @ w4.T + b4 - y) ** 2)
    expected = {"loss": error, "psnr": -10 * np.log10(error / 4)}  # colours are from -1 to 1
    assert task.evaluate(model, "val") == pytest.approx(expected, rel=1e-4)


def test_weights_are_drawn_as_published(task):
    bounds = [1 / 2, (6 / 64) ** 0.5 / 30, (6 / 64) ** 0.5 / 30, (6 / 64) ** 0.5 / 30]
    weights = [p for p in task.build(0).parameters() if p.ndim == 2]
    assert [tuple(w.shape) for w in weights] == [(64, 2), (64, 64), (64, 64), (3, 64)]
    for weight, bound in zip(weights, bounds, strict=True):
        assert 0.9 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)


def test_activations_are_distributed_as_foretold(task):
    """Sitzmann et al., theorem 1.8: after each sine the arcsine distribution, whose deviation is the root of 1/2."""
    values = task.splits["train"][0]
    with torch.no_grad():
        for layer in list(task.build(0))[:3]:
            values = layer(values)
            assert values.std().item() == pytest.approx(0.5**0.5, abs=0.05)


def test_worst_values_are_ten_times_those_of_the_mean_colour_and_cover_every_metric(task):
    colours = task.splits["train"][1].double().numpy()
    error = 10 * np.mean((colours - colours.mean(axis=0)) ** 2)
    assert task.worst == pytest.approx({"loss": error, "psnr": 10 * np.log10(4 / error)}, rel=1e-4, abs=1e-4)
    assert set(task.worst) == set(task.evaluate(task.build(0), "val"))
    assert all(task.evaluate(task.build(seed), "train")["loss"] < task.worst["loss"] / 5 for seed in range(5))


def test_training_beats_the_mean_of_the_four_neighbours_that_train(task, image):
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    means = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
    i, j = np.indices((53, 80))
    metrics = trained_with_adam("image_fit", 1e-3, task, epochs=40).metrics
    for split, odd in (("val", 0), ("test", 1)):
        of = ((i + j) % 2 == 1) & (i % 2 == odd)
        assert metrics[f"{split}_loss"] < np.mean((means - image)[of] ** 2)


def test_a_stack_is_as_runs_alone(task):
    assert_stacks_as_alone(task)


@pytest.mark.parametrize(("loss", "decibels"), [(4.0, 0.0), (0.04, 20.0), (0.0, math.inf), (math.inf, -math.inf)])
def test_decibels_of_any_loss(loss: float, decibels: float) -> None:
    """Also of one that has left the floating-point numbers: the run has diverged, and not failed."""
    assert psnr(torch.tensor(loss)).item() == pytest.approx(decibels)

"""Published results again: DeepOBS's curves, Rahimi-Recht to 1e-5; and tables beside scikit-learn's perceptron."""

from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from omegaconf import OmegaConf
from torch.optim import SGD, Adam

import optimizers
from tasks.quadratic_deep import QuadraticDeep
from tasks.rahimi_recht import RahimiRecht
from tasks.tabular_mlp import TabularMLP
from tests.support.thinned import thinned
from tuner.training.records import Budget
from tuner.training.single import train

REPOSITORY = Path(__file__).resolve().parents[2]
COND29 = REPOSITORY.parent / "shared" / "data" / "rahimi_recht" / "cond29.npz"

# Test losses of DeepOBS's published runs (TensorFlow, batches of 128, 100 epochs) after these epochs, a row per seed:
# baselines/quadratic_deep of the repository fsschneider/DeepOBS, at the learning rates that its grid found best.
EPOCHS = [1, 2, 5, 10, 20, 30, 50, 70, 100]
PUBLISHED = {
    "sgd": [
        [105.4454, 103.0418, 97.8157, 93.0985, 89.5909, 88.4715, 87.7891, 87.6042, 87.5182],
        [105.1035, 102.6895, 97.4631, 92.7465, 89.2392, 88.1193, 87.4360, 87.2509, 87.1647],
        [105.5154, 103.1127, 97.8864, 93.1717, 89.6680, 88.5489, 87.8645, 87.6779, 87.5907],
        [105.4326, 103.0141, 97.7846, 93.0671, 89.5631, 88.4460, 87.7650, 87.5802, 87.4942],
    ],
    "adam": [
        [141.7458, 110.6180, 101.3333, 94.6860, 89.8875, 88.2851, 87.3542, 87.1482, 87.0675],
        [141.7870, 110.9247, 101.5050, 94.6974, 89.8751, 88.3089, 87.4038, 87.2016, 87.1228],
        [141.3939, 111.0126, 101.3991, 94.6108, 89.8313, 88.2881, 87.3942, 87.1942, 87.1217],
        [141.8043, 110.6051, 101.2035, 94.6947, 89.8935, 88.3107, 87.3967, 87.1966, 87.1217],
    ],
}
MAKERS = {"sgd": partial(SGD, lr=10**-1.8), "adam": partial(Adam, lr=10**-1.4)}
SOLVED = 87.70315464772136  # the published "convergence performance"


class OneOrder(QuadraticDeep):
    """Every epoch in the first one's order, leaving out the same rows, and validated on the test rows.

    So the published runs were made: their batches' losses come back every seven steps.
    """

    def load(self, data_dir):
        data = super().load(data_dir)
        data.splits["val"] = data.splits["test"]
        return data

    def batches(self, seed, epoch):
        return super().batches(seed, 0)


class AnewEachEpoch(OneOrder):
    def batches(self, seed, epoch):
        return QuadraticDeep.batches(self, seed, epoch)


@cache
def curves(task_class, name, seeds):
    """Test losses at ``EPOCHS``, (seeds, 9), and the first epoch, per seed, that solves the task; 101 if none does."""
    task = task_class(metric="val_loss", mode="min", batch_size=128)
    task.setup(None, torch.device("cpu"))
    made = np.empty((seeds, 101))
    for seed in range(seeds):
        evaluations = []
        budget = Budget(100, evaluations=100)
        train(task, lambda params, hp: MAKERS[name](params), {}, seed, budget, evaluations.append)
        made[seed] = [evaluation.metrics["val_loss"] for evaluation in evaluations]
    solved = made <= SOLVED
    return made[:, EPOCHS], np.where(solved.any(axis=1), solved.argmax(axis=1), 101)


@pytest.mark.parametrize("name", MAKERS)
def test_deepobs_curves_are_met_epoch_by_epoch(name):
    """Ten seeds' mean is within four standard errors of the published four's, at each epoch.

    Rows left out differ by seed, which moves a curve that falls from 353 to 87 by 0.2; the tolerance is at most 0.7.
    """
    ours, published = curves(OneOrder, name, 10)[0], np.array(PUBLISHED[name])
    variance = (9 * ours.var(axis=0, ddof=1) + 3 * published.var(axis=0, ddof=1)) / 12
    tolerance = 4 * np.sqrt(variance * (1 / 10 + 1 / 4))
    assert tolerance.max() < 0.7
    np.testing.assert_array_less(np.abs(ours.mean(axis=0) - published.mean(axis=0)), tolerance)


@pytest.mark.parametrize("name", MAKERS)
def test_seeds_differ_as_much_as_the_published_ones(name):
    ours, published = curves(OneOrder, name, 10)[0], np.array(PUBLISHED[name])
    ratio = ours.var(axis=0, ddof=1) / published.var(axis=0, ddof=1)
    low, high = scipy.stats.f.ppf([1e-3, 1 - 1e-3], 9, 3)
    assert low < ratio.min() and ratio.max() < high


def test_sgd_descends_as_published_after_its_first_epoch():
    """The rows left out move the whole curve of SGD alike, so that falls between epochs hardly differ by seed."""
    ours, published = (
        -np.diff(some, axis=1)[:, 1:] for some in (curves(OneOrder, "sgd", 10)[0], np.array(PUBLISHED["sgd"]))
    )
    np.testing.assert_allclose(ours.mean(axis=0), published.mean(axis=0), atol=0.02)


@pytest.mark.parametrize(("name", "low", "high"), [("sgd", 39, 66), ("adam", 39, 40)])
def test_published_speed(name, low, high):
    """The published seeds solve the task after ``low`` to ``high`` epochs."""
    assert low <= np.median(curves(OneOrder, name, 10)[1]) <= high


@pytest.mark.parametrize("name", MAKERS)
def test_an_order_anew_each_epoch_ends_where_the_published_runs_do(name):
    """As the task itself trains: the noise that then never settles costs a few tenths."""
    ours = curves(AnewEachEpoch, name, 5)[0].mean(axis=0)
    np.testing.assert_allclose(ours, np.mean(PUBLISHED[name], axis=0), atol=0.5)


FOUND = {"ssdh": {"lr": 0.5, "rho": 0.03}, "ssvp": {"lr": 0.1, "rho": 0.15}}
"""What a search of the paper preset finds (100 trials of 150 epochs, of which over 40 end below 1e-5), rounded."""


@pytest.mark.skipif(not COND29.is_file(), reason="the published instance is not here")
@pytest.mark.parametrize("hp", thinned(["found", "default"], 2))
@pytest.mark.parametrize("name", thinned(FOUND, 2))
def test_rahimi_recht_is_solved_to_1e_5_in_3000_epochs(name, hp):
    config = OmegaConf.to_container(OmegaConf.load(REPOSITORY / "configs" / "optimizers" / f"{name}.yaml"))
    hp = FOUND[name] if hp == "found" else config["defaults"][0]
    assert all(config["space"][key]["low"] <= value <= config["space"][key]["high"] for key, value in hp.items())
    task = RahimiRecht(dataset=str(COND29), metric="train_loss", mode="min", batch_size=128)
    task.setup(None, torch.device("cpu"))
    weights = []

    def make(params, hp):
        weights.extend(params)
        return getattr(optimizers, config["class"].removeprefix("optimizers."))(weights, **config["args"], **hp)

    result = train(task, make, hp, 0, Budget(3000, evaluations=1))
    assert result.status == "complete" and result.metrics["train_loss"] < 1e-5
    # Once more in double precision and without the task. Rounding of the stored targets alone makes 2.2e-6.
    first, second = (param.detach().double().numpy() for param in weights)
    with np.load(COND29) as stored:
        X, Y = stored["X"][:700].astype(np.float64), stored["Y"][:700].astype(np.float64)
    assert np.sqrt(np.mean((X @ first.T @ second.T - Y) ** 2)) < 1e-5


def table_accuracies(dataset, seeds):
    """Test accuracies after 200 full-batch epochs of Adam at 1e-2."""
    task = TabularMLP(metric="val_loss", mode="min", batch_size=2048, dataset=dataset)
    task.setup(None, torch.device("cpu"))

    def accuracy(seed):
        budget = Budget(200, evaluations=1, test=True)
        return train(task, lambda params, hp: Adam(params, **hp), {"lr": 1e-2}, seed, budget).metrics["test_acc"]

    return np.array([accuracy(seed) for seed in range(seeds)])


def test_iris_is_learned_on_every_seed():
    assert table_accuracies("iris", 5).min() > 0.9


def test_digits_are_learned_as_well_as_by_scikit_learns_perceptron():
    """MLPClassifier of the same layers, rate, batch and epochs: 0.850 on average of ten seeds, deviation 0.012.

    Of shuffled rows it classifies 0.95: the last rows of each class, which test, are harder.
    """
    accuracies = table_accuracies("digits", 10)
    assert accuracies.mean() > 0.85 and accuracies.min() > 0.82

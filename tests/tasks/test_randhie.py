"""Doctor visits as Poisson counts: the table and its likelihood against statsmodels and SciPy."""

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from scipy.stats import poisson

from tests.support.shipped_tasks import assert_stacks_as_alone, shipped, trained_with_adam


@pytest.fixture(scope="module")
def task():
    return shipped("randhie")


@pytest.fixture(scope="module")
def table():
    data = sm.datasets.randhie.load_pandas().data
    return data.drop(columns="mdvis").to_numpy(), data["mdvis"].to_numpy()


@pytest.fixture(scope="module")
def fitted(table):
    """A Poisson regression of the training rows."""
    inputs, visits = table
    train = np.arange(len(visits)) % 5 < 3
    return sm.GLM(visits[train], sm.add_constant(inputs[train]), family=sm.families.Poisson()).fit()


def test_all_rows_have_the_likelihoods_published_of_them(task):
    """statsmodels' documentation, example of discrete choice: -62420 of the Poisson regression, -66647 of a constant.

    Whatever the columns' scale, and so of no other columns or counts.
    """
    inputs, visits = (
        np.concatenate([parts[place].double().numpy() for parts in task.splits.values()]) for place in (0, 1)
    )
    assert len(visits) == 20190
    fitted = sm.GLM(visits, sm.add_constant(inputs), family=sm.families.Poisson()).fit()
    assert fitted.llf == pytest.approx(-62420, abs=0.5)
    assert fitted.llnull == pytest.approx(-66647, abs=0.5)


def test_of_every_five_rows_three_train_one_validates_one_tests(task, table):
    number = np.arange(20190) % 5
    rows = {"train": number < 3, "val": number == 3, "test": number == 4}
    assert [len(task.splits[split][1]) for split in rows] == [12114, 4038, 4038]
    inputs, visits = table
    mean, deviation = inputs[rows["train"]].mean(axis=0), inputs[rows["train"]].std(axis=0)
    for split, of in rows.items():
        x, y = (part.numpy() for part in task.splits[split])
        np.testing.assert_array_equal(y[:, 0], visits[of])
        np.testing.assert_allclose(x, (inputs[of] - mean) / deviation, rtol=1e-4, atol=1e-5)


def test_loss_is_minus_the_log_likelihood_per_row_and_deviance_that_of_a_glm(task, fitted, table):
    """The fit's own logarithms of rates as outputs."""
    outputs = torch.from_numpy(np.log(fitted.fittedvalues))[:, None]
    targets = task.splits["train"][1].double()
    assert task.metrics(outputs, targets) == {
        "loss": pytest.approx(-fitted.llf / len(targets), rel=1e-9),
        "deviance": pytest.approx(fitted.deviance / len(targets), rel=1e-9),
    }


def test_evaluate_equals_numpy_and_scipy(task):
    model = task.build(0)
    w1, b1, w2, b2, w3, b3 = (p.detach().double().numpy() for p in model.parameters())
    assert [len(b) for b in (b1, b2, b3)] == [32, 32, 1]
    x, y = (part.double().numpy() for part in task.splits["test"])
    rates = np.exp(np.tanh(np.tanh(x @ w1.T + b1) @ w2.T + b2) @ w3.T + b3)
    deviance = 2 * (poisson.logpmf(y, np.where(y > 0, y, 1e-300)) - poisson.logpmf(y, rates)).mean()
    expected = {"loss": -poisson.logpmf(y, rates).mean(), "deviance": deviance}
    assert task.evaluate(model, "test") == pytest.approx(expected, rel=1e-5)


def test_worst_values_are_ten_times_those_of_the_mean_and_cover_every_metric(task):
    targets = task.splits["train"][1].double().numpy()
    assert task.worst["loss"] == pytest.approx(-10 * poisson.logpmf(targets, targets.mean()).mean(), rel=1e-5)
    assert set(task.worst) == set(task.evaluate(task.build(0), "val"))
    assert all(task.evaluate(task.build(seed), "train")["loss"] < task.worst["loss"] / 5 for seed in range(5))


def test_training_beats_the_poisson_regression_on_every_split(task, fitted, table):
    inputs, visits = table
    metrics = trained_with_adam("randhie", 3e-3, task).metrics
    for split, places in {"train": (0, 1, 2), "val": (3,), "test": (4,)}.items():
        of = np.isin(np.arange(len(visits)) % 5, places)
        linear = -poisson.logpmf(visits[of], fitted.predict(sm.add_constant(inputs[of]))).mean()
        assert metrics[f"{split}_loss"] < linear


def test_a_stack_is_as_runs_alone(task):
    assert_stacks_as_alone(task)

"""The diabetes table against what is published of it, and the perceptron against NumPy and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error
from sklearn.preprocessing import StandardScaler

from tests.support.shipped_tasks import assert_stacks_as_alone, shipped, trained_with_adam


@pytest.fixture(scope="module")
def task():
    return shipped("diabetes")


@pytest.fixture(scope="module")
def table():
    return load_diabetes(scaled=False)


def test_the_table_is_the_published_one(table):
    """Efron et al., 2004, table 1: the first and the last patient; and the target's mean, 152.13."""
    assert table.data.shape == (442, 10)
    np.testing.assert_allclose(table.data[0], [59, 2, 32.1, 101, 157, 93.2, 38, 4, 4.9, 87], atol=0.05)
    assert (table.target[0], table.target[-1]) == (151, 57)
    assert table.target.mean() == pytest.approx(152.13, abs=0.005)


def test_of_every_five_rows_three_train_one_validates_one_tests_in_the_training_rows_units(task, table):
    number = np.arange(442) % 5
    rows = {"train": number < 3, "val": number == 3, "test": number == 4}
    assert [len(task.splits[split][1]) for split in rows] == [266, 88, 88]
    inputs = StandardScaler().fit(table.data[rows["train"]])
    targets = StandardScaler().fit(table.target[rows["train"], None])
    for split, of in rows.items():
        x, y = (part.numpy() for part in task.splits[split])
        assert x.dtype == y.dtype == np.float32
        np.testing.assert_allclose(x, inputs.transform(table.data[of]), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(y, targets.transform(table.target[of, None]), rtol=1e-5, atol=1e-5)


def test_evaluate_equals_numpy_and_scikit_learn(task, table):
    model = task.build(0)
    w1, b1, w2, b2, w3, b3 = (p.detach().double().numpy() for p in model.parameters())
    assert [len(b) for b in (b1, b2, b3)] == [32, 32, 1]
    x, y = (part.double().numpy() for part in task.splits["val"])
    outputs = np.tanh(np.tanh(x @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    trained = table.target[np.arange(442) % 5 < 3]
    predicted = outputs * trained.std() + trained.mean()
    error = mean_squared_error(table.target[np.arange(442) % 5 == 3], predicted)
    expected = {"loss": pytest.approx(np.mean((outputs - y) ** 2), rel=1e-5), "rmse": pytest.approx(error**0.5)}
    assert task.evaluate(model, "val") == expected


def test_worst_values_are_ten_times_those_of_the_mean_and_cover_every_metric(task):
    variance = task.splits["train"][1].double().var(unbiased=False).item()
    assert task.worst["loss"] == pytest.approx(10 * variance, rel=1e-4)
    assert set(task.worst) == set(task.evaluate(task.build(0), "val"))
    assert all(task.evaluate(task.build(seed), "train")["loss"] < task.worst["loss"] / 5 for seed in range(5))


def test_training_fits_better_than_a_linear_regression_and_tests_as_well(task, table):
    rows = {"train": np.arange(442) % 5 < 3, "test": np.arange(442) % 5 == 4}
    fitted = LinearRegression().fit(table.data[rows["train"]], table.target[rows["train"]])
    linear = {split: mean_squared_error(table.target[of], fitted.predict(table.data[of])) for split, of in rows.items()}
    metrics = trained_with_adam("diabetes", 1e-3, task).metrics
    assert metrics["train_rmse"] < linear["train"] ** 0.5
    assert metrics["test_rmse"] < 1.02 * linear["test"] ** 0.5


def test_a_stack_is_as_runs_alone(task):
    assert_stacks_as_alone(task)


def test_same_seed_same_weights_and_other_seed_other_weights(task):
    first, again, other = (torch.nn.utils.parameters_to_vector(task.build(seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)

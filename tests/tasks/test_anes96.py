"""Party identification: the table against statsmodels and its published fit, the perceptron against NumPy."""

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.metrics import accuracy_score, f1_score, log_loss

from tests.support.shipped_tasks import assert_stacks_as_alone, shipped, trained_with_adam


@pytest.fixture(scope="module")
def task():
    return shipped("anes96")


def logit(inputs, labels):
    return sm.MNLogit(labels, sm.add_constant(inputs)).fit(disp=0, maxiter=100)


def test_all_rows_have_the_published_likelihood(task):
    """-1461.9227 in statsmodels' documentation, whatever the columns' scale, and so of no other columns or labels."""
    inputs, labels = (
        np.concatenate([parts[place].double().numpy() for parts in task.splits.values()]) for place in (0, 1)
    )
    assert inputs.shape == (944, 5)
    assert logit(inputs, labels).llf == pytest.approx(-1461.9227, abs=1e-3)


def test_every_class_is_split_60_20_20_by_the_tables_order(task):
    data = sm.datasets.anes96.load_pandas().data
    labels = data["PID"].to_numpy(int)
    inputs = data[["logpopul", "selfLR", "age", "educ", "income"]].to_numpy()
    parts = {"train": [], "val": [], "test": []}
    for label in range(7):
        rows = np.flatnonzero(labels == label).tolist()
        test = round(0.2 * len(rows))
        val = round(0.25 * (len(rows) - test))
        parts["test"] += rows[len(rows) - test :]
        parts["val"] += rows[len(rows) - test - val : len(rows) - test]
        parts["train"] += rows[: len(rows) - test - val]
    mean, deviation = inputs[parts["train"]].mean(axis=0), inputs[parts["train"]].std(axis=0)
    assert [len(rows) for rows in parts.values()] == [565, 190, 189]
    for split, rows in parts.items():
        x, y = (part.numpy() for part in task.splits[split])
        np.testing.assert_array_equal(y, labels[sorted(rows)])
        np.testing.assert_allclose(x, (inputs[sorted(rows)] - mean) / deviation, rtol=1e-4, atol=1e-5)


def test_evaluate_equals_numpy_and_scikit_learn(task):
    model = task.build(0)
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in model.parameters())
    assert (len(b1), len(b2)) == (16, 7)
    x, y = (part.numpy() for part in task.splits["test"])
    odds = np.exp(np.tanh(x @ w1.T + b1) @ w2.T + b2)
    assert task.evaluate(model, "test") == {
        "loss": pytest.approx(log_loss(y, odds / odds.sum(axis=1, keepdims=True)), rel=1e-5),
        "acc": pytest.approx(accuracy_score(y, odds.argmax(axis=1))),
        "f1": pytest.approx(f1_score(y, odds.argmax(axis=1), average="macro")),
    }


def test_worst_values_cover_every_metric(task):
    assert set(task.worst) == set(task.evaluate(task.build(0), "val"))
    assert task.worst["loss"] == pytest.approx(10 * np.log(7))


def test_training_fits_better_than_the_multinomial_logit_and_tests_as_well(task):
    x, y = (part.double().numpy() for part in task.splits["train"])
    fitted = logit(x, y)
    x, y = (part.double().numpy() for part in task.splits["test"])
    tested = log_loss(y, fitted.predict(sm.add_constant(x)))
    metrics = trained_with_adam("anes96", 3e-3, task).metrics
    assert metrics["train_loss"] < -fitted.llf / 565
    assert metrics["test_loss"] < 1.02 * tested


def test_a_stack_is_as_runs_alone(task):
    assert_stacks_as_alone(task)

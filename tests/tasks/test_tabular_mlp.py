"""Tables: which rows are in which split, how they are scaled, and the network, against scikit-learn and NumPy."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn import datasets
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.preprocessing import StandardScaler

from tasks.tabular_mlp import TabularMLP, standardised

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "configs" / "tasks" / "tabular_mlp.yaml").read_text())
TABLES = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}
SIZES = {  # rows to train, validate and test; columns, classes; parameters
    "iris": (90, 30, 30, 4, 3, 268),
    "wine": (106, 36, 36, 13, 3, 403),
    "breast_cancer": (342, 114, 113, 30, 2, 647),
    "digits": (1079, 359, 359, 64, 10, 1245),
}


def make_task(dataset):
    task = TabularMLP(metric="val_loss", mode="min", batch_size=CONFIG["train"]["batch_size"], dataset=dataset)
    task.setup(None, torch.device("cpu"))
    return task


@pytest.fixture(params=TABLES)
def dataset(request):
    return request.param


def rows_of_splits(labels):
    """Per class, counted off by hand: the last fifth tests, the last quarter of the rest validates."""
    parts = {"train": [], "val": [], "test": []}
    for label in set(labels.tolist()):
        rows = [row for row in range(len(labels)) if labels[row] == label]
        test = round(0.2 * len(rows))
        val = round(0.25 * (len(rows) - test))
        parts["test"] += rows[len(rows) - test :]
        parts["val"] += rows[len(rows) - test - val : len(rows) - test]
        parts["train"] += rows[: len(rows) - test - val]
    return {split: sorted(rows) for split, rows in parts.items()}


def test_yaml_lists_the_data_sets_and_its_batch_is_larger_than_all_of_them():
    assert CONFIG["task"]["datasets"] == list(TABLES) and CONFIG["task"]["dataset"] == "iris"
    for name in TABLES:
        task = make_task(name)
        assert task.steps_per_epoch == 1
        ((inputs, targets),) = task.batches(0, 0)
        assert len(inputs) == len(targets) == len(task.splits["train"][0])


def test_sizes(dataset):
    task = make_task(dataset)
    *rows, columns, classes, parameters = SIZES[dataset]
    assert [len(task.splits[split][1]) for split in ("train", "val", "test")] == rows
    for inputs, targets in task.splits.values():
        assert (inputs.dtype, targets.dtype, inputs.shape[1]) == (torch.float32, torch.int64, columns)
        assert targets.unique().tolist() == list(range(classes))  # every class is in every split
    assert sum(p.numel() for p in task.build(0).parameters()) == parameters
    assert task.worst["loss"] == pytest.approx(10 * np.log(classes))


def test_splits_are_60_20_20_of_every_class_scaled_by_the_training_rows(dataset):
    table = TABLES[dataset]()
    rows = rows_of_splits(table.target)
    scaler = StandardScaler().fit(table.data[rows["train"]])
    varies = scaler.var_ > 0
    task = make_task(dataset)
    for split, of in rows.items():
        inputs, targets = (part.numpy() for part in task.splits[split])
        np.testing.assert_array_equal(targets, table.target[of])
        np.testing.assert_allclose(inputs[:, varies], scaler.transform(table.data[of])[:, varies], rtol=1e-5, atol=1e-6)
        assert not inputs[:, ~varies].any()
    assert (~varies).sum() == {"digits": 3}.get(dataset, 0)


def test_training_columns_have_mean_0_and_deviation_1_or_are_0(dataset):
    inputs = make_task(dataset).splits["train"][0].double()
    deviation = inputs.std(dim=0, unbiased=False)
    np.testing.assert_allclose(inputs.mean(dim=0), 0, atol=1e-6)
    np.testing.assert_allclose(deviation[deviation > 0], 1, atol=1e-6)


def test_a_column_constant_over_the_training_rows_is_0_in_all_splits():
    table = np.array([[0.1, 1.0], [0.1, 2.0], [0.1, 3.0], [7.0, 4.0]])  # three times 0.1 has a deviation by rounding
    scaled = standardised(table, np.array([0, 1, 2]))
    np.testing.assert_allclose(scaled, [[0, -(1.5**0.5)], [0, 0], [0, 1.5**0.5], [0, 6**0.5]], rtol=1e-6)


def test_network_is_the_15_10_tanh_perceptron_and_its_metrics_are_scikit_learns(dataset):
    task = make_task(dataset)
    model = task.build(3)
    w1, b1, w2, b2, w3, b3 = (p.detach().double().numpy() for p in model.parameters())
    assert (len(b1), len(b2)) == (15, 10)
    inputs, targets = (part.numpy() for part in task.splits["test"])
    logits = np.tanh(np.tanh(inputs @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    odds = np.exp(logits)
    assert task.evaluate(model, "test") == {
        "loss": pytest.approx(log_loss(targets, odds / odds.sum(axis=1, keepdims=True)), rel=1e-5),
        "acc": pytest.approx(accuracy_score(targets, logits.argmax(axis=1))),
        "f1": pytest.approx(f1_score(targets, logits.argmax(axis=1), average="macro")),
    }


def test_same_seed_same_weights_and_other_seed_other_weights():
    task = make_task("iris")
    first, again, other = (torch.nn.utils.parameters_to_vector(task.build(seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("name", ["Iris", "mnist", "", None])
def test_an_unknown_data_set_is_refused_with_one_line_that_names_the_known_ones(name):
    with pytest.raises(ValueError, match="expected one of iris, wine, breast_cancer, digits") as caught:
        make_task(name)
    assert repr(str(name)) in str(caught.value) and "\n" not in str(caught.value)

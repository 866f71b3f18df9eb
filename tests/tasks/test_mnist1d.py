"""MNIST-1D against the package's own generator and against NumPy."""

import hashlib
import random

import numpy as np
import pytest
import torch
from mnist1d.data import get_dataset_args, make_dataset
from sklearn.metrics import f1_score

from tasks.mnist1d import MNIST1D, generate


def states():
    kind, keys, *rest = np.random.get_state()
    return kind, keys.tolist(), rest, random.getstate()


@pytest.fixture(scope="module")
def published():
    """What the package itself makes; the global generators are put back."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    dataset = make_dataset(get_dataset_args())
    np.random.set_state(numpy_state)
    random.setstate(python_state)
    return dataset


@pytest.fixture(scope="module")
def generated():
    """What ``generate`` makes, with the global generators' states before and after."""
    random.seed(11)
    np.random.seed(12)
    before = states()
    arrays = generate()
    return arrays, before, states()


@pytest.fixture(scope="module")
def task(generated, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("tasks.mnist1d.generate", lambda: generated[0])
        task = MNIST1D(metric="val_loss", mode="min", batch_size=32)
        task.setup(None, torch.device("cpu"))
    return task


def test_generate_is_the_packages_own_data(generated, published):
    arrays = generated[0]
    assert set(arrays) == {"x", "y", "x_test", "y_test"}
    for key, array in arrays.items():
        np.testing.assert_array_equal(array, published[key])


def test_generate_leaves_the_global_random_streams_as_they_were(generated):
    _, before, after = generated
    assert before == after


def test_first_3200_rows_train_the_last_800_validate_and_the_published_1000_test(task, published):
    x, y = published["x"].astype(np.float32), published["y"]
    expected = {
        "train": (x[:3200], y[:3200]),
        "val": (x[3200:], y[3200:]),
        "test": (published["x_test"].astype(np.float32), published["y_test"]),
    }
    assert {split: len(inputs) for split, (inputs, _) in task.splits.items()} == {
        "train": 3200,
        "val": 800,
        "test": 1000,
    }
    for split, (inputs, targets) in expected.items():
        np.testing.assert_array_equal(task.splits[split][0].numpy(), inputs)
        np.testing.assert_array_equal(task.splits[split][1].numpy(), targets)


def test_splits_are_disjoint_and_have_all_ten_classes(task):
    rows = [row.tobytes() for inputs, _ in task.splits.values() for row in inputs.numpy()]
    assert len(set(rows)) == 5000
    for inputs, targets in task.splits.values():
        assert inputs.shape[1:] == (40,) and inputs.dtype == torch.float32
        assert targets.unique().tolist() == list(range(10))


def test_network_is_the_5110_parameter_perceptron(task):
    shapes = [tuple(p.shape) for p in task.build(0).parameters()]
    assert shapes == [(100, 40), (100,), (10, 100), (10,)]
    assert sum(p.numel() for p in task.build(0).parameters()) == 5110


def test_same_seed_same_weights_and_other_seed_other_weights(task):
    def digest(seed):
        return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in task.build(seed).parameters())).hexdigest()

    assert digest(0) == digest(0) and digest(0) != digest(1)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_evaluate_equals_numpy(task, split):
    model = task.build(0)
    w1, b1, w2, b2 = (p.detach().numpy().astype(np.float64) for p in model.parameters())
    inputs, targets = (t.numpy() for t in task.splits[split])
    logits = np.maximum(inputs @ w1.T + b1, 0) @ w2.T + b2
    log_prob = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = {
        "loss": pytest.approx(-log_prob[np.arange(len(targets)), targets].mean(), rel=1e-5),
        "acc": pytest.approx((logits.argmax(axis=1) == targets).mean(), abs=1.5 / len(targets)),
        "f1": pytest.approx(f1_score(targets, logits.argmax(axis=1), average="macro"), abs=3e-3),
    }
    assert task.evaluate(model, split) == expected


def test_worst_values_are_beyond_a_uniform_guess_and_cover_every_metric(task):
    assert task.worst == {"loss": pytest.approx(10 * np.log(10)), "acc": 0.1, "f1": pytest.approx(2 / 110)}
    assert set(task.worst) == set(task.evaluate(task.build(0), "val"))


def test_the_data_is_kept_in_the_cache(generated, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []
    monkeypatch.setattr("tasks.mnist1d.generate", lambda: made.append(1) or generated[0])
    summaries = []
    for _ in range(2):
        task = MNIST1D(metric="val_loss", mode="min", batch_size=32)
        task.setup(None, torch.device("cpu"))
        summaries.append(task.data_summary)
    assert made == [1] and summaries[0] == summaries[1]
    assert [p.name for p in tmp_path.rglob("*.npz")] == ["mnist1d.npz"]

"""Rahimi-Recht and its instances: generated ones, the published ones, and files that do not fit."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.linear_instances import check_dataset, generate_instance, load_instance
from tasks.rahimi_recht import RahimiRecht
from tests.support.examples import examples

PUBLISHED = Path(__file__).parents[2] / ".." / "shared" / "data" / "rahimi_recht"
needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published instances are not here")


def make_task(dataset, **kwargs):
    task = RahimiRecht(dataset=str(dataset), metric="train_loss", mode="min", batch_size=128, **kwargs)
    task.setup(None, torch.device("cpu"))
    return task


def arrays(rows=20, weights=True):
    """What a good file holds."""
    rng = np.random.default_rng(5)
    A, X = rng.standard_normal((14, 12)), rng.standard_normal((rows, 12))
    extra = {"W1": rng.standard_normal((13, 12)), "W2": rng.standard_normal((14, 13))} if weights else {}
    return {"A": A, "X": X, "Y": X @ A.T, **extra}


def write(path, **stored):
    np.savez(path, **stored)
    return path


def numpy_rmse(model, inputs, targets):
    w1, w2 = (p.detach().numpy().astype(np.float64) for p in model.parameters())
    return np.sqrt(np.mean((inputs.numpy() @ w1.T @ w2.T - targets.numpy()) ** 2))


@pytest.mark.parametrize(
    ("name", "number"), [("cond29", 29), ("cond15099", 15099), ("cond1", 1), ("cond1e6", 1e6), ("cond2.5e2", 250)]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_generated_instance_has_the_condition_number_of_its_name(name, number, seed):
    instance = load_instance(name, seed)
    assert np.linalg.cond(instance.A) == pytest.approx(number, rel=1e-2)
    assert (instance.A.shape, instance.X.shape, instance.Y.shape) == ((14, 12), (1000, 12), (1000, 14))
    np.testing.assert_allclose(
        instance.Y, np.einsum("oi,ni->no", instance.A, instance.X), rtol=1e-9, atol=1e-9 * number
    )
    assert instance.W1 is None and instance.W2 is None


@examples(60)
@given(st.floats(0, 6), st.integers(0, 2**32))
def test_any_condition_number_is_hit_for_any_seed(exponent, seed):
    assert np.linalg.cond(generate_instance(10**exponent, seed).A) == pytest.approx(10**exponent, rel=1e-2)


def test_same_seed_same_instance_and_other_seed_other_instance():
    first, again, other = (generate_instance(29, seed) for seed in (3, 3, 4))
    for key in ("A", "X", "Y"):
        np.testing.assert_array_equal(getattr(first, key), getattr(again, key))
        assert not np.array_equal(getattr(first, key), getattr(other, key))


def test_rows_grow_with_the_condition_number():
    norms = np.linalg.norm(generate_instance(15099, 0).A, axis=1)
    assert norms[-1] > 100 * norms[0]


def test_the_task_splits_700_50_250_in_order_whatever_the_global_seeds():
    first = make_task("cond29")
    torch.manual_seed(123)
    np.random.seed(123)
    second = make_task("cond29")
    instance = generate_instance(29, 0)
    bounds = {"train": (0, 700), "val": (700, 750), "test": (750, 1000)}
    for split, (start, stop) in bounds.items():
        for task in (first, second):
            inputs, targets = task.splits[split]
            np.testing.assert_array_equal(inputs.numpy(), instance.X[start:stop].astype(np.float32))
            np.testing.assert_array_equal(targets.numpy(), instance.Y[start:stop].astype(np.float32))


def test_data_seed_chooses_the_instance():
    summaries = [make_task("cond29", data_seed=seed).data_summary["sha256"] for seed in (0, 0, 1)]
    assert summaries[0] == summaries[1] != summaries[2]


def test_network_is_two_bias_free_layers_of_338_standard_normal_weights():
    task = make_task("cond29")
    assert [tuple(p.shape) for p in task.build(0).parameters()] == [(13, 12), (14, 13)]
    weights = torch.cat([p.detach().flatten() for seed in range(30) for p in task.build(seed).parameters()])
    assert len(weights) == 30 * 338
    assert abs(weights.mean()) < 0.04 and abs(weights.std() - 1) < 0.03


def test_each_seed_draws_its_own_weights():
    task = make_task("cond29")
    first, again, other = (task.build(seed)[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("dataset", ["cond29", "cond15099"])
def test_loss_is_the_root_mean_square_error(dataset, split):
    task = make_task(dataset)
    model = task.build(0)
    expected = pytest.approx(numpy_rmse(model, *task.splits[split]), rel=1e-5)
    assert task.evaluate(model, split) == {"loss": expected}
    assert task.loss(model, task.splits[split])[0].item() == expected


def test_loss_has_a_finite_gradient_at_the_solution():
    task = make_task("cond29")
    outputs = torch.ones(3, 14, requires_grad=True)
    task.criterion(outputs, torch.ones(3, 14)).backward()
    assert torch.equal(outputs.grad, torch.zeros(3, 14))


def test_the_bound_is_100_times_guessing_zero_where_targets_are_large():
    task = make_task("cond15099")
    Y = np.concatenate([targets.numpy() for _, targets in task.splits.values()]).astype(np.float64)
    assert task.worst == {"loss": pytest.approx(100 * np.sqrt((Y**2).mean()), rel=1e-6)}


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("scale", [0.0, 1e-2, 1.0, 1e4])
def test_a_fresh_network_is_far_within_the_bound_whatever_the_scale(tmp_path, scale, given):
    stored = arrays()
    stored |= {"A": scale * stored["A"], "Y": scale * stored["Y"]}
    if not given:
        del stored["W1"], stored["W2"]
    task = make_task(write(tmp_path / "some.npz", **stored))
    for seed in range(5):
        assert task.evaluate(task.build(seed), "train")["loss"] < task.worst["loss"] / 20


def test_weights_of_a_file_are_the_initial_ones_for_every_seed(tmp_path):
    stored = arrays()
    task = make_task(write(tmp_path / "some.npz", **stored))
    for seed in (0, 1):
        first, second = task.build(seed).parameters()
        np.testing.assert_array_equal(first.detach().numpy(), stored["W1"].astype(np.float32))
        np.testing.assert_array_equal(second.detach().numpy(), stored["W2"].astype(np.float32))


def test_a_file_without_weights_lets_each_seed_draw_its_own(tmp_path):
    task = make_task(write(tmp_path / "some.npz", **arrays(weights=False)))
    assert not torch.equal(task.build(0)[0].weight, task.build(1)[0].weight)


@pytest.mark.parametrize(("rows", "sizes"), [(10, [7, 1, 2]), (20, [14, 1, 5]), (100, [70, 5, 25])])
def test_a_file_of_any_length_is_split_70_5_25_without_an_empty_part(tmp_path, rows, sizes):
    task = make_task(write(tmp_path / "some.npz", **arrays(rows)))
    assert [len(task.splits[split][0]) for split in ("train", "val", "test")] == sizes
    inputs = torch.cat([task.splits[split][0] for split in ("train", "val", "test")])
    np.testing.assert_array_equal(inputs.numpy(), arrays(rows)["X"].astype(np.float32))


@needs_published
@pytest.mark.parametrize(("file", "number"), [("cond29.npz", 29.32), ("cond15099.npz", 15099.1)])
def test_the_published_instances_load(file, number):
    task = make_task(PUBLISHED / file)
    with np.load(PUBLISHED / file) as stored:
        assert np.linalg.cond(stored["A"]) == pytest.approx(number, rel=1e-4)
        np.testing.assert_array_equal(task.splits["test"][0].numpy(), stored["X"][750:])
        np.testing.assert_array_equal(task.splits["train"][1].numpy(), stored["Y"][:700])
        for seed in (0, 1):
            for param, key in zip(task.build(seed).parameters(), ("W1", "W2"), strict=True):
                np.testing.assert_array_equal(param.detach().numpy(), stored[key])


def changed(**new):
    """A writer of a good file but for these arrays; None leaves one out."""

    def write_it(path):
        write(path, **{k: v for k, v in {**arrays(), **new}.items() if v is not None})

    return write_it


def with_entry(key, value):
    array = arrays()[key]
    array[0, 0] = value
    return changed(**{key: array})


def write_npy(path):
    with path.open("wb") as file:
        np.save(file, np.ones((14, 12)))


def damaged(path, damage):
    np.savez_compressed(path, **arrays())
    path.write_bytes(damage(path.read_bytes()))


BAD_FILES = {
    "absent": (lambda path: None, "no such file"),
    "a directory": (lambda path: path.mkdir(), "not a readable"),
    "empty": (lambda path: path.write_bytes(b""), "not a readable"),
    "text": (lambda path: path.write_text("A X Y\n1 2 3\n"), "not a readable"),
    "an .npy": (write_npy, "not a readable"),
    "pickled objects": (changed(A=np.array([[None]], dtype=object)), "not a readable"),
    "cut short": (lambda path: damaged(path, lambda raw: raw[:-100]), "not a readable"),
    "damaged": (lambda path: damaged(path, lambda raw: raw[:80] + b"\xff" * 40 + raw[120:]), "not a readable"),
    "no A": (changed(A=None), "A is missing"),
    "no X": (changed(X=None), "X is missing"),
    "no Y": (changed(Y=None), "Y is missing"),
    "A transposed": (changed(A=np.ones((12, 14))), "A has shape"),
    "X too wide": (changed(X=np.ones((20, 13))), "X has shape"),
    "X a number": (changed(X=np.float64(3)), "X has shape"),
    "Y too short": (changed(Y=np.ones((19, 14))), "Y has shape"),
    "W1 too wide": (changed(W1=np.ones((13, 13))), "W1 has shape"),
    "W2 flat": (changed(W2=np.ones(14 * 13)), "W2 has shape"),
    "W1 alone": (changed(W2=None), "W1 and W2"),
    "W2 alone": (changed(W1=None), "W1 and W2"),
    "strings": (changed(A=np.full((14, 12), "a")), "A must hold finite real numbers"),
    "complex": (changed(A=np.ones((14, 12), dtype=complex)), "A must hold finite real numbers"),
    "booleans": (changed(A=np.ones((14, 12), dtype=bool)), "A must hold finite real numbers"),
    "NaN": (with_entry("X", np.nan), "X must hold finite real numbers"),
    "infinity": (with_entry("W2", np.inf), "W2 must hold finite real numbers"),
    "nine rows": (lambda path: write(path, **arrays(9)), "9 rows"),
    "no rows": (lambda path: write(path, **arrays(0)), "0 rows"),
}


@pytest.mark.parametrize(("make", "complaint"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_refused_with_one_line_that_names_it(tmp_path, make, complaint):
    path = tmp_path / "some.npz"
    make(path)
    for check in (load_instance, lambda dataset: check_dataset(dataset, None), make_task):
        with pytest.raises(ValueError, match=complaint) as caught:
            check(str(path))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_good_file_is_read_as_it_is(tmp_path):
    instance = load_instance(str(write(tmp_path / "some.npz", **arrays(), comment=np.array(["kept out"]))))
    for field in fields(instance):
        np.testing.assert_array_equal(getattr(instance, field.name), arrays()[field.name])


@pytest.mark.parametrize("name", ["cond", "cond-3", "COND29", "cond29 ", "29", "some.csv", ""])
def test_an_unknown_name_is_refused_with_one_line_that_names_it(name):
    with pytest.raises(ValueError, match="neither cond<number>") as caught:
        check_dataset(name, None)
    assert repr(name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("number", ["0", "0.5", "1e13", "1e400"])
def test_a_condition_number_out_of_range_is_refused(number):
    with pytest.raises(ValueError, match="between 1 and 1e\\+12"):
        check_dataset(f"cond{number}", None)

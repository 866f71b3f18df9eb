"""The noisy quadratic of DeepOBS: its published figures, and the mathematics of a quadratic."""

import numpy as np
import pytest
import torch

from tasks.quadratic_deep import QuadraticDeep, hessian, random_rotation
from tuner.training.engine import Engine, Runner
from tuner.training.records import Budget
from tuner.training.single import train


def make_task(batch_size=128):
    task = QuadraticDeep(metric="val_loss", mode="min", batch_size=batch_size, dataset="deepobs")
    task.setup(None, torch.device("cpu"))
    return task


@pytest.fixture(scope="module")
def task():
    return make_task()


@pytest.fixture(scope="module")
def published_rows():
    """Train and test as published: their seeds are 42 and 43."""
    return {seed: np.random.RandomState(seed).normal(0.0, 0.6, (1000, 100)).astype(np.float32) for seed in (42, 43)}


def mean_loss(theta, rows):
    """The loss, one row after the other, in double precision."""
    matrix = hessian()
    return np.mean([0.5 * (theta - row) @ matrix @ (theta - row) for row in rows.astype(np.float64)])


def test_initial_test_loss_is_the_published_353_4468(task):
    assert task.evaluate(task.build(0), "test") == {"loss": pytest.approx(353.4468, abs=5e-5)}


def test_rows_are_the_published_ones_whatever_the_global_seeds(published_rows):
    np.random.seed(5)
    task = make_task()
    for split, rows in (("train", published_rows[42]), ("test", published_rows[43][:896])):
        for part in task.splits[split]:
            np.testing.assert_array_equal(part.numpy(), rows)


def test_validation_rows_are_others_drawn_alike(task):
    rows = {split: {row.tobytes() for row in task.splits[split][0].numpy()} for split in ("train", "val", "test")}
    assert {split: len(of) for split, of in rows.items()} == {"train": 1000, "val": 1000, "test": 896}
    assert not rows["val"] & (rows["train"] | rows["test"])
    val = task.splits["val"][0]
    assert abs(val.mean()) < 4 * 0.6 / 100_000**0.5
    assert val.std().item() == pytest.approx(0.6, abs=4 * 0.6 / 200_000**0.5)


def test_eigenvalues_are_90_in_the_unit_interval_and_10_from_30_to_60():
    eigenvalues = np.linalg.eigvalsh(hessian())
    assert eigenvalues[0] > 0 and eigenvalues[89] < 1 and eigenvalues[90] > 30 and eigenvalues[99] < 60
    # The first draw of the seed 42, known to everyone.
    assert np.abs(eigenvalues - 0.3745401188).min() < 1e-9


@pytest.mark.parametrize("dimensions", [2, 3, 4, 5, 10, 101])
def test_a_random_rotation_is_a_rotation(dimensions):
    rotation = random_rotation(np.random.RandomState(1), dimensions)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(dimensions), atol=1e-13)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_rotations_are_uniform():
    """An entry of a uniform rotation of space is uniform in [-1, 1]; the squared trace is 1 on average."""
    stream, n = np.random.RandomState(2), 4000
    rotations = np.stack([random_rotation(stream, 3) for _ in range(n)])
    np.testing.assert_allclose(rotations.mean(axis=0), 0, atol=4.5 * (1 / 3 / n) ** 0.5)
    np.testing.assert_allclose((rotations**2).mean(axis=0), 1 / 3, atol=4.5 * (4 / 45 / n) ** 0.5)
    np.testing.assert_allclose((rotations**4).mean(axis=0), 1 / 5, atol=4.5 * (16 / 225 / n) ** 0.5)
    assert (np.trace(rotations, axis1=1, axis2=2) ** 2).mean() == pytest.approx(1, abs=4.5 * (2 / n) ** 0.5)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_loss_is_the_quadratic_form_row_by_row(task, split):
    theta = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    model = task.build(0)
    with torch.no_grad():
        model.theta.copy_(torch.from_numpy(theta))
    expected = mean_loss(theta.astype(np.float64), task.splits[split][0].numpy())
    assert task.evaluate(model, split) == {"loss": pytest.approx(expected, rel=1e-5)}
    assert task.loss(model, task.splits[split])[0].item() == pytest.approx(expected, rel=1e-5)


def test_autocast_leaves_the_loss_as_it_is(task):
    runner = Runner(Engine(precision="bf16"), task.build(0))
    assert task.evaluate(runner.evaluated, "test") == {"loss": pytest.approx(353.4468, abs=5e-5)}


def test_gradient_and_hessian_are_those_of_the_quadratic(task):
    model, (rows, _) = task.build(0), task.splits["train"]
    batch = rows[:10], rows[:10]
    (gradient,) = torch.autograd.grad(task.loss(model, batch)[0], model.theta)
    expected = hessian() @ (1 - rows[:10].double().mean(dim=0).numpy())
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-4, atol=1e-3)

    def loss(theta):
        return task.criterion(theta.expand(10, -1), batch[1])

    second = torch.autograd.functional.hessian(loss, model.theta.detach())
    np.testing.assert_allclose(second.numpy(), hessian(), rtol=1e-4, atol=1e-4)


def test_every_seed_starts_at_one_in_each_of_100_coordinates(task):
    for seed in (0, 1):
        (theta,) = task.build(seed).parameters()
        assert torch.equal(theta, torch.ones(100))
    assert task.build(0)(task.splits["train"][0][:3]).tolist() == [[1.0] * 100] * 3


@pytest.mark.parametrize(("batch_size", "steps"), [(128, 7), (1, 1000), (300, 3), (1000, 1), (500, 2), (501, 1)])
def test_an_epoch_has_whole_batches_only_and_each_row_at_most_once(batch_size, steps):
    task = make_task(batch_size)
    assert task.steps_per_epoch == steps
    known = {row.tobytes() for row in task.splits["train"][0].numpy()}
    batches = list(task.batches(3, 0))
    assert [len(inputs) for inputs, _ in batches] == [batch_size] * steps
    seen = [row.tobytes() for inputs, _ in batches for row in inputs.numpy()]
    assert len(set(seen)) == len(seen) == steps * batch_size and set(seen) <= known
    assert all(torch.equal(inputs, targets) for inputs, targets in batches)


def test_the_order_depends_on_seed_and_epoch_alone(task):
    def order(seed, epoch):
        return torch.cat([inputs for inputs, _ in task.batches(seed, epoch)])

    first = order(0, 0)
    torch.manual_seed(9)
    assert torch.equal(first, order(0, 0))
    assert not torch.equal(first, order(0, 1)) and not torch.equal(first, order(1, 0))


def test_a_batch_larger_than_the_training_split_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at most 1000, the number of training rows, got 1001"):
        make_task(1001)


def test_the_bound_is_ten_times_the_initial_loss(task):
    assert task.worst == {"loss": pytest.approx(3534, rel=5e-3)}
    assert set(task.worst) == set(task.evaluate(task.build(0), "val"))


@pytest.mark.parametrize(("fraction", "status"), [(0.95, "complete"), (1.1, "diverged")])
def test_gradient_descent_diverges_beyond_two_over_the_largest_eigenvalue(fraction, status):
    """Full batches: the way along an eigenvector shrinks where |1 - lr eigenvalue| < 1."""
    lr = fraction * 2 / np.linalg.eigvalsh(hessian())[-1]
    result = train(
        make_task(1000), lambda params, hp: torch.optim.SGD(params, **hp), {"lr": lr}, 0, Budget(60, evaluations=1)
    )
    assert result.status == status

"""The digits' matrix: its entries and splits, and factors against NumPy, column means and alternating least squares."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tests.support.shipped_tasks import assert_stacks_as_alone, shipped, trained_with_adam


@pytest.fixture(scope="module")
def task():
    return shipped("matrix_factorisation")


@pytest.fixture(scope="module")
def matrices(task):
    """Each split as a matrix with NaN at the entries of others."""
    dense = {}
    for split, (places, entries) in task.splits.items():
        dense[split] = np.full((1797, 64), np.nan)
        dense[split][tuple(places.numpy().T)] = entries.numpy()
    return dense


def test_every_entry_is_in_one_split_standardised_by_those_that_train(matrices):
    digits = load_digits().data
    there = {split: ~np.isnan(matrix) for split, matrix in matrices.items()}
    assert {split: of.sum() for split, of in there.items()} == {"train": 92008, "val": 11500, "test": 11500}
    assert (sum(of.astype(int) for of in there.values()) == 1).all()
    mean, deviation = digits[there["train"]].mean(), digits[there["train"]].std()
    for split, of in there.items():
        np.testing.assert_allclose(matrices[split][of], (digits[of] - mean) / deviation, atol=1e-5)


def test_held_out_entries_are_the_same_each_time_and_of_all_rows_and_columns_alike(task, matrices):
    again = shipped("matrix_factorisation")
    for split, parts in task.splits.items():
        assert all(map(torch.equal, parts, again.splits[split]))
    for split in ("val", "test"):
        held = ~np.isnan(matrices[split])
        for axis, size in ((0, 1797), (1, 64)):  # binomial counts, five deviations
            assert np.abs(held.mean(axis=axis) - 0.1).max() < 5 * (0.09 / size) ** 0.5


def test_evaluate_equals_numpy(task, matrices):
    model = task.build(0)
    u, v = (p.detach().double().numpy() for p in model.parameters())
    assert (u.shape, v.shape) == ((1797, 8), (64, 8))
    assert [x.std() for x in (u, v)] == [pytest.approx(0.3, rel=0.01), pytest.approx(0.3, rel=0.15)]
    error = np.nanmean((matrices["val"] - u @ v.T) ** 2)
    deviation = load_digits().data[~np.isnan(matrices["train"])].std()
    expected = {"loss": error, "rmse": error**0.5 * deviation}
    assert task.evaluate(model, "val") == pytest.approx(expected, rel=1e-5)


def test_worst_values_are_ten_times_those_of_the_mean_and_cover_every_metric(task, matrices):
    assert task.worst["loss"] == pytest.approx(10 * np.nanvar(matrices["train"]), rel=1e-4)
    assert set(task.worst) == set(task.evaluate(task.build(0), "val"))
    assert all(task.evaluate(task.build(seed), "train")["loss"] < task.worst["loss"] / 5 for seed in range(5))


def test_training_beats_column_means_and_comes_near_to_alternating_least_squares(task, matrices):
    train, test = matrices["train"], matrices["test"]
    metrics = trained_with_adam("matrix_factorisation", 3e-2, task).metrics
    assert metrics["test_loss"] < 0.7 * np.nanmean((test - np.nanmean(train, axis=0)) ** 2)
    fitted = alternating_least_squares(train, rank=8, sweeps=4)
    assert np.nanmean((train - fitted) ** 2) > 0.9 * metrics["train_loss"]
    assert metrics["train_loss"] < 1.1 * np.nanmean((train - fitted) ** 2)


def alternating_least_squares(matrix, rank, sweeps):
    """Each row of a factor is the least-squares solution for the entries that are there; a trace of ridge."""
    there, entries = ~np.isnan(matrix), np.nan_to_num(matrix)
    v = np.linalg.svd(entries, full_matrices=False)[2][:rank].T

    def solved(other, there, entries):
        grams = np.einsum("ij,jk,jl->ikl", there, other, other, optimize=True) + 0.1 * np.eye(rank)
        return np.linalg.solve(grams, (entries @ other)[:, :, None])[:, :, 0]

    for _ in range(sweeps):
        u = solved(v, there.astype(float), entries)
        v = solved(u, there.T.astype(float), entries.T)
    return u @ v.T


def test_a_stack_is_as_runs_alone(task):
    assert_stacks_as_alone(task)

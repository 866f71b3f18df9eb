"""Poisson's equation: its solution by torch.func's second derivatives, its points, and a network that finds it."""

import numpy as np
import pytest
import torch
from torch.func import jacrev, vmap

from tasks.base import read
from tests.support.shipped_tasks import assert_stacks_as_alone, shipped, trained_with_adam


@pytest.fixture(scope="module")
def task():
    return shipped("poisson_pinn")


def solution(place):
    x, y = torch.pi * place
    return torch.sin(x) * torch.sin(y) + torch.sin(2 * x) * torch.sin(3 * y) / 4


def test_the_solution_satisfies_the_equation_and_is_zero_on_the_boundary(task):
    for inputs, targets in task.splits.values():
        places = inputs.double()
        values, force, edge = targets.double().T
        inside = edge == 0
        torch.testing.assert_close(values[inside], vmap(solution)(places[inside]), atol=1e-5, rtol=0)
        laplacian = vmap(jacrev(jacrev(solution)))(places).diagonal(dim1=1, dim2=2).sum(1)
        torch.testing.assert_close(force, -laplacian, atol=1e-3, rtol=0)
        assert not values[~inside].any()


@pytest.mark.parametrize(("split", "inside", "boundary"), [("train", 1024, 256), ("val", 512, 128), ("test", 512, 128)])
def test_points_are_inside_or_on_each_side_of_the_square_alike(task, split, inside, boundary):
    inputs, targets = (part.numpy() for part in task.splits[split])
    edge = targets[:, 2] == 1
    assert ((~edge).sum(), edge.sum()) == (inside, boundary)
    assert ((inputs[~edge] > 0) & (inputs[~edge] < 1)).all()
    for axis in (0, 1):
        for side in (0, 1):
            along = inputs[edge & (inputs[:, axis] == side), 1 - axis]
            assert len(along) == boundary / 4
            assert abs(along.mean() - 0.5) < 4 * (1 / 12 / len(along)) ** 0.5  # uniform along the side
    assert abs(inputs[~edge].mean() - 0.5) < 4 * (1 / 12 / inside / 2) ** 0.5


def test_points_are_the_same_each_time_and_no_split_has_anothers(task):
    again = shipped("poisson_pinn")
    for split, parts in task.splits.items():
        assert all(map(torch.equal, parts, again.splits[split]))
    rows = [row.tobytes() for inputs, _ in task.splits.values() for row in inputs.numpy()]
    assert len(set(rows)) == 2560


def test_evaluate_equals_numpy(task):
    model = task.build(1)
    with torch.no_grad():
        value, laplacian = model(task.splits["val"][0]).double().numpy().T
    solution, force, edge = task.splits["val"][1].double().numpy().T
    trained = task.splits["train"][1].double().numpy()
    scale = np.mean(trained[trained[:, 2] == 0, 1] ** 2)
    squares = [(v - s) ** 2 if e else (p + f) ** 2 / scale for v, p, s, f, e in zip(value, laplacian, solution, force,
                                                                                 edge, strict=True)]  # fmt: skip
    l2 = np.linalg.norm(value - solution) / np.linalg.norm(solution)
    assert task.evaluate(model, "val") == pytest.approx({"loss": np.mean(squares), "l2": l2}, rel=1e-4)


def test_the_exact_solution_has_no_loss_and_nothing_at_all_has_the_loss_of_its_share_of_points(task):
    _, targets = task.splits["train"]
    exact = read(task.metrics(torch.stack([targets[:, 0], -targets[:, 1]], dim=1), targets))
    assert exact == {"loss": 0, "l2": 0}
    zero = read(task.metrics(torch.zeros(len(targets), 2), targets))
    assert zero == {"loss": pytest.approx(1024 / 1280, rel=1e-5), "l2": pytest.approx(1)}
    assert task.worst["loss"] == pytest.approx(10 * zero["loss"], rel=0.3)
    assert set(task.worst) == set(zero)
    assert all(task.evaluate(task.build(seed), "train")["loss"] < task.worst["loss"] / 5 for seed in range(5))


def test_the_solution_is_found_at_points_that_did_not_train(task):
    metrics = trained_with_adam("poisson_pinn", 3e-2, task, epochs=40).metrics
    assert metrics["test_l2"] < 0.2 and metrics["test_loss"] < 0.02


def test_a_stack_is_as_runs_alone(task):
    assert_stacks_as_alone(task)

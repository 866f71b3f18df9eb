"""The members of a stack are evaluated at once, as they would be one by one, or one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tasks.base import Task
from tasks.transformer import Transformer
from tests.support.members import CONSTANT, NETWORKS, Small, of, perceptron, together
from tests.support.shipped_tasks import shipped
from tests.support.task_checks import few_rows_in_double
from tuner.training import stacked_evaluation
from tuner.training.engine import Engine
from tuner.training.records import Budget
from tuner.training.stack import Member, Stack
from tuner.training.stacked_evaluation import way_of

SPLITS = ("train", "val", "test")
SHIPPED = ("mnist1d", "digits_cnn", "digits_vae", "char_model", "tabular_mlp", "poisson_pinn", "co2", "image_fit",
           "matrix_factorisation", "randhie", "rahimi_recht", "diabetes")  # fmt: skip


def stack_of(task: Task, make: Any = None, engine: Engine = CONSTANT, members: int = 3, steps: int = 5) -> Stack:
    """After some steps of members with seeds and learning rates of their own."""
    own = [Member({"lr": 0.01 * (seed + 1)}, seed) for seed in range(members)]
    stack = Stack(task, make or of(torch.optim.Adam), own, engine, epochs=20)
    batches = stack.batches(20)
    for _ in range(steps):
        stack.step(next(batches))
        stack.steps += 1
    return stack


def found(stack: Stack, splits: tuple[str, ...] = SPLITS) -> list[dict[str, float]]:
    return [evaluation.metrics for evaluation in stack.evaluate(splits).values()]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that members are evaluated on one by one."""
    noted: list[str] = []
    evaluate = stacked_evaluation.evaluate

    def noting(task: Task, model: nn.Module, splits: tuple[str, ...]) -> dict[str, float]:
        noted.extend(splits)
        return evaluate(task, model, splits)

    monkeypatch.setattr(stacked_evaluation, "evaluate", noting)
    return noted


def assert_at_once_as_one_by_one(stack: Stack, calls: list[str]) -> None:
    """The first evaluation, with which the second is compared, is of members one by one."""
    first = found(stack)
    assert (way_of(stack.model).why_apart, len(calls)) == ("", 3 * len(first))
    second = found(stack)
    assert len(calls) == 3 * len(first)
    assert len({tuple(row.values()) for row in first}) == len(first)
    for one, other in zip(first, second, strict=True):
        assert list(one) == list(other)
        assert other == pytest.approx(one, rel=1e-12)
        counts = [name for name in one if name.endswith(("_acc", "_errors", "_f1"))]
        assert {name: other[name] for name in counts} == {name: one[name] for name in counts}


LARGEST = {"train": 57 * 9 * 8, "val": 18 * 9 * 8, "test": 15 * 9 * 8}
"""Bytes of the perceptron's hidden layer, of nine units."""


class Counting(Small):
    """``Small`` with metrics that are tensors."""

    def metrics(self, outputs: Any, targets: Any) -> dict[str, Any]:
        return {"loss": self.criterion(outputs, targets), "errors": (outputs.argmax(1) != targets).double().mean()}


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 3))


@pytest.mark.parametrize("network", [*NETWORKS.values(), dropping], ids=[*NETWORKS, "dropping"])
@pytest.mark.parametrize("engine", [CONSTANT, Engine(ema=0.9)], ids=["weights", "averages"])
def test_members_of_any_network(network: Any, engine: Engine, calls: list[str]) -> None:
    assert_at_once_as_one_by_one(stack_of(Counting(network), engine=engine), calls)


@pytest.mark.parametrize("name", SHIPPED)
def test_members_of_shipped_tasks(name: str, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked_evaluation, "AT_ONCE_BYTES", 2**30)
    task = few_rows_in_double(shipped(name), 4 if name == "char_model" else 40)
    task.batch_size = 16
    assert_at_once_as_one_by_one(stack_of(task, of(torch.optim.Adam, eps=1e-3)), calls)


def test_members_of_a_task_that_adds_its_metrics_up_itself(tmp_path: Path, calls: list[str]) -> None:
    for split, times in {"train": 20, "valid": 3, "test": 4}.items():
        (tmp_path / f"{split}.txt").write_text("to be or not to be that is the question\n" * times)
    sizes = {"width": 8, "heads": 2, "hidden": 6, "layers": 2, "dropout": 0.2, "length": 5}
    task = Transformer(metric="val_loss", mode="min", batch_size=16, dataset="chars", **sizes)
    task.setup(tmp_path, torch.device("cpu"))
    assert_at_once_as_one_by_one(stack_of(few_rows_in_double(task, 40)), calls)


def test_in_pieces_of_members_too(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    stacked = stacked_evaluation.Asked.stacked
    monkeypatch.setattr(stacked_evaluation.Asked, "stacked", lambda *of: (sizes.append(of[-1]), stacked(*of))[1])
    monkeypatch.setattr(stacked_evaluation, "WORTH", 2)
    monkeypatch.setattr(stacked_evaluation, "AT_ONCE_BYTES", 2 * LARGEST["train"])
    assert_at_once_as_one_by_one(stack_of(Counting(), members=5), calls)
    assert sizes == [1, 1, 1, 2, 2]


def test_the_largest_tensor_of_a_members_evaluation_is_known() -> None:
    stack = stack_of(Counting())
    found(stack)
    assert way_of(stack.model).largest == LARGEST


def test_large_members_are_evaluated_one_by_one(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked_evaluation, "AT_ONCE_BYTES", LARGEST["train"] * stacked_evaluation.WORTH - 1)
    stack = stack_of(Counting())
    found(stack), found(stack)
    assert len(calls) == 2 * 3 * 3 and stack.note == ""


def test_members_that_have_retired_are_left_out(calls: list[str]) -> None:
    stack = stack_of(Counting(dropping), members=20)
    stack.retire({4: "diverged"})
    assert_at_once_as_one_by_one(stack, calls)
    assert list(stack.evaluate(SPLITS)) == [member for member in range(20) if member != 4]


def test_before_the_first_step_the_members_of_a_seed_are_evaluated_once(calls: list[str]) -> None:
    members = [Member({"lr": 0.1}, seed) for seed in (5, 3, 5, 3)]
    stack = Stack(Counting(), of(torch.optim.SGD), members, CONSTANT, epochs=2)
    one, other, *again = found(stack)
    assert again == [one, other] and one != other
    assert len(calls) == 2 * 3


def test_a_split_that_comes_later_is_tried_when_it_comes(calls: list[str]) -> None:
    stack = stack_of(Counting())
    found(stack, ("train", "val")), found(stack, ("train", "val"))
    assert len(calls) == 2 * 3
    found(stack), found(stack)
    assert len(calls) == (2 + 3) * 3


# Those that cannot be.


class ReadsNumbers(Small):
    def metrics(self, outputs: Any, targets: Any) -> dict[str, Any]:
        loss = self.criterion(outputs, targets).item()
        return {"loss": loss, "errors": float((outputs.argmax(1) != targets).double().mean())}


class Constant(Small):
    def metrics(self, outputs: Any, targets: Any) -> dict[str, Any]:
        return {"loss": self.criterion(outputs, targets), "errors": 0.5}


class Evaluates(Counting):
    def evaluate(self, model: Any, split: str) -> dict[str, float]:
        return super().evaluate(model, split)


class Remembers(Counting):
    """A number of the first evaluation of all stays."""

    def metrics(self, outputs: Any, targets: Any) -> dict[str, Any]:
        self.calls = getattr(self, "calls", 0) + 1
        return {"loss": self.criterion(outputs, targets) * self.calls, "errors": torch.zeros(())}


class Draws(Counting):
    def metrics(self, outputs: Any, targets: Any) -> dict[str, Any]:
        return super().metrics(outputs + torch.randn_like(outputs), targets)


class Looks(nn.Sequential):
    """Decides by its outputs."""

    def __init__(self) -> None:
        super().__init__(perceptron())

    def forward(self, inputs: Any) -> Any:
        outputs = super().forward(inputs)
        return outputs if self.training or outputs.sum() > 0 else outputs + 1


class Counts(nn.Sequential):
    """Counts its evaluations in a buffer."""

    def __init__(self) -> None:
        super().__init__(perceptron())
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, inputs: Any) -> Any:
        if not self.training:
            self.seen += 1
        return super().forward(inputs) * (1 + self.seen)


APART = {
    "numbers read": (lambda: ReadsNumbers(), "item"),
    "a number": (lambda: Constant(), "must only return Tensors"),
    "evaluate": (lambda: Evaluates(), "it has an `evaluate` of its own"),
    "other numbers": (lambda: Remembers(), "the metrics of all members at once are others"),
    "random numbers": (lambda: Draws(), "random"),
    "decisions": (lambda: Counting(Looks), "data-dependent control flow"),
    "a buffer": (lambda: Counting(Counts), "an evaluation changes a buffer of the network"),
}


@pytest.mark.parametrize("kind", APART)
def test_what_cannot_be_evaluated_at_once_is_evaluated_one_by_one_and_tried_once(
    kind: str, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, why = APART[kind]
    tries: list[object] = []
    tried = stacked_evaluation._tried
    monkeypatch.setattr(stacked_evaluation, "_tried", lambda *of: (tries.append(tried(*of)), tries[-1])[1])
    stack = stack_of(make())
    found(stack)
    assert why in way_of(stack.model).why_apart
    assert stack.note.startswith("its members are evaluated one by one (") and "\n" not in stack.note
    found(stack)
    assert (len(calls), len(tries)) == (2 * 3 * 3, 1)


@pytest.mark.parametrize("kind", APART)
def test_its_numbers_are_those_of_members_one_by_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack that never tries draws and counts the same."""
    make, _ = APART[kind]
    budget, members = Budget(epochs=2, evaluations=2, test=True), [Member({"lr": lr}, 1) for lr in (0.1, 0.2)]
    torch.manual_seed(0)
    runs = together(make(), of(torch.optim.SGD), members, budget)
    monkeypatch.setattr(stacked_evaluation, "_tried", lambda *_: None)
    torch.manual_seed(0)
    expected = together(make(), of(torch.optim.SGD), members, budget)
    if kind != "other numbers":  # it counts the try
        assert [[look.metrics for look in curve] for _, curve in runs] == [
            [look.metrics for look in curve] for _, curve in expected
        ]

"""What classification tasks share, against scikit-learn and against counting."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torch import nn

from tasks.base import Data
from tasks.classification import SHORT, Classification, macro_f1
from tests.support.examples import examples

labellings = st.integers(1, 6).flatmap(
    lambda classes: st.lists(
        st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=60
    ).map(lambda pairs: (classes, *np.array(pairs).T))
)


def f1(predicted, targets, classes):
    return macro_f1(torch.as_tensor(predicted), torch.as_tensor(targets), classes).item()


@examples(200)
@given(labellings)
def test_macro_f1_equals_scikit_learns(labelling):
    classes, predicted, targets = labelling
    assert f1(predicted, targets, classes) == pytest.approx(f1_score(targets, predicted, average="macro"), abs=1e-12)


@pytest.mark.parametrize(
    ("predicted", "targets", "expected"),
    [
        ([0, 1, 2], [0, 1, 2], 1.0),
        ([1, 2, 0], [0, 1, 2], 0.0),
        ([0, 0, 0, 0], [0, 0, 1, 1], (2 * 2 / (2 * 2 + 2) + 0) / 2),  # class 1 is never predicted
        ([0, 0, 1, 1], [0, 0, 0, 0], (2 * 2 / (2 * 2 + 2) + 0) / 2),  # class 1 is predicted but not there
        ([0, 0, 2], [0, 0, 2], 1.0),  # classes 1 and 3 are neither
        ([3], [3], 1.0),
    ],
)
def test_macro_f1_of_small_cases_worked_out_by_hand(predicted, targets, expected):
    assert f1(predicted, targets, classes=4) == pytest.approx(expected)


class Lookup(Classification):
    """Rows are one-hot; the network answers each with a row of its weight."""

    def __init__(self, logits, targets, classes):
        super().__init__(metric="val_loss", mode="min", batch_size=8)
        self.logits, self.targets = logits, targets
        self.set_classes(classes)

    def load(self, data_dir: Path | None):
        rows = np.eye(len(self.targets), dtype=np.float32), self.targets
        return Data("lookup", {"train": rows, "val": rows, "test": rows})

    def network(self):
        layer = nn.Linear(len(self.targets), self.classes, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(self.logits.T))
        return layer


@pytest.fixture(scope="module")
def lookup():
    rng = np.random.default_rng(0)
    task = Lookup(rng.standard_normal((40, 5)).astype(np.float32), rng.integers(0, 5, 40), classes=5)
    task.setup(None, torch.device("cpu"))
    return task


def test_metrics_are_those_of_scikit_learn(lookup):
    odds = np.exp(lookup.logits.astype(np.float64))
    predicted = lookup.logits.argmax(axis=1)
    assert lookup.evaluate(lookup.build(0), "val") == {
        "loss": pytest.approx(log_loss(lookup.targets, odds / odds.sum(axis=1, keepdims=True)), rel=1e-5),
        "acc": pytest.approx(accuracy_score(lookup.targets, predicted)),
        "f1": pytest.approx(f1_score(lookup.targets, predicted, average="macro")),
    }


@pytest.mark.parametrize("rows", [1, 7, 39, 40])
def test_metrics_do_not_depend_on_the_rows_of_a_piece(lookup, rows, monkeypatch):
    whole = lookup.evaluate(lookup.build(0), "val")
    monkeypatch.setattr(lookup, "evaluation_rows", rows)
    pieces = lookup.evaluate(lookup.build(0), "val")
    assert pieces == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("classes", [2, SHORT - 1, SHORT, 100])
def test_an_evaluations_loss_is_that_of_training(lookup, classes):
    generator = torch.Generator().manual_seed(0)
    outputs = 20 * torch.randn(300, classes, generator=generator, dtype=torch.float64)
    targets = torch.randint(classes, (300,), generator=generator)
    targets[:5] = -100  # which cross-entropy leaves out
    with torch.no_grad():
        evaluated = lookup.criterion(outputs, targets)
    expected = outputs.logsumexp(1)[5:] - outputs.gather(1, targets.clamp(min=0)[:, None])[5:, 0]
    for loss in (evaluated, lookup.criterion(outputs, targets)):
        torch.testing.assert_close(loss, expected.mean(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_worst_values_are_those_of_always_naming_one_class_and_ten_times_a_uniform_guess(classes):
    targets = np.repeat(np.arange(classes), 3)
    task = Lookup(np.zeros((len(targets), classes), np.float32), targets, classes)
    always_0 = np.zeros_like(targets)
    assert task.worst == {
        "loss": pytest.approx(10 * log_loss(targets, np.full((len(targets), classes), 1 / classes))),
        "acc": pytest.approx(accuracy_score(targets, always_0)),
        "f1": pytest.approx(f1_score(targets, always_0, average="macro")),
    }

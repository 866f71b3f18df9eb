"""What every task shares, on one with 11 training rows and a network that has modes."""

import hashlib
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from tasks.base import Data, Task, read

ROWS = {"train": 11, "val": 4, "test": 6}


class Toy(Task):
    """Regression on numbered rows: the first input is the row's number."""

    def __init__(self):
        super().__init__(metric="val_loss", mode="min", batch_size=4)
        self.worst = {"loss": 1e3}

    def load(self, data_dir):
        rng = np.random.default_rng(0)
        splits = {}
        for split, rows in ROWS.items():
            x = rng.standard_normal((rows, 3)).astype(np.float32)
            x[:, 0] = np.arange(rows)
            splits[split] = (x, rng.standard_normal((rows, 2)).astype(np.float32))
        return Data("toy", splits)

    def network(self):
        return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))

    def criterion(self, outputs, targets):
        return nn.functional.mse_loss(outputs, targets)


@pytest.fixture
def task():
    toy = Toy()
    toy.setup(None, torch.device("cpu"))
    return toy


def digest(model):
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()


def rows_of(batches):
    return [int(row) for inputs, _ in batches for row in inputs[:, 0]]


def test_same_seed_same_weights_and_other_seed_other_weights(task):
    torch.manual_seed(1)
    first = digest(task.build(7))
    torch.manual_seed(2)
    assert digest(task.build(7)) == first
    assert len({digest(task.build(seed)) for seed in range(5)}) == 5


def test_build_leaves_the_global_random_stream_as_it_was(task):
    before = torch.get_rng_state()
    task.build(7)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 50])
def test_an_epoch_has_every_training_row_once_in_batches_of_the_asked_size(task, batch_size):
    task.batch_size = batch_size
    batches = list(task.batches(0, 0))
    assert sorted(rows_of(batches)) == list(range(11))
    assert [len(x) for x, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert len(batches) == task.steps_per_epoch == -(-11 // batch_size)


def test_batches_keep_inputs_and_targets_together(task):
    inputs, targets = task.splits["train"]
    for x, y in task.batches(3, 2):
        rows = x[:, 0].long()
        assert torch.equal(x, inputs[rows]) and torch.equal(y, targets[rows])


def test_the_order_depends_on_seed_and_epoch_alone(task):
    torch.manual_seed(1)
    first = rows_of(task.batches(3, 2))
    torch.manual_seed(2)
    assert rows_of(task.batches(3, 2)) == first
    orders = {tuple(rows_of(task.batches(seed, epoch))) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_batches_leave_the_global_random_streams_as_they_were(task):
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(task.batches(0, 0))
    assert torch.equal(torch.get_rng_state(), before) and (np.random.get_state()[1] == numpy_before).all()


def test_loss_is_the_criterion_of_the_outputs_with_its_graph(task):
    model = task.build(0).eval()
    inputs, targets = task.splits["val"]
    loss, outputs = task.loss(model, (inputs, targets))
    assert torch.equal(outputs, model(inputs)) and loss.requires_grad
    expected = ((outputs - targets).detach().numpy() ** 2).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("split", ROWS)
@pytest.mark.parametrize("training", [True, False])
def test_evaluate_works_in_eval_mode_and_leaves_the_mode_and_the_statistics(task, split, training):
    model = task.build(0).train(training)
    inputs, targets = task.splits[split]
    (w1, b1), (w2, b2) = ((model[i].weight.detach().numpy(), model[i].bias.detach().numpy()) for i in (0, 3))
    hidden = (inputs.numpy() @ w1.T + b1) / np.sqrt(1 + 1e-5)  # batch norm as it starts; no dropout
    expected = ((hidden @ w2.T + b2 - targets.numpy()) ** 2).mean()
    assert task.evaluate(model, split) == {"loss": pytest.approx(expected, rel=1e-5)}
    assert [m.training for m in model.modules()] == [training] * 5
    assert model[1].num_batches_tracked == 0 and all(p.grad is None for p in model.parameters())


def test_evaluate_leaves_a_layer_that_was_put_in_eval_mode_there(task):
    model = task.build(0).train()
    model[1].eval()
    task.evaluate(model, "val")
    assert [m.training for m in model] == [True, False, True, True]


def test_evaluation_in_pieces_gives_the_same_result(task, monkeypatch):
    model = task.build(0)
    whole = task.evaluate(model, "train")
    monkeypatch.setattr(task, "evaluation_rows", 3)
    assert task.evaluate(model, "train") == pytest.approx(whole, rel=1e-6)


def test_metrics_may_be_numbers_and_tensors_of_one_number_which_are_read_together():
    given = {
        "half": torch.tensor(0.5).half(), "hits": torch.tensor([[3]]), "fine": torch.tensor(1 / 3, dtype=torch.float64),
        "plain": 0.25, "many": torch.zeros(2), "complex": torch.tensor(1j),
    }  # fmt: skip
    found = read(given)
    assert list(found) == list(given)
    assert found | {"many": None, "complex": None} == {
        "half": 0.5, "hits": 3.0, "fine": 1 / 3, "plain": 0.25, "many": None, "complex": None,
    }  # fmt: skip
    assert found["many"] is given["many"] and found["complex"] is given["complex"]  # to be refused by their names
    assert read([0.5]) == [0.5]


def test_setup_keeps_the_summary_of_what_was_loaded(task):
    data = task.load(None)
    arrays = [data.splits[split][i] for split in ("train", "val", "test") for i in (0, 1)]
    sha256 = hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()
    assert task.data_summary == {
        "name": "toy",
        "source": "generated",
        "rows": ROWS,
        "bytes": 21 * 5 * 4,
        "sha256": sha256,
    }


def test_the_summary_tells_data_apart_by_one_bit():
    splits = {split: (np.zeros((2, 2)), np.zeros(2)) for split in ROWS}
    other = {**splits, "test": (np.zeros((2, 2)), np.array([0.0, -0.0]))}
    assert Data("a", splits).summary()["sha256"] != Data("a", other).summary()["sha256"]


def test_a_network_that_changes_the_data_itself_is_refused(task):
    task.batch_size = 11
    batches = itertools.chain.from_iterable(task.batches(0, epoch) for epoch in range(2))
    next(batches)[0].relu_()
    with pytest.raises(RuntimeError, match="in place"):
        next(batches)

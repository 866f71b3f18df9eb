"""The recurrent model of bytes: windows, the network and its metrics, and what training must beat."""

import math
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tasks.char_model import CharModel
from tests.support.members import Member, alone, of
from tests.support.task_checks import assert_curvature, assert_stacks
from tuner.training.records import Budget


def made(folder=None, **arguments):
    given = {"metric": "val_loss", "mode": "min", "batch_size": 32, "dataset": "stdlib", "length": 32}
    task = CharModel(**given | {"tokens": 30_000, "held_out_tokens": 3_000} | arguments)
    task.setup(folder, torch.device("cpu"))
    return task


@pytest.fixture(scope="module")
def task():
    return made()


def test_rows_are_windows_of_the_standard_library_and_the_bytes_after_them(task):
    first = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[0].read_bytes()
    inputs, targets = task.splits["train"]
    assert inputs.shape == targets.shape == (29_999 // 32, 32)
    assert bytes(inputs[:20].flatten().tolist()) == first[:640]
    assert bytes(targets[:20].flatten().tolist()) == first[1:641]
    assert all(len(task.splits[split][0]) == 2_999 // 32 for split in ("val", "test"))


def test_parameters(task):
    expected = 256 * 16 + 3 * 48 * (16 + 48 + 2) + 49 * 256
    assert sum(param.numel() for param in task.build(0).parameters()) == expected == 26_144


def test_metrics_are_those_of_pytorchs_gru_by_hand(task):
    model, gru = task.build(1), nn.GRU(16, 48, batch_first=True)
    (given,), (state,) = model[1].from_input, model[1].from_state
    for kind, layer in (("ih", given), ("hh", state)):
        getattr(gru, f"weight_{kind}_l0").data, getattr(gru, f"bias_{kind}_l0").data = (
            layer.weight.data,
            layer.bias.data,
        )
    inputs, targets = (part.numpy() for part in task.splits["val"])
    states = gru(model[0].weight[inputs])[0].detach().double().numpy()
    logits = states @ model[2].weight.detach().double().numpy().T + model[2].bias.detach().double().numpy()
    chances = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    loss = -np.take_along_axis(chances, targets[..., None], axis=2).mean()
    assert task.evaluate(model, "val") == {
        "loss": pytest.approx(loss, rel=1e-5),
        "acc": pytest.approx((logits.argmax(axis=2) == targets).mean(), abs=1e-3),
        "ppl": pytest.approx(np.exp(loss), rel=1e-4),
    }


def test_later_bytes_do_not_change_earlier_outputs(task):
    model, inputs = task.build(0), task.splits["val"][0][:4]
    changed = inputs.clone()
    changed[:, 20:] = 65
    before, after = model(inputs), model(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


def test_worst_values_are_those_of_a_uniform_guess_and_ten_times_its_loss(task):
    assert task.worst == {"loss": 10 * math.log(256), "acc": 1 / 256, "ppl": 256}
    metrics = task.evaluate(task.build(0), "train")
    assert set(metrics) == set(task.worst) and metrics["loss"] == pytest.approx(math.log(256), abs=0.2)


def test_adam_beats_the_frequencies_of_bytes_in_two_epochs(task):
    """Those of the training text, each byte with one more than was seen."""
    counts = np.bincount(task.splits["train"][1].flatten(), minlength=256) + 1.0
    frequencies = -np.log(counts / counts.sum())[task.splits["test"][1].numpy()].mean()
    result, _ = alone(task, of(torch.optim.Adam), Member({"lr": 2e-2}, 0), Budget(2, evaluations=1, test=True))
    assert result.metrics["test_loss"] < frequencies - 0.2


def test_a_stack_trains_as_its_members_do_alone(task):
    assert_stacks(task, 40)


@pytest.mark.filterwarnings("ignore:.*knows no layer")
def test_curvature_can_be_estimated(task):
    assert_curvature(task, 40)


def test_a_text_too_short_for_one_window_is_refused(tmp_path):
    (tmp_path / "text.txt").write_text("abc" * 100)
    with pytest.raises(ValueError, match="val has 15 bytes, too few for one window; expected at least 33"):
        made(tmp_path, dataset="bytes", tokens=None, held_out_tokens=None)


@pytest.mark.parametrize("changed", [{"length": 0}, {"tokens": -1}, {"held_out_tokens": 1.5}])
def test_bad_sizes_are_refused(changed):
    (name,) = changed
    with pytest.raises(ValueError, match=f"^{name} must be a whole number of at least 1"):
        made(**changed)

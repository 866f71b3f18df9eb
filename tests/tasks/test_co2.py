"""CO2 at Mauna Loa: the published series, its windows in time order, the network, and that it beats persistence."""

import builtins

import numpy as np
import pytest
import torch
from torch import nn

from tasks import co2
from tasks.co2 import CO2, check_dataset, windows
from tests.support.members import Member, alone, of
from tests.support.task_checks import assert_curvature, assert_stacks
from tuner.training.records import Budget

datasets = pytest.importorskip("statsmodels.datasets")


@pytest.fixture(scope="module")
def raw():
    """The table as statsmodels has it, with its gaps."""
    return datasets.co2.load().data["co2"]


@pytest.fixture(scope="module")
def task():
    task = CO2(metric="val_loss", mode="min", batch_size=64, dataset="co2")
    task.setup(None, torch.device("cpu"))
    return task


def test_the_series_is_the_published_one_with_gaps_between_their_neighbours(raw):
    series = co2.read_series()
    assert (len(raw), raw.isna().sum(), len(series)) == (2284, 59, 2284)
    known = raw.notna().to_numpy()
    assert series[known].mean() == pytest.approx(340.142247, abs=1e-6)  # statsmodels: 340.142247 of 2225 weeks
    assert (series[known].min(), series[known].max()) == (313.0, 373.9)
    np.testing.assert_array_equal(series[known], raw[known])
    where = np.flatnonzero(known)
    np.testing.assert_allclose(series, np.interp(np.arange(2284), where, raw.to_numpy()[where]), rtol=1e-14)


def test_windows_are_in_time_order_and_no_week_is_a_target_of_two_splits():
    """Of the series 0, 1, 4, 9, ... every difference says which weeks it is of."""
    series = np.arange(300.0) ** 2
    splits = windows(series)
    targets = {}
    for split, (inputs, ahead) in splits.items():
        assert inputs.shape[1:] == (26,) and ahead.shape[1:] == (13,) and (inputs[:, -1] == 0).all()
        weeks = []
        for past, future in zip(inputs, ahead, strict=True):
            last = round((future[0] - 1) / 2)  # (t + 1)^2 - t^2 = 2 t + 1
            np.testing.assert_array_equal(past, series[last - 25 : last + 1] - series[last])
            np.testing.assert_array_equal(future, series[last + 1 : last + 14] - series[last])
            weeks += range(last + 1, last + 14)
        targets[split] = weeks
    assert (min(targets["train"]), max(targets["train"])) == (26, 209)
    assert (min(targets["val"]), max(targets["val"])) == (210, 254)
    assert (min(targets["test"]), max(targets["test"])) == (255, 299)


def test_sizes_and_scale(task):
    assert {split: len(inputs) for split, (inputs, _) in task.splits.items()} == {
        "train": 1561,
        "val": 330,
        "test": 331,
    }
    inputs, targets = task.splits["train"]
    assert inputs.shape[1:] == (26, 1) and targets.shape[1:] == (13,) and inputs.dtype == targets.dtype == torch.float32
    assert targets.double().std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert sum(param.numel() for param in task.build(0).parameters()) == 1133 == 3 * 16 * (1 + 16 + 2) + 17 * 13


def test_outputs_are_a_map_of_the_last_state_of_pytorchs_gru(task):
    model, gru = task.build(1), nn.GRU(1, 16, batch_first=True)
    (given,), (state,) = model.gru.from_input, model.gru.from_state
    for kind, layer in (("ih", given), ("hh", state)):
        getattr(gru, f"weight_{kind}_l0").data, getattr(gru, f"bias_{kind}_l0").data = (
            layer.weight.data,
            layer.bias.data,
        )
    inputs, targets = task.splits["val"]
    outputs = gru(inputs)[1][0] @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(inputs), outputs)
    error = ((outputs - targets).double() ** 2).mean().item()
    assert task.evaluate(model, "val") == {
        "loss": pytest.approx(error, rel=1e-5),
        "rmse": pytest.approx(error**0.5 * task.scale, rel=1e-5),
    }


def test_worst_values_are_ten_times_the_loss_of_persistence(task):
    persistence = (task.splits["train"][1].double() ** 2).mean().item()
    assert task.worst["loss"] == pytest.approx(10 * persistence, rel=1e-6)
    assert task.worst["rmse"] == pytest.approx((10 * persistence) ** 0.5 * task.scale, rel=1e-6)
    metrics = task.evaluate(task.build(0), "train")
    assert set(metrics) == set(task.worst) and metrics["loss"] < task.worst["loss"] / 5


def test_adam_beats_persistence_by_far_in_ten_epochs(task, raw):
    result, _ = alone(task, of(torch.optim.Adam), Member({"lr": 1e-2}, 0), Budget(10, evaluations=1, test=True))
    series = raw.interpolate().to_numpy()
    ahead = np.stack([series[week + 1 : week + 14] - series[week] for week in range(1941 - 1, 2284 - 13)])
    persistence = (ahead**2).mean() ** 0.5
    assert 2 < persistence < 2.5
    assert result.metrics["test_rmse"] < 0.6 * persistence


def test_a_stack_trains_as_its_members_do_alone(task):
    assert_stacks(task, 100)


@pytest.mark.filterwarnings("ignore:.*knows no layer")
def test_curvature_can_be_estimated(task):
    assert_curvature(task, 100)


def test_without_statsmodels_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("statsmodels"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for refused in (co2.read_series, lambda: check_dataset("co2", None)):
        with pytest.raises(ValueError, match=r"^the data needs statsmodels: pip install statsmodels$"):
            refused()


def test_with_statsmodels_nothing_is_refused():
    check_dataset("co2", None)

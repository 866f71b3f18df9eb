"""A task that a program gives: an object, a class, or what its YAML file would hold."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from tasks.mnist1d import MNIST1D
from tests.support.given import in_a_notebook, refusal, searched
from tuner.config.given import gather
from tuner.config.layers import resolve


def test_a_task_object_brings_its_own_metric_and_batches() -> None:
    mine = in_a_notebook("Digits", MNIST1D)
    config, program = searched("adam", task=mine(metric="val_acc", mode="max", batch_size=7, target=0.5))
    section = config.task
    assert (section.name, section.class_, section.metric, section.mode) == (
        "Digits",
        "__main__.Digits",
        "val_acc",
        "max",
    )
    assert (section.target, section.dataset, config.train.batch_size) == (0.5, "Digits", 7)
    make = pickle.loads(program.objects)["__main__.Digits"]
    one, other = (make(metric="val_loss", mode="min", batch_size=size, dataset="Digits") for size in (3, 4))
    assert (one.batch_size, other.batch_size, one.metric, one.target) == (3, 4, "val_loss", None)


def test_a_task_class_is_ranked_by_its_loss() -> None:
    config, program = searched("adam", task=in_a_notebook("Digits", MNIST1D))
    assert (config.task.name, config.task.metric, config.task.mode) == ("Digits", "val_loss", "min")
    assert program.remarks == ["Digits: nothing said of its metric, so val_loss ranks trials, the less the better"]


def test_a_class_that_a_file_of_a_task_is_about() -> None:
    assert gather(MNIST1D, None, None)[0] == "mnist1d"


def test_a_mapping_of_a_task_has_presets() -> None:
    entry = {
        "name": "mine", "task": {"class": MNIST1D, "metric": "val_acc", "mode": "max"}, "train": {"epochs": 7},
        "presets": {"smoke": {"train": {"epochs": 2}}},
    }  # fmt: skip
    name, _, program = gather(entry, None, None)
    assert name == "mine" and program.remarks == []
    whole = resolve({"task.name": "mine"}, [], None, program.given)
    smoke = resolve({"task.name": "mine", "preset": "smoke"}, [], None, program.given)
    assert (whole.train.epochs, smoke.train.epochs) == (7, 2)
    assert (whole.task.class_, whole.task.metric, whole.task.dataset) == ("tasks.mnist1d.MNIST1D", "val_acc", "mine")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "mine", "task": 5}, "task: must be a mapping of keys to values, got 5"),
        (
            {"name": "mnist1d", "task": {"class": MNIST1D}},
            "mnist1d: there is task mnist1d already; give yours another ",
        ),
        ({"task": {"class": "tasks.mnist1d.MNIST1D"}}, "task 'tasks.mnist1d.MNIST1D': give it a name, "),
        (
            {"name": "mine", "class": MNIST1D},
            "mine: unknown key 'class'; that of a task is in its section, {'task': {'class': ",
        ),
    ],
)
def test_mappings_of_tasks_of_no_use(entry: dict[str, Any], said: str) -> None:
    assert refusal(task=entry).startswith(said)


def test_a_task_whose_init_is_not_called() -> None:
    forgetful = in_a_notebook("Digits", MNIST1D, __init__=lambda self: None)
    assert refusal(task=forgetful()) == "task Digits: has no metric; its __init__ must call that of Task"

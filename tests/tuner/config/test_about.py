"""What a task's file says about itself is checked, is true, and is no part of a run's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tasks.base import Task
from tuner.config.about import About, read_about
from tuner.config.layers import resolve
from tuner.config.registry import SHIPPED, available
from tuner.config.sources import TaskFiles
from tuner.errors import UserError
from tuner.training.build import make_task

PRESETS = ["smoke", "default", "paper"]
WIKITEXT2_KINDS = 33_278  # of words, <unk> and <eos> among them (Merity et al., 2016)


def refusal(content: Any) -> str:
    with pytest.raises(UserError) as caught:
        read_about("a.yaml", content, PRESETS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_said_is_read() -> None:
    about = read_about("a.yaml", {"model": "net", "parameters": 3, "minutes": {"smoke": 2, "paper": 0.5}}, PRESETS)
    assert (about.model, about.parameters, about.minutes) == ("net", 3, {"smoke": 2.0, "paper": 0.5})
    assert read_about("a.yaml", {}, PRESETS) == About()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"modle": "net"}, "a.yaml: about: unknown key 'modle'; did you mean 'model'? (valid: model, "),
        ({"minutes": {"smok": 1}}, "a.yaml: about.minutes: unknown preset 'smok'; did you mean 'smoke'?"),
        ({"minutes": {"smoke": 0}}, "a.yaml: about.minutes.smoke: input should be greater than 0, got 0"),
        ({"minutes": 3}, "a.yaml: about.minutes: input should be a valid dictionary, got 3"),
        ({"parameters": "5110"}, "a.yaml: about.parameters: input should be a valid integer, got '5110'"),
        ({"parameters": 0}, "a.yaml: about.parameters: input should be greater than or equal to 1, got 0"),
        ({"model": 3}, "a.yaml: about.model: input should be a valid string, got 3"),
        ("net", "a.yaml: about: must be a mapping of keys to values, got 'net'"),
        (None, "a.yaml: about: must be a mapping of keys to values, got None"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_in_a_line(content: Any, message: str) -> None:
    assert refusal(content).startswith(message)


def test_a_run_knows_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    before = resolve({"task.name": "mnist1d"}, [], tmp_path)
    (tmp_path / "tasks/mnist1d.yaml").write_text("about: {model: another}\n")
    assert resolve({"task.name": "mnist1d"}, [], tmp_path) == before


def test_of_a_task_that_a_later_file_may_change_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    assert TaskFiles("mnist1d", tmp_path).about.parameters == 5110
    (tmp_path / "tasks/mnist1d.yaml").write_text("train: {epochs: 3}\n")
    assert TaskFiles("mnist1d", tmp_path).about == About()
    (tmp_path / "tasks/mnist1d.yaml").write_text("train: {epochs: 3}\nabout: {model: mine}\n")
    assert TaskFiles("mnist1d", tmp_path).about == About(model="mine")


# Of the shipped tasks.


@pytest.mark.parametrize("name", available("tasks"))
def test_each_task_says_everything_and_nothing_else(name: str) -> None:
    content = yaml.safe_load((SHIPPED / f"tasks/{name}.yaml").read_text(encoding="utf-8"))
    assert set(content["about"]) - {"reference"} == {"model", "parameters", "minutes"}
    assert list(content["about"]["minutes"]) == list(content["presets"]) == PRESETS


def prepared(name: str, folder: Path) -> Task:
    """The task with data of its own data set's classes or words, for which no file of anyone's is needed."""
    if name in ("cifar_cnn", "resnet18"):  # ten classes, as CIFAR-10
        task = make_task(resolve({"task.name": name, "task.dataset": "digits"}))
        task.setup(None, torch.device("cpu"))
    elif name == "transformer":
        words = " ".join(f"w{number}" for number in range(WIKITEXT2_KINDS - 2))
        for split in ("train", "valid", "test"):
            (folder / f"{split}.txt").write_text(words + "\n", encoding="utf-8")
        task = make_task(resolve({"task.name": name}))
        task.setup(folder, torch.device("cpu"))
    else:
        task = make_task(resolve({"task.name": name}))
        task.setup(None, torch.device("cpu"))
    return task


@pytest.mark.parametrize("name", available("tasks"))
def test_the_network_has_as_many_parameters_as_is_said(name: str, tmp_path: Path) -> None:
    network = prepared(name, tmp_path).build(0)
    assert TaskFiles(name, None).about.parameters == sum(param.numel() for param in network.parameters())

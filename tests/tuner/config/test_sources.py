"""Where a value comes from: the last layer that says it, and the same value as a run gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tuner.config.layers import resolve
from tuner.config.registry import available
from tuner.config.sources import TaskFiles, Value, optimizer, optimizer_layers, optimizer_values, values
from tuner.errors import UserError


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def at(found: list[Value], key: str) -> tuple[Any, str]:
    [value] = [value for value in found if value.key == key]
    return value.value, value.origin


def test_each_value_has_the_last_layer_that_says_it(tmp_path: Path) -> None:
    own = write(tmp_path, {
        "defaults.yaml": {"train": {"epochs": 7, "batch_size": 9}, "faults": {"retries": 4}},
        "tasks/mnist1d.yaml": {"train": {"epochs": 8}, "presets": {"smoke": {"search": {"trials": 5}}}},
    })  # fmt: skip
    found = values(TaskFiles("mnist1d", own).layers("smoke"))
    assert at(found, "train.schedule") == ("constant", "configs/defaults.yaml")
    assert at(found, "report.margin.loss") == ("2%", "configs/tasks/mnist1d.yaml")
    assert at(found, "retrain.seeds") == (3, "configs/tasks/mnist1d.yaml, preset smoke")
    assert at(found, "train.batch_size") == (9, f"{own}/defaults.yaml")  # though the shipped task says so too
    assert at(found, "faults.retries") == (4, f"{own}/defaults.yaml")
    assert at(found, "train.epochs") == (8, f"{own}/tasks/mnist1d.yaml")
    assert at(found, "search.trials") == (5, f"{own}/tasks/mnist1d.yaml, preset smoke")
    assert at(found, "preset") == ("smoke", "the command line")
    assert at(values(TaskFiles("mnist1d", own).layers(None)), "preset") == ("default", "configs/defaults.yaml")


@pytest.mark.parametrize("preset", ["smoke", "default", "paper"])
@pytest.mark.parametrize("task", available("tasks"))
def test_a_tasks_values_are_those_of_a_run(task: str, preset: str) -> None:
    """But for optimizers, whose files come in too, and for what the schema adds of itself."""
    run = resolve({"task.name": task, "preset": preset}).model_dump(by_alias=True)
    for value in values(TaskFiles(task, None).layers(preset)):
        node: Any = run
        for key in value.key.split("."):
            node = node[key]
        seeds = value.key == "retrain.seeds"
        assert (len(node) if seeds else node) == (float(value.value) if isinstance(node, float) else value.value)


@pytest.mark.parametrize("name", available("optimizers"))
def test_an_optimizers_values_are_those_of_a_run(name: str) -> None:
    layers = optimizer_layers(name, None)
    run = resolve({"task.name": "mnist1d", "search.optimizers": [name]}).optimizers[name]
    assert optimizer(name, layers) == run
    assert {value.origin for value in optimizer_values(name, layers)} == {f"configs/optimizers/{name}.yaml"}


def test_a_hyperparameter_that_a_later_file_fixes_is_not_searched(tmp_path: Path) -> None:
    own = write(tmp_path, {"optimizers/adam.yaml": {"args": {"lr": 0.1, "eps": 1.0}}})
    layers = optimizer_layers("adam", own)
    assert optimizer("adam", layers) == resolve(
        {"task.name": "mnist1d", "search.optimizers": ["adam"]}, [], own
    ).optimizers["adam"]  # fmt: skip
    found = optimizer_values("adam", layers)
    assert at(found, "args.lr") == (0.1, f"{own}/optimizers/adam.yaml")
    assert at(found, "args.betas") == ([0.9, 0.999], "configs/optimizers/adam.yaml")
    assert not [value.key for value in found if value.key.startswith("space.lr")]


def test_defaults_may_speak_of_an_optimizer(tmp_path: Path) -> None:
    own = write(tmp_path, {"defaults.yaml": {"optimizers": {"adam": {"args": {"eps": 1.0}}}}})
    assert at(optimizer_values("adam", optimizer_layers("adam", own)), "args.eps") == (1.0, f"{own}/defaults.yaml")


def test_what_a_task_changes_of_an_optimizer_is_told(tmp_path: Path) -> None:
    presets = {"smoke": {"optimizers": {"adam": {"args": {"eps": 2.0}}}}}
    own = write(tmp_path, {"tasks/mnist1d.yaml": {"optimizers": {"adam": {"args": {"eps": 1.0}}}, "presets": presets}})
    path = f"{own}/tasks/mnist1d.yaml"
    assert TaskFiles("mnist1d", own).changes("adam") == [
        Value("optimizers.adam.args.eps", 1.0, path), Value("optimizers.adam.args.eps", 2.0, f"{path}, preset smoke"),
    ]  # fmt: skip
    assert TaskFiles("mnist1d", own).changes("sgd") == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tasks/mnist1d.yaml": {"presets": [1]}}, "{own}/tasks/mnist1d.yaml: presets must be a mapping"),
        (
            {"tasks/mnist1d.yaml": {"train": {"epocs": 1}}},
            "task mnist1d: unknown key 'train.epocs' (from {own}/tasks/mnist1d.yaml)",
        ),
        ({"tasks/mnist1d.yaml": {"about": {"modle": 1}}}, "{own}/tasks/mnist1d.yaml: about: unknown key 'modle'"),
    ],
)
def test_a_task_that_cannot_be_is_refused(files: dict[str, Any], message: str, tmp_path: Path) -> None:
    own = write(tmp_path, files)
    with pytest.raises(UserError) as caught:
        TaskFiles("mnist1d", own).config(None)
    assert str(caught.value).startswith(message.format(own=own))


def test_a_preset_that_the_task_has_not_is_refused() -> None:
    with pytest.raises(UserError, match="unknown preset of mnist1d 'smok'; did you mean 'smoke'"):
        TaskFiles("mnist1d", None).layers("smok")


def test_an_optimizer_that_cannot_be_is_refused(tmp_path: Path) -> None:
    own = write(tmp_path, {"optimizers/mine.yaml": {"class": "a.B", "space": {"lr": {"low": 1}}}})
    with pytest.raises(UserError, match=r"^optimizers\.mine\.space\.lr"):
        optimizer("mine", optimizer_layers("mine", own))
    write(tmp_path, {"optimizers/mine.yaml": {"clas": "a.B", "space": {}}})
    with pytest.raises(UserError, match=r"^optimizers\.mine\.class is missing"):
        optimizer("mine", optimizer_layers("mine", own))

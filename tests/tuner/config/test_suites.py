"""What a suite's file may say, and which word is the last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.config.suites import read_suite, resolve_suite
from tuner.errors import UserError

TASKS: dict[str, Any] = {"tabular_mlp": None, "wine": {"task": {"name": "tabular_mlp", "dataset": "wine"}}}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine" / "suites").mkdir(parents=True)
    return tmp_path / "mine"


def write(mine: Path, name: str = "two", /, **content: Any) -> None:
    path = mine / "suites" / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"tasks": TASKS} | content, sort_keys=False), encoding="utf-8")


def resolved(mine: Path, flags: Any = None, settings: Any = (), name: str = "two") -> dict[str, Config]:
    return resolve_suite(read_suite(name, mine), flags or {}, settings, mine)


def refused(mine: Path, flags: Any = None, settings: Any = (), name: str = "two") -> str:
    with pytest.raises(UserError) as caught:
        resolved(mine, flags, settings, name)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{mine}/suites/", "")


# Layers.


def test_the_later_of_two_layers_has_the_last_word(mine: Path) -> None:
    """The task's file (with its preset), the suite, the suite's task, --set, a flag: each says one word more."""
    usual = resolve({"task.name": "tabular_mlp", "preset": "smoke"}, configs=mine).search.trials
    said: list[tuple[dict[str, Any], list[str], dict[str, Any]]] = [({"preset": "smoke"}, [], {})]
    said += [({"preset": "smoke", "search": {"trials": 41}}, [], {})]
    own = {"tasks": TASKS | {"wine": TASKS["wine"] | {"search": {"trials": 42}}}}
    said += [(said[1][0] | own, [], {})]
    said += [(said[2][0], ["search.trials=43"], {}), (said[2][0], ["search.trials=43"], {"search.trials": 44})]
    found = []
    for content, settings, flags in said:
        write(mine, **content)
        found.append({entry: config.search.trials for entry, config in resolved(mine, flags, settings).items()})
    assert [trials["wine"] for trials in found] == [usual, 41, 42, 43, 44]
    assert [trials["tabular_mlp"] for trials in found] == [usual, 41, 41, 43, 44]


def test_a_users_task_file_lies_below_the_suite(mine: Path) -> None:
    (mine / "tasks").mkdir()
    (mine / "tasks" / "tabular_mlp.yaml").write_text("train: {epochs: 17}\n")
    write(mine)
    assert resolved(mine)["wine"].train.epochs == 17
    write(mine, train={"epochs": 18})
    assert resolved(mine)["wine"].train.epochs == 18


def test_presets_are_of_each_task_and_the_entry_may_have_its_own(mine: Path) -> None:
    write(mine, preset="smoke", tasks={"mnist1d": None, "tabular_mlp": {"preset": "paper"}})
    for entry, preset in (("mnist1d", "smoke"), ("tabular_mlp", "paper")):
        alone = resolve({"task.name": entry, "preset": preset}, configs=mine)
        assert resolved(mine)[entry] == alone


def test_a_suite_without_settings_is_its_tasks_as_they_are_alone(mine: Path) -> None:
    write(mine)
    configs = resolved(mine)
    assert list(configs) == ["tabular_mlp", "wine"]
    assert configs["tabular_mlp"] == resolve({"task.name": "tabular_mlp"}, configs=mine)
    assert configs["wine"] == resolve({"task.name": "tabular_mlp", "task.dataset": "wine"}, configs=mine)


def test_two_entries_of_a_task_are_two_configurations(mine: Path) -> None:
    write(mine)
    configs = resolved(mine)
    assert {config.task.name for config in configs.values()} == {"tabular_mlp"}
    assert [config.task.dataset for config in configs.values()] == ["iris", "wine"]


def test_optimizers_of_the_suite_are_those_of_all_tasks_and_a_flag_takes_their_place(mine: Path) -> None:
    write(mine, search={"optimizers": ["adam", "sgdm"]})
    assert {tuple(config.optimizers) for config in resolved(mine).values()} == {("adam", "sgdm")}
    configs = resolved(mine, {"search.optimizers": ["sgd"]})
    assert {tuple(config.optimizers) for config in configs.values()} == {("sgd",)}


# Which suite.


def test_a_path_of_a_yaml_file_is_a_suite_of_its_name(mine: Path, tmp_path: Path) -> None:
    write(mine, "two", search={"trials": 3})
    file = tmp_path / "elsewhere.yml"
    (mine / "suites" / "two.yaml").rename(file)
    suite = read_suite(str(file), mine)
    assert (suite.name, suite.origin) == ("elsewhere", str(file))
    assert {config.search.trials for config in resolve_suite(suite, {}).values()} == {3}


def test_a_users_suite_takes_the_place_of_one_of_the_same_name(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole: what the other says of tasks or settings is not merged with it."""
    ours = mine.parent / "ours"
    (ours / "suites").mkdir(parents=True)
    write(ours, tasks={"mnist1d": None}, search={"trials": 3})
    write(mine, tasks={"wine": TASKS["wine"]})
    monkeypatch.setattr("tuner.config.suites.Registry", lambda configs: Levels(ours, mine))
    suite = read_suite("two")
    assert (list(suite.tasks), suite.shared) == (["wine"], {})


class Levels:
    """A registry of two folders of suites."""

    def __init__(self, *folders: Path) -> None:
        self.levels = [lambda kind, name, folder=folder: folder / str(kind) / f"{name}.yaml" for folder in folders]

    def names(self, kind: str) -> list[str]:
        return ["two"] if kind == "suites" else ["mnist1d", "tabular_mlp"]


# What is refused, in a line.


def test_an_unknown_suite_is_named_with_the_nearest(mine: Path) -> None:
    write(mine)
    assert refused(mine, name="tow").startswith("unknown suite 'tow'; did you mean 'two'? (valid: ")
    assert refused(mine, name="no/such.yaml") == "--suite no/such.yaml: no such file"


def test_an_unknown_task_is_named_with_the_nearest(mine: Path) -> None:
    write(mine, tasks={"mnist1": None})
    assert refused(mine).startswith("two.yaml: unknown task 'mnist1'; did you mean 'mnist1d'? (valid: ")
    write(mine, tasks={"digits": {"task": {"name": "mnist2d"}}})
    assert refused(mine).startswith("two.yaml: unknown task 'mnist2d'; did you mean 'mnist1d'? (valid: ")


@pytest.mark.parametrize("tasks", [None, [], {}, "mnist1d", ["mnist1d"], 3])
def test_tasks_are_a_mapping(mine: Path, tasks: Any) -> None:
    write(mine, tasks=tasks)
    assert refused(mine).startswith("two.yaml: tasks: must be a mapping of tasks to settings, got ")


@pytest.mark.parametrize("said", [3, "smoke", ["epochs"], True])
def test_what_is_said_of_a_task_is_a_mapping_or_nothing(mine: Path, said: Any) -> None:
    write(mine, tasks={"mnist1d": said})
    assert refused(mine).startswith("two.yaml: tasks.mnist1d: must be a mapping of keys to values, or nothing, got ")


@pytest.mark.parametrize("task", ["mnist1d", 3])
def test_the_task_of_an_entry_is_a_mapping(mine: Path, task: Any) -> None:
    write(mine, tasks={"mnist1d": {"task": task}})
    assert "task" in refused(mine)


@pytest.mark.parametrize("entry", ["a/b", "..", "-x", "", "a b"])
def test_an_entry_can_be_the_name_of_a_folder(mine: Path, entry: str) -> None:
    write(mine, tasks={entry: {"task": {"name": "mnist1d"}}})
    assert refused(mine).startswith(f"two.yaml: tasks: {entry!r} must be letters, digits, ")


@pytest.mark.parametrize("entry", ["figures", "report.html", "summary.csv", "suite.yaml"])
def test_an_entry_is_not_what_a_report_writes_beside_it(mine: Path, entry: str) -> None:
    write(mine, tasks={entry: {"task": {"name": "mnist1d"}}})
    assert refused(mine) == f"two.yaml: tasks: {entry!r} is a name that a suite's folder has for something else"


def test_what_is_of_a_task_is_not_said_of_all(mine: Path) -> None:
    write(mine, task={"data_dir": "."})
    assert refused(mine) == "two.yaml: task: is a setting of each of the tasks: write it below tasks.NAME"


def test_tasks_share_their_workers(mine: Path) -> None:
    write(mine, tasks={"mnist1d": None, "wine": TASKS["wine"] | {"resources": {"cpus_per_trial": 2}}})
    assert refused(mine) == (
        "two.yaml: resources: tasks of a suite share their workers, so that wine cannot have others than mnist1d"
    )


def test_an_unknown_key_is_named_with_the_layer_that_has_it(mine: Path) -> None:
    write(mine, trian={"epochs": 3})
    assert refused(mine).startswith("unknown key 'trian' (from two.yaml); did you mean 'train'?")
    write(mine, tasks={"mnist1d": {"train": {"epoch": 3}}})
    assert refused(mine).startswith("unknown key 'train.epoch' (from two.yaml, task mnist1d); did you mean 'epochs'?")


def test_a_value_that_is_not_valid_is_refused(mine: Path) -> None:
    write(mine, search={"trials": 0})
    assert refused(mine).startswith("search.trials: ")


def test_a_file_that_is_no_mapping_is_refused(mine: Path) -> None:
    (mine / "suites" / "two.yaml").write_text("- mnist1d\n")
    assert refused(mine) == "two.yaml: must be a mapping of keys to values"
    (mine / "suites" / "two.yaml").write_text("tasks: {mnist1d: [}\n")
    assert refused(mine).startswith("two.yaml: cannot be read as YAML: ")

"""The shipped YAML says what the protocol does."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tuner.config.layers import resolve
from tuner.config.registry import SHIPPED, available
from tuner.config.schema import Config
from tuner.errors import UserError

OPTIMIZERS, TASKS = available("optimizers"), available("tasks")
PRESETS = ["smoke", "default", "paper"]


@cache
def resolved(task: str, preset: str = "default") -> Config:
    return resolve({"task.name": task, "preset": preset, "search.optimizers": OPTIMIZERS})


def raw(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_folder_holds_the_first_optimizers_and_tasks() -> None:
    rules = {
        "diag_hessian",
        "sadh",
        "ssdh",
        "ssvp",
        "sophia",
        "adahessian",
        "hessian_lr_adaptation",
        "subsampled_newton",
    }
    assert rules <= set(OPTIMIZERS)
    assert {"sgd", "sgdm", "nesterov", "adam", "adamw", "amsgrad", "rmsprop", "muon"} <= set(OPTIMIZERS)
    assert {"soap", "shampoo", "lion", "adabelief", "schedule_free"} <= set(OPTIMIZERS)
    tasks = {"mnist1d", "rahimi_recht", "cifar_cnn", "resnet18", "transformer", "tabular_mlp", "quadratic_deep"}
    assert tasks <= set(TASKS)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_task_resolves_with_every_optimizer_and_preset(task: str, preset: str) -> None:
    config = resolved(task, preset)
    assert config.preset == preset
    assert list(config.optimizers) == OPTIMIZERS


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_the_three_presets(task: str) -> None:
    assert list(raw(SHIPPED / f"tasks/{task}.yaml")["presets"]) == PRESETS


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_changes_budgets_only_or_for_smoke_sizes(task: str, preset: str) -> None:
    changed = raw(SHIPPED / f"tasks/{task}.yaml")["presets"][preset]
    assert set(changed) <= {"train", "search", "retrain", *(["task", "optimizers"] if preset == "smoke" else [])}
    assert set(changed.get("task", {})) <= {"args"}
    assert not {"optimizers", "seed", "sampler", "scheduler"} & set(changed.get("search", {}))


@pytest.mark.parametrize("task", TASKS)
def test_a_smoke_run_is_no_longer_than_a_paper_run(task: str) -> None:
    smoke, default, paper = (resolved(task, preset) for preset in PRESETS)
    for small, large in ((smoke, paper), (default, paper)):
        assert small.retrain_epochs <= large.retrain_epochs
        assert len(small.retrain.seeds) <= len(large.retrain.seeds)
    assert smoke.search.trials <= min(default.search.trials, paper.search.trials)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_evaluation_seeds_are_several_and_none_is_the_search_seed(task: str, preset: str) -> None:
    config = resolved(task, preset)
    assert len(config.retrain.seeds) >= {"smoke": 2, "default": 4, "paper": 4}[preset]
    assert config.search.seed not in config.retrain.seeds


@pytest.mark.parametrize("task", TASKS)
def test_the_default_dataset_is_one_of_the_tasks(task: str) -> None:
    assert resolved(task).task.dataset in resolved(task).task.datasets


def test_the_default_search_is_fifo_with_tpe_against_adam() -> None:
    search = resolve({"task.name": TASKS[0]}).search
    assert (search.scheduler, search.sampler) == ("fifo", "tpe")
    assert "adam" in search.optimizers


@pytest.mark.parametrize(
    ("task", "batch_size", "epochs", "retrain_epochs", "metric"),
    [("rahimi_recht", 128, 150, 3000, "train_loss"), ("mnist1d", 32, 10, 20, "val_loss")],
)
def test_the_paper_preset_repeats_the_published_budget(
    task: str, batch_size: int, epochs: int, retrain_epochs: int, metric: str
) -> None:
    config = resolved(task, "paper")
    assert (config.train.batch_size, config.train.epochs, config.retrain_epochs) == (batch_size, epochs, retrain_epochs)
    assert (config.task.metric, config.task.mode) == (metric, "min")


def test_mnist1d_has_the_published_number_of_trials() -> None:
    assert resolved("mnist1d", "paper").search.trials == 20


def test_rahimi_recht_offers_both_published_condition_numbers() -> None:
    assert {"cond29", "cond15099"} <= set(resolved("rahimi_recht").task.datasets)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_learning_rate_is_searched_over_four_decades_or_more(name: str) -> None:
    lr = resolved(TASKS[0]).optimizers[name].space["lr"]
    assert lr.log and lr.low and lr.high
    assert math.log10(lr.high / lr.low) >= 4 - 1e-9


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_published_default_lies_in_the_space_and_is_complete(name: str) -> None:
    spec = resolved(TASKS[0]).optimizers[name]
    assert spec.defaults
    assert spec.enqueued() == spec.defaults
    assert all(set(point) == set(spec.space) for point in spec.defaults)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fixed_arguments_are_not_searched(name: str) -> None:
    spec = resolved(TASKS[0]).optimizers[name]
    assert not set(spec.args) & set(spec.space)


def test_adam_searches_around_its_published_learning_rate() -> None:
    adam = resolved(TASKS[0]).optimizers["adam"]
    assert {"lr": 1e-3} in adam.defaults
    assert adam.fixed()["betas"] == (0.9, 0.999)


def test_diag_hessian_starts_from_both_published_settings() -> None:
    first, second = resolved(TASKS[0]).optimizers["diag_hessian"].defaults
    assert first == {"lr": 1e-6, "diff": 0.25, "square": 9.0}
    assert (second["diff"], second["square"]) == (0.3, 5.0)
    assert 7.5e-5 <= second["lr"] <= 1e-4


def test_sophia_has_the_published_gaussian_probes() -> None:
    assert resolved(TASKS[0]).optimizers["sophia"].args["estimator"] == {"name": "hutchinson", "probe": "gaussian"}


@pytest.mark.parametrize("task", TASKS)
def test_the_resolved_configuration_survives_its_yaml(task: str) -> None:
    from tuner.config.layers import from_yaml

    assert from_yaml(resolved(task).to_yaml()) == resolved(task)


# Both endings of a YAML file.


def test_a_yml_file_counts_as_well(tmp_path: Path) -> None:
    for name, text in {
        "optimizers/mine.yml": "class: torch.optim.SGD\nspace:\n  lr: {low: 0.1, high: 0.2}\n",
        "defaults.yml": "search: {trials: 7}\n",
        "tasks/mnist1d.yml": "train: {epochs: 3}\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert "mine" in available("optimizers", tmp_path)
    config = resolve({"task.name": "mnist1d", "search.optimizers": ["mine"]}, [], tmp_path)
    assert (config.optimizers["mine"].space["lr"].high, config.search.trials, config.train.epochs) == (0.2, 7, 3)


@pytest.mark.parametrize("name", ["optimizers/mine", "defaults"])
def test_two_files_of_one_name_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "optimizers").mkdir()
    for suffix in (".yaml", ".yml"):
        (tmp_path / f"{name}{suffix}").write_text("class: torch.optim.SGD\nspace: {}\n" if "mine" in name else "{}")
    flags = {"task.name": "mnist1d", "search.optimizers": ["mine" if "mine" in name else "adam"]}
    with pytest.raises(UserError, match=rf"{name}\.yaml: \w+\.yml lies beside it"):
        resolve(flags, [], tmp_path)

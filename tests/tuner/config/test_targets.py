"""Frozen targets: of which task, metric and data each is, and what stands above them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tuner.config.suites import read_suite, resolve_suite
from tuner.config.targets import FrozenTarget, read_targets
from tuner.errors import UserError

TARGET = {"target": 0.25, "metric": "val_loss", "dataset": "iris"}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    for kind in ("suites", "targets"):
        (tmp_path / kind).mkdir()
    return tmp_path


def frozen(mine: Path, **changes: Any) -> None:
    content = {"version": 3, "made": {"by": "hand"}, "tasks": {"tabular_mlp": TARGET}} | changes
    (mine / "targets" / "hand.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def target(mine: Path, entry: Any = None, settings: Any = (), **suite: Any) -> float | None:
    """That of the task in a suite of it alone."""
    content = {"targets": "hand", "tasks": {"tabular_mlp": entry}} | suite
    (mine / "suites" / "one.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return resolve_suite(read_suite("one", mine), {}, settings, mine)["tabular_mlp"].task.target


def test_a_target_has_its_value_and_of_what_it_is_one(mine: Path) -> None:
    frozen(mine)
    assert read_targets("hand", mine) == {"tabular_mlp": FrozenTarget(0.25, "val_loss", "iris", "hand 3")}


def test_a_suite_takes_its_targets_and_what_is_said_of_the_task_stands_above(mine: Path) -> None:
    frozen(mine)
    assert target(mine, targets=None) is None
    assert target(mine) == 0.25
    assert target(mine, {"task": {"target": 0.5}}) == 0.5
    assert target(mine, {"task": {"target": None}}) is None
    assert target(mine, {"task": {"target": 0.5}}, ["task.target=0.75"]) == 0.75


def test_a_task_without_a_frozen_target_has_its_own(mine: Path) -> None:
    frozen(mine, tasks={"mnist1d": TARGET})
    assert target(mine) is None


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"task": {"metric": "val_acc", "mode": "max"}}, "metric val_loss, not val_acc"),
        ({"task": {"dataset": "wine"}}, "dataset iris, not wine"),
    ],
)
def test_a_target_of_another_metric_or_of_other_data_is_refused(mine: Path, entry: Any, what: str) -> None:
    frozen(mine)
    with pytest.raises(UserError) as caught:
        target(mine, entry)
    assert str(caught.value) == (
        f"targets hand 3: that of tabular_mlp is of {what}; say another, task: {{target: ...}} below "
        "tasks.tabular_mlp, or null"
    )
    for own in (0.5, None):
        assert target(mine, {"task": entry["task"] | {"target": own}}) == own


def test_an_unknown_file_is_named_with_the_nearest(mine: Path) -> None:
    frozen(mine)
    with pytest.raises(UserError, match=r"^unknown targets 'hnad'; did you mean 'hand'\? \(valid: "):
        read_targets("hnad", mine)


@pytest.mark.parametrize(
    "changes", [{"version": None}, {"version": "3"}, {"tasks": None}, {"tasks": ["tabular_mlp"]}, {"version": 1.5}]
)
def test_a_file_has_a_version_and_tasks(mine: Path, changes: Any) -> None:
    frozen(mine, **changes)
    with pytest.raises(UserError, match=r"hand\.yaml: must have a version, a whole number, and tasks, a mapping"):
        read_targets("hand", mine)


@pytest.mark.parametrize("said", [None, 0.25, {}, *({"target": value} for value in ("low", True, None, 10**400))])
def test_a_target_is_a_number(mine: Path, said: Any) -> None:
    frozen(mine, tasks={"tabular_mlp": said})
    with pytest.raises(UserError, match=r"hand\.yaml: tasks\.tabular_mlp\.target: must be a number, got "):
        read_targets("hand", mine)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_target_is_finite(mine: Path, value: float) -> None:
    frozen(mine, tasks={"tabular_mlp": TARGET | {"target": value}})
    with pytest.raises(UserError):
        target(mine)


@pytest.mark.parametrize("key", ["metric", "dataset"])
def test_a_target_says_of_what_it_is_one(mine: Path, key: str) -> None:
    frozen(mine, tasks={"tabular_mlp": {name: value for name, value in TARGET.items() if name != key}})
    with pytest.raises(UserError, match=rf"hand\.yaml: tasks\.tabular_mlp\.{key}: must be a name, got "):
        read_targets("hand", mine)

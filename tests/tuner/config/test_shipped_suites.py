"""The suites that ship: what they promise of their tasks, budgets and targets."""

from __future__ import annotations

import pytest

from tuner.config.registry import available
from tuner.config.schema import Config
from tuner.config.suites import read_suite, resolve_suite
from tuner.config.targets import read_targets

NEED_FILES = {"cifar_cnn", "resnet18", "transformer"}
"""Unless another data set than their own is chosen."""
NEED_MORE = {"anes96", "co2", "randhie"}
"""Packages, of the extra ``data``."""


@pytest.fixture(scope="module")
def core() -> dict[str, Config]:
    return resolve_suite(read_suite("core"), {})


def test_core_is_twelve_tasks_or_more_that_need_no_file(core: dict[str, Config]) -> None:
    assert len(core) >= 12
    assert not {config.task.name for config in core.values()} & (NEED_FILES | NEED_MORE)
    for config in core.values():
        assert (len(config.optimizers), config.search.studies, config.search.trials) == (4, 3, 20)


def test_each_task_of_core_has_its_frozen_target(core: dict[str, Config]) -> None:
    targets = read_targets("core")
    assert list(targets) == list(core)
    for entry, config in core.items():
        assert config.task.target == targets[entry].value
        assert (config.task.metric, config.task.dataset) == (targets[entry].metric, targets[entry].dataset)


def test_all_tasks_of_core_draw_the_same(core: dict[str, Config]) -> None:
    assert {(config.search.sampler, config.search.draws) for config in core.values()} == {("random", "shared")}
    assert len({repr(config.optimizers["adam"].space) for config in core.values()}) == 1


def test_smoke_has_every_task_that_needs_nothing() -> None:
    assert set(read_suite("smoke").tasks) == set(available("tasks")) - NEED_FILES - NEED_MORE

"""What a preflight found is taken for what it would find: never where something that it depends on is another."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tuner.work
from tasks.user_folders import cache_directory
from tuner import events
from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.errors import UserError
from tuner.events import Event
from tuner.machine import code, environment
from tuner.machine.resources import Machine
from tuner.planning.estimate import Timings
from tuner.work import preflight
from tuner.workers import remembered
from tuner.workers.preflight import PreflightResult
from tuner.workers.starting import CommandRay

TIMINGS = Timings({"adam": 0.5}, 0.25, 3, {}, {"adam": {1: 0.5, 8: 0.1}})
FOUND = PreflightResult(TIMINGS, {"name": "a", "sha256": "5f"}, "cpu", ["adam: odd"], {"adam": "why"})


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(remembered.SWITCH, raising=False)


def ignore(event: Event) -> None:
    """Nobody listens."""


def small(*settings: str, task: str = "mnist1d", **flags: Any) -> Config:
    asked = {"task.name": task, "search.optimizers": ["adam"], "resources.gpus_per_trial": 0.0}
    return resolve(asked | {"resources.max_concurrent": 2} | flags, settings)


def changed(key: str, value: Any) -> Callable[[pytest.MonkeyPatch], Config]:
    return lambda patch: small(**{key: value})


def variable(patch: pytest.MonkeyPatch) -> Config:
    patch.setenv("OMP_NUM_THREADS", "7")
    return small()


def other_version(patch: pytest.MonkeyPatch) -> Config:
    patch.setattr(environment, "_version", lambda package: "0.1")
    return small()


def other_sources(patch: pytest.MonkeyPatch) -> Config:
    patch.setattr(code, "_digest", lambda root, files: "5f")
    return small()


def other_machine(patch: pytest.MonkeyPatch) -> Config:
    patch.setattr(remembered, "this_machine", lambda: Machine(48, 0))
    return small()


def other_packages(patch: pytest.MonkeyPatch) -> Config:
    patch.setattr(remembered, "INSTALLED", set())
    return small()


@pytest.mark.parametrize(
    "change",
    [
        changed("search.optimizers", ["sgd"]),
        changed("train.batch_size", 16),
        changed("search.trials", 77),
        changed("resources.max_concurrent", 1),
        changed("task.dataset", "mnist1d_4000"),
        variable,
        other_version,
        other_sources,
        other_machine,
        other_packages,
    ],
)
def test_another_of_anything_that_counts_is_not_known(
    change: Callable[[pytest.MonkeyPatch], Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = remembered.key_of(small())
    assert before is not None and before == remembered.key_of(small())
    after = remembered.key_of(change(monkeypatch))
    assert after is not None and after != before


@pytest.mark.parametrize(("key", "value"), [("name", "other"), ("out", "elsewhere"), ("tracker", "tensorboard")])
def test_where_a_run_is_written_does_not_count(key: str, value: str) -> None:
    assert remembered.key_of(small()) == remembered.key_of(small(**{key: value}))


def test_data_that_has_changed_is_loaded_again(tmp_path: Path) -> None:
    text = tmp_path / "mine" / "book.txt"
    text.parent.mkdir()
    keys = set()
    for content, when in (("a", 1), ("b", 1), ("bb", 1), ("bb", 2)):
        text.write_text(content)
        os.utime(text, ns=(when, when))
        keys.add(remembered.key_of(small(task="char_model", **{"task.data_dir": str(text.parent)})))
    (text.parent / "more.txt").touch()
    keys.add(remembered.key_of(small(task="char_model", **{"task.data_dir": str(text.parent)})))
    assert len(keys) == 4  # a file's size, its time, and a file more; the second is the first to these
    assert None not in keys


def test_a_folder_of_more_files_than_can_be_looked_at_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "MOST_FILES", 2)
    keys = []
    for name in "abc":
        (tmp_path / f"{name}.txt").touch()
        keys.append(remembered.key_of(small(task="char_model", **{"task.data_dir": str(tmp_path)})))
    assert [key is None for key in keys] == [False, False, True]


def test_what_is_a_users_own_or_elsewhere_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rule.py").write_text("class Rule: ...")
    mine = small()
    spec = mine.optimizers["adam"].model_copy(update={"class_": "my_rule.Rule"})
    for own in ({"configs": str(tmp_path)}, {}):  # a module that is there, and one that is not
        assert remembered.key_of(mine.model_copy(update={"optimizers": {"adam": spec}, **own})) is None
    assert remembered.key_of(mine, b"objects") is None
    assert remembered.key_of(small(**{"resources.address": "auto"})) is None
    monkeypatch.setenv(remembered.SWITCH, "0")
    assert remembered.key_of(mine) is None


def test_it_is_what_was_found_for_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    assert remembered.find("k") is None
    remembered.keep("k", FOUND)
    known = remembered.find("k")
    assert known and known.result == FOUND and 0 <= known.age_s < 60
    now = time.time()
    for later, is_known in ((86_000, True), (86_500, False), (-1_000, False)):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        assert (remembered.find("k") is not None) == is_known
    monkeypatch.setattr(time, "time", lambda: now + 90_000)
    remembered.keep("other", FOUND)
    assert [path.name for path in (cache_directory() / "preflight").iterdir()] == ["other.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"when": 1e12, "found": {}}', '{"when": "now"}', "\0"])
def test_a_damaged_file_is_as_none(content: str) -> None:
    remembered.keep("k", FOUND)
    path = cache_directory() / "preflight" / "k.json"
    assert json.loads(path.read_text())["found"]
    path.write_text(content)
    assert remembered.find("k") is None


def test_where_nothing_can_be_written_nothing_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    remembered.keep("k", FOUND)
    assert remembered.find("k") is None


def test_a_known_task_is_told_of_and_others_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    bad = UserError("digits are odd")

    def now(configs: list[Config], *_: Any) -> Any:
        asked.append([config.task.name for config in configs])
        return iter([bad if config.task.name == "digits_vae" else FOUND for config in configs])

    monkeypatch.setattr(tuner.work, "checked_now", now)
    configs = [small(), small(task="digits_vae"), small(task="tabular_mlp")]
    said: list[list[str]] = []
    for _ in range(2):
        told: list[Event] = []
        assert list(preflight(configs, b"", told.append, CommandRay(told.append))) == [FOUND, bad, FOUND]
        said.append([event.text for event in told if isinstance(event, events.PreflightRemark)])
    assert asked[:2] == [["mnist1d", "digits_vae", "tabular_mlp"], ["digits_vae"]]  # what was wrong is looked at again
    assert list(preflight(configs[:1], b"", ignore, CommandRay(ignore, verbose=True))) == [FOUND]
    assert asked[2:] == [["mnist1d"]]  # somebody wants to see how it goes
    assert said[0] == [] and len(said[1]) == 1
    assert said[1][0].startswith("preflight of mnist1d, tabular_mlp: found 0:0") and "TUNER_REMEMBER=0" in said[1][0]

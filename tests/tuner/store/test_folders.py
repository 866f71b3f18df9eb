"""Folders of runs: made once, with their configuration, where nothing is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.table_rows import CONFIG, failing, trial
from tuner.errors import UserError
from tuner.store.folders import check_creatable
from tuner.store.run import Run


@pytest.mark.parametrize("name", ["none", "file", "folder"])
def test_only_a_run_directory_is_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"{name}: not a run directory"):
        Run.open(tmp_path / name)


def test_a_run_is_made_once_with_its_parents(tmp_path: Path) -> None:
    path = tmp_path / "a/b/run"
    Run.create(path, CONFIG)
    with pytest.raises(UserError, match="run: exists already"):
        Run.create(path, CONFIG)


def test_a_run_has_its_configuration_from_the_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(UserError, match="cannot be made"):
            Run.create(path, CONFIG)
    assert not path.exists()
    assert Run.create(path, CONFIG).config() == Run.open(path).config() == CONFIG


def test_only_a_run_of_which_nothing_came_is_discarded(tmp_path: Path) -> None:
    for number, begin in enumerate((lambda run: run.write_env({}), lambda run: run.append_trials([trial(0)], []))):
        run = Run.create(tmp_path / str(number), CONFIG)
        begin(run)
        run.discard_if_new()
        assert run.config() == CONFIG
    run = Run.create(tmp_path / "run", CONFIG)
    run.write_status({"state": "starting"})
    for _ in range(2):
        run.discard_if_new()
        assert not run.path.exists()


def occupied(folder: Path) -> dict[str, Path]:
    (folder / "file").write_text("kept")
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("nowhere")
    return {
        "a file": folder / "file",
        "an empty folder": folder / "folder",
        "a broken link": folder / "link",
        "below a file": folder / "file/run",
        "far below a file": folder / "file/a/b/run",
        "below a broken link": folder / "link/run",
    }


@pytest.mark.parametrize(
    "where", ["a file", "an empty folder", "a broken link", "below a file", "far below a file", "below a broken link"]
)
@pytest.mark.parametrize("make", [check_creatable, lambda path: Run.create(path, CONFIG)])
def test_no_run_is_made_where_something_is(tmp_path: Path, where: str, make: Callable[[Path], object]) -> None:
    path = occupied(tmp_path)[where]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=f"output folder {path}: "):
        make(path)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "kept"


def test_checking_makes_nothing(tmp_path: Path) -> None:
    check_creatable(tmp_path / "a/b/run")
    assert not list(tmp_path.iterdir())

"""Folders of users with and without a home."""

import os
import tempfile
from pathlib import Path

import pytest

from tasks import user_folders
from tasks.user_folders import cache_directory, home, is_writable, scratch_directory


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A folder for temporary files of the test's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    scratch_directory.cache_clear()
    yield folder
    scratch_directory.cache_clear()


def without_a_home(monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)


def test_caches_lie_among_temporary_files_where_there_is_no_home(temporary, monkeypatch):
    without_a_home(monkeypatch)
    assert home() is None
    assert cache_directory() == temporary / f"tuner-{os.getuid()}" / "tuner"


def test_caches_lie_among_temporary_files_where_the_home_cannot_be_written(tmp_path, temporary, monkeypatch):
    (tmp_path / "home").write_text("not a folder")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory() == temporary / f"tuner-{os.getuid()}" / "tuner"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "tuner"


def test_what_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert is_writable(tmp_path) and is_writable(tmp_path / "a" / "b")
    assert not is_writable(tmp_path / "file") and not is_writable(tmp_path / "file" / "a")
    monkeypatch.setattr(user_folders.os, "access", lambda path, mode: False)
    assert not is_writable(tmp_path / "a")


def test_the_scratch_directory_is_the_users_alone(temporary):
    path = scratch_directory()
    assert path.stat().st_mode & 0o777 == 0o700
    scratch_directory.cache_clear()
    assert scratch_directory() == path


@pytest.mark.parametrize("trap", ["a link", "a file", "open to others"])
def test_a_name_that_somebody_else_has_taken_is_left_alone(tmp_path, temporary, trap):
    path = temporary / f"tuner-{os.getuid()}"
    (tmp_path / "other").mkdir()
    {
        "a link": lambda: path.symlink_to(tmp_path / "other"),
        "a file": path.touch,
        "open to others": lambda: (path.mkdir(), path.chmod(0o777)),
    }[trap]()
    found = scratch_directory()
    assert found != path and found.parent == temporary and found.stat().st_mode & 0o777 == 0o700
    assert scratch_directory() == found

"""What a process is given where its environment lacks it."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.user_folders import scratch_directory
from tuner.machine import process_environment

NAMES = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "MPLCONFIGDIR")


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    before = dict(os.environ)
    for name in NAMES:
        os.environ.pop(name, None)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_a_user_with_a_home_is_given_nothing(tmp_path: Path) -> None:
    os.environ["HOME"] = str(tmp_path)
    process_environment.prepare()
    assert {name: os.environ.get(name) for name in NAMES} == dict.fromkeys(NAMES) | {"HOME": str(tmp_path)}


def test_a_home_that_cannot_be_written_stays_and_caches_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    os.environ["HOME"] = str(tmp_path / "home")
    process_environment.prepare()
    assert os.environ["HOME"] == str(tmp_path / "home")
    assert os.environ["MPLCONFIGDIR"] == str(scratch_directory() / "matplotlib")


@pytest.mark.parametrize("unset", [True, False])
def test_the_systems_list_of_users_is_asked_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unset: bool) -> None:
    if not unset:
        os.environ["HOME"] = ""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    process_environment.prepare()
    assert os.environ["HOME"] == str(tmp_path)


def test_a_user_whom_the_system_does_not_know_is_given_a_home_and_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    process_environment.prepare()
    assert os.environ["HOME"] == str(scratch_directory())
    assert getpass.getuser() == os.environ["USER"] == f"uid{os.getuid()}"

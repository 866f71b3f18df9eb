"""What the tests of whole command lines, called within this process, share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.machine.resources import Machine


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory on a machine of 4 CPUs."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("tuner.machine.resources.this_machine", lambda: Machine(4, 0))
    return work

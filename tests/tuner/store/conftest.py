"""A run directory with nothing in it yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.table_rows import CONFIG
from tuner.store.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", CONFIG)

"""These tests need PyTorch to believe in a GPU: `make test-gpu-paths` runs them on one that computes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "NULL_GPU" not in os.environ:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="on the null GPU: make test-gpu-paths"))

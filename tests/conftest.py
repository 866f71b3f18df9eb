"""Two processes share the tests (`make test`): whole commands, most of which start Ray, are one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests beside this file first, as one group, since they take longest; all others file by file."""
    items.sort(key=lambda item: item.path.parent != HERE)
    for item in items:
        group = "whole commands" if item.path.parent == HERE else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))

"""Two processes share the tests (`make test`): whole commands, most of which start Ray, are one after the other."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

WHOLE = "whole commands"


class ByFile(LoadScopeScheduling):
    """The tests of a file go to one process, and those of all files beside this one."""

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)


def scope(nodeid: str) -> str:
    path = nodeid.partition("::")[0]
    return WHOLE if path.count("/") == 1 else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole commands first, since they take longest."""
    items.sort(key=lambda item: scope(item.nodeid) != WHOLE)

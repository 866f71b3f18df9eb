"""Two processes share the tests (`make test`): whole commands, most of which start Ray, are one after the other. What
this machine's environment holds does not reach them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.support.commands import EVERY_USERS

WHOLE = "whole commands"
OURS = ("PYTEST", "CI", "NEW_EXAMPLES", "PLAYWRIGHT_BROWSERS_PATH")
if "NULL_GPU" in os.environ:
    OURS += ("NULL_GPU", "LD_PRELOAD", "TORCH_CUDNN_V8_API_DISABLED")


def clean_environment() -> None:
    """Leave what every user has. Threads that wait for each other would take most of the time."""
    for name in set(os.environ) - {*EVERY_USERS}:
        if not name.startswith(OURS):
            del os.environ[name]
    os.environ["OMP_NUM_THREADS"] = "1"


clean_environment()


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A command that ends within this process leaves it with its own. A shell's background job would ignore SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


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

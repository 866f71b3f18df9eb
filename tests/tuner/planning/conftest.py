"""A run directory with nothing in it yet."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.plans import config
from tests.support.run_configs import blank_database, copied_url
from tuner.store.run import Run


@pytest.fixture(scope="module")
def new_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Run]:
    blank = blank_database(tmp_path_factory.mktemp("blank"))

    def make() -> Run:
        run = Run.create(tmp_path_factory.mktemp("runs") / "run", config())
        copied_url(blank, run.path)
        return run

    return make


@pytest.fixture
def run(new_run: Callable[[], Run]) -> Run:
    return new_run()

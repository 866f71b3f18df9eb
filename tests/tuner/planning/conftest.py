"""A run directory with nothing in it yet."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.plans import config
from tests.support.run_configs import blank_database, copied_url
from tuner.config.schema import Config
from tuner.store.run import Run


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Config], Run]:
    """Makes runs with Optuna's tables, copied."""
    blank = blank_database(tmp_path_factory.mktemp("blank"))

    def make(asked: Config) -> Run:
        run = Run.create(tmp_path_factory.mktemp("runs") / "run", asked)
        copied_url(blank, run.path)
        return run

    return make


@pytest.fixture(scope="module")
def new_run(run_of: Callable[[Config], Run]) -> Callable[[], Run]:
    return lambda: run_of(config())


@pytest.fixture
def run(new_run: Callable[[], Run]) -> Run:
    return new_run()

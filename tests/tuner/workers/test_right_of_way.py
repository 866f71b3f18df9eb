"""While a preflight times steps one worker waits, and no more than one; not beyond the preflight's end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.commands import environment
from tuner.workers.right_of_way import VARIABLE, RightOfWay, give_way

WORKER = "from tuner.workers.right_of_way import give_way; print('asks', flush=True); give_way(); print('goes on')"
PREFLIGHT = """
import os, time
from tuner.workers import right_of_way
right = right_of_way.RightOfWay()
print(os.environ[right_of_way.VARIABLE], flush=True)
time.sleep(60)
"""


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start(processes: ExitStack, code: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, env=environment(**variables), stdout=subprocess.PIPE, text=True)
    processes.enter_context(process)
    processes.callback(process.kill)
    return process


def workers(processes: ExitStack, path: str) -> list[subprocess.Popen[str]]:
    """Three, which have all asked."""
    started = [start(processes, WORKER, **{VARIABLE: path}) for _ in range(3)]
    for process in started:
        assert process.stdout and process.stdout.readline() == "asks\n"
    return started


def under_way(started: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    """Which wait, once the others have ended."""
    deadline = time.monotonic() + 20
    while sum(process.poll() is None for process in started) > 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    return [process for process in started if process.poll() is None]


def test_one_of_several_waits_until_the_preflight_ends(processes: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    right = RightOfWay()
    (waits,) = under_way(workers(processes, right.file.name))
    right.give_up()
    assert waits.wait(10) == 0
    assert list(Path(right.file.name).parent.glob(f"{Path(right.file.name).name}*")) == []


def test_a_preflight_that_is_killed_keeps_nobody_waiting(processes: ExitStack) -> None:
    preflight = start(processes, PREFLIGHT)
    assert preflight.stdout
    path = preflight.stdout.readline().strip()
    (waits,) = under_way(workers(processes, path))
    preflight.send_signal(signal.SIGKILL)
    assert waits.wait(10) == 0
    Path(path).unlink()


def test_nobody_waits_for_what_is_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    give_way()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone"))
    give_way()
    assert list(tmp_path.iterdir()) == []

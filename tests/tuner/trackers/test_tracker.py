"""A tracker is chosen by name, and nothing of it disturbs a run."""

from __future__ import annotations

import importlib
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.tracked import (
    COMPLETE,
    SEARCHED,
)
from tuner.errors import UserError
from tuner.jobs import Job, Outcome
from tuner.trackers import backend
from tuner.trackers import tracker as trackers


class Backend(backend.Backend):
    """Fails at the nth training run, or when it is made; or waits until it is let go."""

    package = "json"
    seen: list[str]

    def __init__(self, directory: Path | None, fault: BaseException, at: int = -1) -> None:
        self.seen, self.fault, self.at = [], fault, at
        if at < 0:
            raise fault

    def record(self, run: backend.Ended) -> None:
        if len(self.seen) == self.at:
            raise self.fault
        self.seen.append(run.name)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (RuntimeError("two\n lines"), "RuntimeError: two lines"),
        (SystemExit(2), "SystemExit: 2"),
    ],
)
@pytest.mark.parametrize("at", [-1, 0, 2])
def test_the_first_fault_is_one_line_and_the_end(
    fault: BaseException, reason: str, at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Backend] = []

    def make() -> Backend:
        made.append(Backend(None, fault, at))
        return made[0]

    tracker = trackers.Tracker("mlflow", "blobs", make)
    for _ in range(5):
        tracker.record(SEARCHED, COMPLETE)
    tracker.close()
    tracker.record(SEARCHED, COMPLETE)
    tracker.close()
    assert [backend.seen for backend in made] == ([["adam trial 3"] * at] if at >= 0 else [])
    assert capsys.readouterr().err == f"tracker mlflow: {reason}; the run directory has everything\n"


class Untold(dict[str, float]):
    def get(self, *_: Any) -> Any:
        raise KeyError("seconds")


def test_a_record_that_cannot_be_told_is_the_trackers_fault_too(capsys: pytest.CaptureFixture[str]) -> None:
    tracker = trackers.Tracker("mlflow", "blobs", lambda: Backend(None, OSError(), at=9))
    outcome = Outcome("complete")
    outcome.clocks = Untold()
    tracker.record(SEARCHED, outcome)
    tracker.close()
    assert capsys.readouterr().err.startswith("tracker mlflow: KeyError: ")


@pytest.mark.parametrize("late_fault", [False, True])
def test_a_slow_tracker_is_waited_for_but_not_for_long(
    late_fault: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trackers, "PATIENCE_S", 0.1)
    busy, go = threading.Event(), threading.Event()

    class Slow(Backend):
        def record(self, run: backend.Ended) -> None:
            super().record(run)
            if len(self.seen) == 2:
                busy.set()
                assert go.wait(10)
                if late_fault:
                    raise self.fault

    backend = Slow(None, OSError("late"), at=9)
    tracker = trackers.Tracker("wandb", "blobs", lambda: backend)
    for _ in range(4):
        tracker.record(SEARCHED, COMPLETE)
    assert busy.wait(10)
    began = time.monotonic()
    tracker.close()
    assert time.monotonic() - began >= 0.1
    monkeypatch.setattr(trackers, "PATIENCE_S", 60.0)
    tracker.close()
    assert time.monotonic() - began < 8
    assert tracker._background.thread.daemon  # the process can end
    go.set()
    tracker._background.thread.join(10)
    assert len(backend.seen) == 2
    line = "tracker wandb: 3 of 4 training runs not told after 0.1 s; the run directory has everything\n"
    assert capsys.readouterr().err == line  # and none for what went wrong afterwards


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, package in [("tensorboard", "tensorboardX"), ("mlflow", "mlflow"), ("wandb", "wandb")]:
        assert trackers.BACKENDS[name].package == package
        monkeypatch.setattr(trackers.BACKENDS[name], "package", f"no_such_{package}")
        (tmp_path / f"no_such_{package}").mkdir()
        line = f"--tracker {name}: no_such_{package} is not installed; pip install no_such_{package}"
        with pytest.raises(UserError, match=f"^{line}$"):
            trackers.check(name)
    monkeypatch.syspath_prepend(tmp_path)  # what wandb leaves behind in the working directory is no package
    with pytest.raises(UserError, match=r"pip install no_such_wandb$"):
        trackers.check("wandb")
    (tmp_path / "no_such_wandb" / "__init__.py").write_text("raise AssertionError('imported')")
    importlib.invalidate_caches()
    trackers.check("wandb")


def test_no_two_jobs_of_several_studies_share_a_label() -> None:
    """It is a directory of TensorBoard's; study 0 has those of before there were studies."""
    jobs = [
        Job(phase, "adam", trial, 1000 + study if phase == "search" else 10_000 * study + trial, {}, study)
        for phase in ("search", "retrain")
        for study in range(3)
        for trial in range(3)
    ]
    ended = [backend.describe("blobs", job, COMPLETE, 0.0) for job in jobs]
    assert len({run.label for run in ended}) == len({run.name for run in ended}) == len(jobs)
    assert [ended[1].label, ended[8].label] == ["search-adam-1", "search-adam-study-2-2"]
    assert [run.settings["study"] for run in ended] == [job.study for job in jobs]

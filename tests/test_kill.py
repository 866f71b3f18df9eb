"""SIGKILL of the driver and all its Ray processes, again and again, at random moments: what comes out is as if nothing
had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import optuna
import pandas as pd
import pytest

from tests.support.commands import start
from tuner.store.run import Run

KILLS = 20
TIMES = ["seconds", "step_ms", "peak_mem_mb"]


class Command:
    """`python -m tuner.search` in a folder, which may be killed."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.process = start(folder, "tuner.search", *args, "-q")

    def until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 180
        while not reached():
            assert self.process.poll() is None, "the run ended before it was killed often enough"
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def kill(self) -> None:
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.communicate()

    def finish(self) -> None:
        _, err = self.process.communicate(timeout=300)
        assert (self.process.returncode, err) == (0, "")


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, left = [], [pid]
    while left:
        left = [child for parent in left for child in children.get(parent, [])]
        found += left
    return found


def undisturbed(folder: Path, *args: str) -> Run:
    Command(folder, *args, "--name", "undisturbed").finish()
    return Run(folder / "undisturbed")


def killed_again_and_again(folder: Path, kills: int, within_s: float, seed: int, *args: str) -> tuple[Run, int]:
    """A run that is killed so often before it may end, and how often a checkpoint was there then.

    One in four is killed while Ray and its worker start, the others at most so long after they have got somewhere.
    """
    draw, run, kept = random.Random(seed), Run(folder / "killed"), 0
    for number in range(kills):
        before = written(run)
        command = Command(folder, *(["--resume", "killed"] if run.path.exists() else [*args, "--name", "killed"]))
        early = number % 4 == 3
        command.until(run.path.exists if early else lambda before=before: written(run) != before)
        time.sleep(draw.uniform(0, 2 * within_s if early else within_s))
        command.kill()
        kept += (run.path / "checkpoints").exists()
    Command(folder, "--resume", "killed").finish()
    return run, kept


def written(run: Run) -> list[int]:
    """How long the tables are and when checkpoints were written: what training runs change."""
    tables = [path.stat().st_size for path in (run.path / "trials.csv", run.path / "seeds.csv") if path.exists()]
    checkpoints = []
    for path in (run.path / "checkpoints").glob("*.pt"):
        with suppress(FileNotFoundError):
            checkpoints.append(path.stat().st_mtime_ns)
    return [*tables, *checkpoints]


def tables_equal(one: pd.DataFrame, other: pd.DataFrame) -> None:
    columns = [name for name in one if name not in TIMES]
    pd.testing.assert_frame_equal(one[columns], other[columns], check_exact=True)


def curves(run: Run) -> pd.DataFrame:
    order = ["optimizer", "phase", "trial", "seed", "step", "split", "metric"]
    return run.curves().drop(columns="seconds").sort_values(order, ignore_index=True)


@pytest.mark.slow
def test_a_search_killed_twenty_times_is_that_which_was_not(tmp_path: Path) -> None:
    args = ["--task", "mnist1d", "--out", ".", "--optimizers", "adam", "sgd", "--trials", "120", "--seeds", "1"]
    args += ["--max-concurrent", "1", "--set", "train.epochs=2"]
    expected = undisturbed(tmp_path, *args)
    found, _ = killed_again_and_again(tmp_path, KILLS, 2.0, 1, *args)
    assert json.loads((found.path / "best.json").read_text()) == json.loads((expected.path / "best.json").read_text())
    tables_equal(found.trials(), expected.trials())
    tables_equal(found.seeds(), expected.seeds())
    pd.testing.assert_frame_equal(curves(found), curves(expected), check_exact=True)
    for name in ("adam", "sgd"):
        trials = optuna.load_study(study_name=f"mnist1d/{name}", storage=found.study_url).trials
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * 120
        own = found.trials().query("optimizer == @name").set_index("trial").sort_index()
        assert [trial.value for trial in trials] == own["value"].tolist()


@pytest.mark.slow
def test_retraining_killed_in_the_middle_gives_the_same_seeds_to_the_bit(tmp_path: Path) -> None:
    """The optimizer's probes, dropout-free weights, schedule and order of data all go on from checkpoints."""
    args = ["--task", "mnist1d", "--out", ".", "--optimizers", "diag_hessian", "--trials", "2", "--seeds", "3"]
    args += ["--max-concurrent", "1", "--set", "train.epochs=1", "retrain.epochs=150", "train.schedule=cosine"]
    args += ["faults.checkpoint_s=0.5"]
    expected = undisturbed(tmp_path, *args)
    found, kept = killed_again_and_again(tmp_path, 6, 2.0, 2, *args)
    assert kept >= 3
    tables_equal(found.seeds(), expected.seeds())
    pd.testing.assert_frame_equal(curves(found), curves(expected), check_exact=True)
    assert not (found.path / "checkpoints").exists()

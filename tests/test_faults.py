"""Faults put in on purpose, in searches as a user runs them, on Ray: each ends as it should, and nothing else does."""

from __future__ import annotations

import sqlite3
import subprocess
import textwrap
import time
from pathlib import Path

import optuna
import pandas as pd
import pytest

from tests.support import commands
from tests.support.commands import environment, finish
from tests.support.faulty import BAD, write_faulty
from tuner.store.run import Run

pytestmark = pytest.mark.slow

COMMON = ["--task", "mnist1d", "--out", ".", "--cohort", "1", "--seeds", "1"]
SHORT = ["train.epochs=1", "train.evaluations=2", "retrain.epochs=1"]
LIMIT_S = 4

FAULTS = """
    import os, signal, time

    import torch


    class Killed(Faulty):
        def fault(self):
            os.kill(os.getpid(), signal.SIGKILL)


    class KilledOnce(Faulty):
        def fault(self):
            if not os.path.exists("was_killed"):
                open("was_killed", "w").close()
                os.kill(os.getpid(), signal.SIGKILL)


    class Raises(Faulty):
        def fault(self):
            raise RuntimeError("a fault\\nof its own")


    class NotANumber(Faulty):
        def fault(self):
            self.param_groups[0]["params"][0].data.fill_(float("nan"))


    class Hangs(Faulty):
        def fault(self):
            time.sleep(1000)


    class TooLarge(Faulty):
        def fault(self):
            raise torch.OutOfMemoryError("CUDA out of memory")
"""
KINDS = {
    "killed": "Killed", "killed_once": "KilledOnce", "raises": "Raises", "nan": "NotANumber", "hangs": "Hangs",
    "too_large": "TooLarge",
}  # fmt: skip


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    return commands.start(folder, *command, env=environment(folder))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, int, str, str]:
    """A search of one optimizer per fault; the second of three trials has it."""
    folder = tmp_path_factory.mktemp("faulty")
    write_faulty(folder, FAULTS, KINDS)
    settings = ["--set", *SHORT, f"faults.trial_limit_s={LIMIT_S}"]
    args = [*COMMON, "--name", "job", "--configs", "mine", "--optimizers", *KINDS, "--trials", "3", *settings]
    return (Run(folder / "job"), *finish(start(folder, "tuner.search", *args)))


@pytest.mark.parametrize(
    ("fault", "state", "steps", "error"),
    [
        ("killed", "failed", 0, "the worker was lost 3 times: "),
        ("killed_once", "complete", 100, ""),
        ("raises", "failed", 0, "RuntimeError: a fault of its own"),
        ("nan", "diverged", 40, "the training loss is nan, at step 30"),
        ("hangs", "failed", 0, f"took longer than faults.trial_limit_s, {LIMIT_S} s"),
        ("too_large", "failed", 0, "out of memory, with nothing beside it: OutOfMemoryError: "),
    ],
)
def test_each_fault_is_its_trials_own(
    faulty: tuple[Run, int, str, str], fault: str, state: str, steps: int, error: str
) -> None:
    run, code, _, err = faulty
    assert code == 0, err
    assert "Traceback" not in err
    trials = run.trials()
    own = trials[trials["optimizer"] == fault].set_index("trial").sort_index()
    assert own["hp.lr"].tolist() == [0.01, BAD, 0.001]
    assert own["state"].tolist() == ["complete", state, "complete"]
    assert own["steps"][1] == steps  # a loss is looked at every 20 steps
    assert ("" if pd.isna(own["error"][1]) else own["error"][1]).startswith(error)
    states = {"complete": "COMPLETE", "diverged": "COMPLETE", "failed": "FAIL"}
    stored = optuna.load_study(study_name=f"mnist1d/{fault}", storage=run.study_url).trials
    assert [trial.state.name for trial in stored] == ["COMPLETE", states[state], "COMPLETE"]
    log = run.logs / f"{fault}-trial-1.log"
    assert log.exists() == (state == "failed")
    if fault == "raises":
        assert "in fault" in log.read_text()  # the traceback
    assert (run.seeds().query("optimizer == @fault")["status"] == "complete").all()


FULL_DISK = """
    import errno, pathlib, sys

    from tuner import search
    from tuner.console.parsing import run_command

    opened = pathlib.Path.open


    class Small:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, content):
            if self.file.seek(0, 2) > 600:
                self.file.write(bytes(content)[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device", self.file.name)
            return self.file.write(content)


    def small(path, mode="r", *args, **kwargs):
        file = opened(path, mode, *args, **kwargs)
        return Small(file) if path.name == "trials.csv" and "a" in mode else file


    pathlib.Path.open = small
    run_command(search.main)
"""


def test_a_full_disk_then_a_locked_study(tmp_path: Path) -> None:
    (tmp_path / "full_disk.py").write_text(textwrap.dedent(FULL_DISK))
    args = [
        *COMMON,
        "--name",
        "job",
        "--optimizers",
        "adam",
        "--trials",
        "30",
        "--studies",
        "1",
        "--no-report",
        "--set",
        *SHORT,
    ]
    code, out, err = finish(start(tmp_path, "full_disk", *args, "-q"))
    run = Run(tmp_path / "job")
    assert (code, out) == (3, ""), err
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ") and "trials.csv: No space left on device; " in err
    assert "python -m tuner.search --resume job" in err
    done = len(run.trials())
    assert 3 <= done < 30
    assert sorted(run.trials()["trial"]) == sorted(set(run.trials()["trial"]))
    assert run.best()["optimizers"]["adam"]["n_trials"] == done
    assert not list(run.path.rglob("*.partial"))

    lock = sqlite3.connect(run.path / "study.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    process = start(tmp_path, "tuner.search", "--resume", "job", "-q")
    deadline = time.monotonic() + 120
    while len(run.trials()) < 30 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    lock.execute("ROLLBACK")
    lock.close()
    code, _, err = finish(process)
    assert (code, err) == (0, "")
    assert sorted(run.trials()["trial"]) == list(range(30))
    stored = optuna.load_study(study_name="mnist1d/adam", storage=run.study_url).trials
    assert [trial.state.name for trial in stored] == ["COMPLETE"] * 30
    by_number = run.trials().set_index("trial").sort_index()
    assert [trial.value for trial in stored] == by_number["value"].tolist()
    assert set(run.curves().query("phase == 'search'")["trial"]) == set(range(30))

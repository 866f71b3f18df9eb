"""What a command says and leaves where Ray is lost, or a signal comes while it starts: for real."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.support.commands import ROOT, environment, finish, living, start
from tuner.store.run import Run

JOB = ["--task", "mnist1d", "--optimizers", "adam", "--seeds", "1", "--out", ".", "--name", "job"]


def children(pid: int) -> dict[str, int]:
    """The process ids of a process's children by their programs' names."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = path.read_text().partition("(")[2].rsplit(")", 1)
        except OSError:
            continue
        state, parent = rest.split()[:2]
        if int(parent) == pid and state != "Z":
            found[name] = int(path.parent.name)
    return found


def assert_nothing_remains(process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 20
    while living(process.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert living(process.pid) == []


@pytest.mark.parametrize(
    ("program", "number", "ends"),
    [
        ("raylet", signal.SIGKILL, {"lost": (3, ": its raylet ended (signal 9)")}),
        pytest.param(  # Ray's C++ ends the command within a tenth of a second, unless we have seen it by then
            "raylet", signal.SIGTERM,
            {"failed": (1, ", or the system ended this command"), "lost": (3, ": its raylet ended (")},
            marks=pytest.mark.slow,
        ),
        pytest.param("gcs_server", signal.SIGKILL, {"lost": (3, ": its gcs_server ended")}, marks=pytest.mark.slow),
        pytest.param("gcs_server", signal.SIGTERM, {"lost": (3, ": its head at ")}, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_lost_ray_costs_one_line_and_no_finished_work(
    tmp_path: Path, program: str, number: int, ends: dict[str, tuple[int, str]]
) -> None:
    run = Run(tmp_path / "job")
    process = start(tmp_path, "tuner.search", *JOB, "--trials", "400", "--set", "train.epochs=4", "-q")
    deadline = time.monotonic() + 120
    while len(run.trials()) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(children(process.pid)[program], number)
    killed = time.monotonic()
    code, out, err = finish(process)
    assert time.monotonic() - killed < 20  # Ray itself takes a minute, and says nothing
    done, status = len(run.trials()), run.status()
    assert status is not None
    exit_code, reason = ends[status["state"]]
    assert (code, out) == (exit_code, "")
    (line,) = err.splitlines()
    assert line.startswith(f"error: Ray was lost{reason}")
    assert f"; {done} of 401 training runs finished; to go on: " in line and done >= 3
    resume = shlex.split(line.partition("to go on: ")[2])
    assert resume[1:] == ["-m", "tuner.search", "--resume", "job"]
    told = subprocess.run([resume[0], "-m", "tuner.status", "job"], cwd=tmp_path, env=environment(),
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert told.stdout.startswith("job: ended ")
    assert "to go on: " in told.stdout
    assert set(run.curves()["trial"]) == set(run.trials()["trial"])


@pytest.mark.parametrize(
    ("numbers", "wait_s"),
    [
        ([signal.SIGTERM], 1.5),
        pytest.param([signal.SIGINT, signal.SIGINT], 1.0, marks=pytest.mark.slow),
        pytest.param([signal.SIGTERM], 0.0, marks=pytest.mark.slow),
        pytest.param([signal.SIGINT], 2.0, marks=pytest.mark.slow),
        pytest.param([signal.SIGTERM, signal.SIGINT], 2.5, marks=pytest.mark.slow),
    ],
)
def test_signals_while_ray_starts(tmp_path: Path, numbers: list[int], wait_s: float) -> None:
    process = start(tmp_path, "tuner.search", *JOB, "--trials", "400", "--preset", "smoke")
    while "gcs_server" not in children(process.pid):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(wait_s)
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.1)
    code, _, err = finish(process, timeout_s=30)
    *before, said = err.splitlines()
    assert code == 130 and said.startswith("interrupted"), err
    assert all(line.startswith(("expected: ", "cohorts, ")) for line in before), err  # the preflight is under way, too
    if (tmp_path / "job").exists():
        assert Run(tmp_path / "job").status()["state"] in ("interrupted", "starting")
    assert_nothing_remains(process)


def test_a_signal_before_ray_starts(tmp_path: Path) -> None:
    process = start(ROOT, "tuner.search", *JOB[:-4], "--out", tmp_path, "--preset", "smoke")
    time.sleep(2.0)
    process.send_signal(signal.SIGTERM)
    assert finish(process, timeout_s=30) == (130, "", "interrupted\n")
    assert list(tmp_path.iterdir()) == []


SLOW = """
import time

from tasks.mnist1d import MNIST1D


class Slow(MNIST1D):
    def load(self, data_dir):
        time.sleep({seconds})
        raise ValueError("these are no data")
"""


def slow_preflight(folder: Path, seconds: float) -> subprocess.Popen[str]:
    """A command whose task takes so long to say that its data is bad."""
    (folder / "mine" / "tasks").mkdir(parents=True)
    (folder / "mine" / "my_task.py").write_text(SLOW.format(seconds=seconds))
    task = "{class: my_task.Slow, metric: val_loss, mode: min, dataset: a, datasets: [a]}"
    (folder / "mine" / "tasks" / "slow.yaml").write_text(f"task: {task}\ntrain: {{epochs: 1}}\n")
    arguments = ("--configs", "mine", "--task", "slow", *JOB[2:], "--trials", "2", "-q")
    return start(folder, "tuner.search", *arguments)


def raylet_of(process: subprocess.Popen[str]) -> int:
    """Its process id, once Ray is up: a worker's process has begun to import PyTorch."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        raylet = children(process.pid).get("raylet")
        if raylet and any("libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in workers(raylet)):
            return raylet
        time.sleep(0.05)
    raise AssertionError("Ray did not start")


def workers(raylet: int) -> set[int]:
    """The process ids of what has become, or may become, a worker."""
    try:
        processes = {child.pid: " ".join(child.cmdline()) for child in psutil.Process(raylet).children(recursive=True)}
    except psutil.Error:
        return set()
    return {pid for pid, line in processes.items() if "default_worker.py" in line or "ray::IDLE" in line}


def test_what_the_preflight_refuses_is_one_line_and_nothing_of_ray_remains(tmp_path: Path) -> None:
    process = slow_preflight(tmp_path, 3.0)
    raylet_of(process)
    code, out, err = finish(process)
    assert (code, out) == (2, "") and err.splitlines() == ["error: task slow: these are no data"], err
    assert not (tmp_path / "job").exists()
    assert_nothing_remains(process)


def test_a_ray_that_is_lost_before_training_costs_one_line(tmp_path: Path) -> None:
    process = slow_preflight(tmp_path, 20.0)
    os.kill(raylet_of(process), signal.SIGKILL)
    code, out, err = finish(process)
    (line,) = err.splitlines()
    assert (code, out) == (1, "") and line.startswith("error: Ray was lost: its raylet ended (signal 9"), err
    assert line.endswith("; training had not begun") and not (tmp_path / "job").exists()
    assert_nothing_remains(process)


def test_the_processes_that_start_with_ray_are_the_workers(tmp_path: Path) -> None:
    process = start(tmp_path, "tuner.search", *JOB, "--trials", "2", "--preset", "smoke", "--max-concurrent", "1", "-q")
    raylet, seen = raylet_of(process), set()
    while process.poll() is None:
        seen |= workers(raylet)
        time.sleep(0.02)
    code, _, err = finish(process)
    assert (code, err) == (0, "") and len(seen) == 1

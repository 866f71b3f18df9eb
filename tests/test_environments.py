"""The main job on machines that are not ours: in other environments, each for real, as a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import EVERY_USERS, ROOT, Done, environment
from tuner.machine.resources import this_machine
from tuner.store.run import Run

JOB = ["--task", "rahimi_recht", "--optimizers", "adam", "--preset", "smoke", "--studies", "1", "--trials", "2",
       "--seeds", "2"]  # fmt: skip
BARE = {name: os.environ[name] for name in EVERY_USERS if name in os.environ}
PYTHONS = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "7"}
LIBRARIES = {"OMP_NUM_THREADS": "64", "ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1", "TZ": "Asia/Kathmandu"}
ASCII = {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}
NOWHERE = "http://127.0.0.1:9"
CLUSTERS = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), NOWHERE),
    "RAY_ADDRESS": NOWHERE, "CUDA_VISIBLE_DEVICES": "NoDevFiles",
    "SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_NODELIST": "node[1-4]",
}  # fmt: skip
ON_CPU = ["--gpus-per-trial", "0"] if this_machine().gpus else []
UNKNOWN_USER = ["unshare", "--user", "--map-user=12345"]
"""Runs a command as a user whom the system does not know, with this one's rights."""


def search(folder: Path, env: dict[str, str], *args: object, cwd: Path = ROOT, prefix: list[str] | None = None) -> Done:
    """The main job; what is asserted of it holds everywhere."""
    done = subprocess.run(
        [*(prefix or []), sys.executable, "-m", "tuner.search", *JOB, *map(str, args)],
        cwd=cwd, env=env, capture_output=True, text=True, encoding="utf-8", timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    run = Run(path)
    assert run.trials()["state"].tolist() == ["complete"] * 2
    assert run.seeds()["status"].tolist() == ["complete"] * 2
    assert {"Traceback", "Warning", "a fault of the program"}.isdisjoint(done.stderr.split())
    assert not [line for line in done.stderr.splitlines() if line.startswith(("error", "Matplotlib"))]
    return Done(done.returncode, done.stdout, done.stderr)


def test_with_no_variable_but_path_and_home(tmp_path: Path) -> None:
    done = search(tmp_path, BARE, "--out", tmp_path)
    (path,) = tmp_path.iterdir()
    assert f"{sys.executable.removesuffix('3')} -m tuner.report {path}   #" in done.out


@pytest.mark.slow
def test_from_another_folder_into_one_of_an_odd_name(tmp_path: Path) -> None:
    """The line to copy is one that a shell understands."""
    odd = "an odd 'name' %d #1 äß/runs"
    env = environment(MPLBACKEND="module://matplotlib_inline.backend_inline", COLUMNS="20", TERM="dumb", NO_COLOR="1")
    done = search(tmp_path / odd, env, "--out", odd, cwd=tmp_path)
    (line,) = (line for line in done.out.splitlines() if " -m tuner.report " in line)
    reported = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert reported.returncode == 0, reported.stderr
    (path,) = (tmp_path / odd).iterdir()
    assert (path / "report.html").is_file()


def test_with_variables_of_python_of_libraries_and_of_clusters(tmp_path: Path) -> None:
    search(tmp_path, BARE | PYTHONS | LIBRARIES | CLUSTERS, "--out", tmp_path, *ON_CPU)


@pytest.mark.slow
def test_in_a_locale_of_ascii_without_a_home_and_with_a_long_folder_for_temporary_files(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("not a folder, so that nothing can be written there")
    long = tmp_path / ("x" * 90)
    long.mkdir()
    assert len(str(long)) > 107
    env = BARE | ASCII | {"HOME": str(tmp_path / "home"), "TMPDIR": str(long)}
    search(tmp_path / "runs", env, "--out", tmp_path / "runs")
    assert not list(long.glob("ray*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables", [PYTHONS, LIBRARIES, CLUSTERS, ASCII], ids=["python", "libraries", "clusters", "ascii"]
)
def test_with_some_of_these_alone(tmp_path: Path, variables: dict[str, str]) -> None:
    search(tmp_path, BARE | variables, "--out", tmp_path, *ON_CPU)


def is_possible(prefix: list[str]) -> bool:
    return shutil.which(prefix[0]) is not None and subprocess.run([*prefix, "true"], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not is_possible(UNKNOWN_USER), reason="needs user namespaces")
@pytest.mark.parametrize(
    "home",
    [{}, {"HOME": "/"}, {"HOME": ""}],
)
def test_for_a_user_whom_the_system_does_not_know(tmp_path: Path, home: dict[str, str]) -> None:
    env = {name: value for name, value in BARE.items() if name != "HOME"} | home
    search(tmp_path, env, "--out", tmp_path, prefix=UNKNOWN_USER)

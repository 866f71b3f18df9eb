"""Our commands as a user runs them: each in a process of its own, with what the environment of every user has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
WRITE_REPORTS = ("tuner.search", "tuner.retrain")
EVERY_USERS = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")


class Done(NamedTuple):
    """What became of a command."""

    code: int
    out: str
    err: str


def environment(*folders: Path | str, **more: str) -> dict[str, str]:
    """A user's, in which Python finds these folders and ours, and with more variables."""
    kept = {name: os.environ[name] for name in EVERY_USERS if name in os.environ}
    return kept | {"PYTHONPATH": os.pathsep.join(map(str, [*folders, ROOT]))} | more


def start(
    folder: Path, module: str, *args: object, env: dict[str, str] | None = None, report: bool = False
) -> subprocess.Popen[str]:
    """``python -m module args`` in a folder, under way in a session of its own; without a report, whose figures take
    seconds, unless it is asked for, and with one study, where presets have several."""
    words = [*map(str, args)]
    less = ["--no-report"] if module in WRITE_REPORTS and not report else []
    if module == "tuner.search" and not {"--studies", "--resume"} & set(words):
        less += ["--studies", "1"]
    return subprocess.Popen(
        [sys.executable, "-m", module, *words, *less],
        cwd=folder, env=environment() if env is None else env, text=True, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], timeout_s: float = 240) -> Done:
    with process:
        out, err = process.communicate(timeout=timeout_s)
    return Done(process.returncode, out, err)


def run(folder: Path, module: str, *args: object, env: dict[str, str] | None = None, report: bool = False) -> Done:
    """The same, until it has ended."""
    return finish(start(folder, module, *args, env=env, report=report))


def python(code: str, *args: object, folder: Path = ROOT, env: dict[str, str] | None = None) -> Done:
    """``python -c code args``."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], cwd=folder, env=environment() if env is None else env,
        text=True, encoding="utf-8", capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def living(session: int) -> list[str]:
    """Processes of a command's session."""
    listed = subprocess.run(["ps", "-o", "stat=,cmd=", "-s", str(session)], capture_output=True, text=True, check=False)
    return [line for line in listed.stdout.splitlines() if not line.startswith("Z")]

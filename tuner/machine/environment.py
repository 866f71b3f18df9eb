"""What a run was made with: env.json."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tuner.config.registry import ROOT
from tuner.machine.resources import Machine

PACKAGES = ("torch", "torchvision", "ray", "optuna", "numpy", "pandas", "scipy", "scikit-learn", "pillow", "mnist1d")


def describe(machine: Machine) -> dict[str, Any]:
    """Versions, hardware and the code's state in git; the data is added once a worker has loaded it."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv[1:],
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "hardware": {
            "platform": platform.platform(),
            "cpu": _cpu_name(),
            "cpus": machine.cpus,
            "memory_mb": _memory_mb(),
            "gpus": _gpu_names() if machine.gpus else [],
        },
        "git": git(),
    }


def git() -> dict[str, Any]:
    """The commit of this project's sources, and whether they have been changed since; none outside a checkout."""
    commit = _output("git", "rev-parse", "HEAD") if (ROOT / ".git").exists() else None
    return {"commit": commit, "dirty": bool(commit and _output("git", "status", "--porcelain"))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    return _field(Path("/proc/cpuinfo"), "model name") or platform.processor()


def _memory_mb() -> int | None:
    total = _field(Path("/proc/meminfo"), "MemTotal")
    return int(total.split()[0]) // 1024 if total else None


def _gpu_names() -> list[str]:
    return (_output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "").splitlines()


def _field(path: Path, name: str) -> str | None:
    """The first value of that name in a file of ``name: value`` lines."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

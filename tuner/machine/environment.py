"""The environment of a command is described: versions, hardware, the state of the sources."""

from __future__ import annotations

import platform
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from tuner.config.registry import ROOT
from tuner.machine.resources import Machine

PACKAGES = ("torch", "torchvision", "ray", "optuna", "numpy", "pandas", "scipy", "scikit-learn", "pillow", "mnist1d")


def describe(machine: Machine) -> dict[str, Any]:
    """Versions, hardware and the code's state in git; a worker adds the data that it has loaded, and its GPU, since the
    driver may be on another machine, and NVIDIA's library knows nothing of ``CUDA_VISIBLE_DEVICES``."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv[1:],
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "hardware": {
            "platform": platform.platform(),
            "cpu": _cpu_name(),
            "cpus": machine.cpus,
            "memory_mb": psutil.virtual_memory().total // 2**20,
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
    """The model; what psutil does not know Linux has in a file."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.processor()
    return platform.processor()


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

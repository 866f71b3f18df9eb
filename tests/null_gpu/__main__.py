"""``python -m tests.null_gpu``: pytest of this folder, with further arguments, on a GPU that computes nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.null_gpu.build import UnavailableError, environment

try:
    null_gpu = environment()
except UnavailableError as why:
    sys.exit(print(f"GPU paths: skipped, {why}"))  # type: ignore[func-returns-value]
command = [sys.executable, "-m", "pytest", str(Path(__file__).parent), *sys.argv[1:]]
os.execve(sys.executable, command, os.environ | null_gpu)

"""``python -m tests.null_gpu``: pytest of this folder, or of files that are named, on a GPU that computes nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.null_gpu.build import UnavailableError, environment

try:
    null_gpu = environment()
except UnavailableError as why:
    sys.exit(print(f"GPU paths: skipped, {why}"))  # type: ignore[func-returns-value]
folder = Path(__file__).parent
named = any(argument.startswith("tests/") for argument in sys.argv[1:])
command = [sys.executable, "-m", "pytest", *([] if named else [str(folder)]), *sys.argv[1:]]
os.execve(sys.executable, command, os.environ | null_gpu)

"""The README's demonstration, whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DEMO = ["--task", "mnist1d", "--preset", "smoke", "--optimizers", "diag_hessian", "adam", "--trials", "12"]


@pytest.mark.slow
def test_the_demo_learns_within_five_minutes(tmp_path):
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tuner.search", *DEMO, "--seeds", "5", "--json"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 300
    for entry in json.loads(done.stdout)["optimizers"]:
        assert (entry["n_trials"], entry["n_seeds"]) == (12, 5)
        assert entry["metrics"]["test_acc"]["mean"] > 0.4  # chance is 0.1

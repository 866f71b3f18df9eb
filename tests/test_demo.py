"""The README's demonstration, whole."""

from __future__ import annotations

import json
import time

import pytest

from tests.support.commands import run

DEMO = ["--task", "mnist1d", "--preset", "smoke", "--optimizers", "diag_hessian", "adam", "--studies", "3"]


@pytest.mark.slow
def test_the_demo_learns_within_five_minutes(tmp_path):
    started = time.monotonic()
    done = run(tmp_path, "tuner.search", *DEMO, "--json")
    assert done.code == 0, done.err
    assert time.monotonic() - started < 300
    for entry in json.loads(done.out)["optimizers"]:
        assert (entry["n_trials"], entry["n_seeds"]) == (36, 9)
        assert entry["metrics"]["test_acc"]["mean"] > 0.4  # chance is 0.1

"""What goes wrong on a GPU is the fault of one run at most: errors after which it does nothing more, want of memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.null_gpu.failing_workers import CASES

ROOT = Path(__file__).resolve().parents[2]
ILLEGAL = "AcceleratorError: CUDA error: an illegal memory access was encountered"


@pytest.fixture(scope="module")
def said() -> dict[tuple[str, int], list[dict[str, Any]]]:
    """What the workers of ``failing_workers`` report."""
    command = [sys.executable, "-m", "tests.null_gpu.failing_workers"]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=300)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(lines) == len(CASES), ended.stderr
    return {(line["place"], line["jobs"]): line["reports"] for line in lines}


@pytest.mark.parametrize("place", [place for place, number in CASES if number == 1])
def test_a_run_that_the_gpu_fails_has_failed_and_its_worker_does_nothing_more(place: str, said: Any) -> None:
    first, then = said[place, 1]
    assert list(first["errors"]) == ["0"] and first["errors"]["0"].startswith(ILLEGAL)
    assert "the GPU failed" in first["unusable"] and not first["retires"]
    assert then == {"errors": {}, "unusable": first["unusable"], "retires": True, "singly": False}


@pytest.mark.parametrize("place", [place for place, number in CASES if number == 3])
def test_members_of_a_cohort_that_the_gpu_fails_are_handed_back_to_be_done_one_at_a_time(place: str, said: Any) -> None:
    (only,) = said[place, 3]
    assert only["errors"] == {} and only["retires"] and only["singly"]
    assert ILLEGAL in only["unusable"] and only["unusable"].count("the GPU failed") == 1

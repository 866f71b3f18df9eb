"""What trackers are told in tests: two training runs, also by a process of its own."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.commands import ROOT
from tuner.jobs import EvaluationRecord, Job, Outcome
from tuner.store.run import Run
from tuner.trackers import tracker as trackers

CONFIG: Any = SimpleNamespace(task=SimpleNamespace(name="blobs"))
SEARCHED = Job("search", "adam", 3, 1000, {"lr": 0.25, "nesterov": True, "kind": "x"})
RETRAINED = Job("retrain", "adam", 3, 7, {"lr": 0.5})
SETTINGS = {"task": "blobs", "optimizer": "adam", "study": 0, "phase": "search", "trial": 3, "seed": 1000,
            "hp.lr": 0.25, "hp.nesterov": True, "hp.kind": "x"}  # fmt: skip
COMPLETE = Outcome(
    "complete",
    {"train_loss": 0.5, "val_top_5": 0.75},
    {"steps": 8, "seconds": 4.0},
    [
        EvaluationRecord(0, 0.0, 0.0, 0.0, {"train_loss": 2.0}),
        EvaluationRecord(8, 2.0, 4.0, 12.0, {"train_loss": 0.5, "val_top_5": 0.75, "val_loss": math.inf},
                         {"clipped_fraction": 0.125, "damping": math.nan}),
    ],
)  # fmt: skip
CURVE = {
    ("train/loss", 0): 2.0, ("clock/epoch", 0): 0.0, ("clock/seconds", 0): 0.0, ("clock/grad_equivalents", 0): 0.0,
    ("train/loss", 8): 0.5, ("clock/epoch", 8): 2.0, ("clock/seconds", 8): 4.0, ("clock/grad_equivalents", 8): 12.0,
    ("val/top_5", 8): 0.75, ("train/clipped_fraction", 8): 0.125,
    ("final/train_loss", 8): 0.5, ("final/val_top_5", 8): 0.75, ("final/steps", 8): 8.0, ("final/seconds", 8): 4.0,
}  # fmt: skip
FAILED = Outcome("failed", error="ValueError: no such thing")
ALL_WELL = ""


def tell(name: str, directory: Path, *done: tuple[Job, Outcome]) -> None:
    tracker = trackers.make_tracker(name, Run(directory), CONFIG)
    for job, outcome in done:
        tracker.record(job, outcome)
    tracker.close()


def in_a_process(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in this module's words, alone and without what the user has set for trackers."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "WANDB_"))}
    setup = "import sys; from pathlib import Path; from tests.support.tracked import *; "
    command = [sys.executable, "-c", setup + code, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=ours | environment, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


TELL = "tell(sys.argv[1], Path(sys.argv[2]), (SEARCHED, COMPLETE), (RETRAINED, FAILED)); "

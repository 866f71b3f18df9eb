"""Columns of the tables of a run are named and typed here."""

from __future__ import annotations

STUDY = "study"
"""The column that tables of runs made before there were studies lack."""
BORROWED = "borrowed"
"""The column that names the run which a row is from, where that was not done anew."""
TRIAL_COLUMNS = [
    "task", "optimizer", STUDY, "trial", "state", "value", "seed", "steps", "seconds", "cohort", "code", BORROWED,
    "error",
]  # fmt: skip
SEED_COLUMNS = ["task", "optimizer", STUDY, "seed", "status"]
CLOCK_COLUMNS = [
    "steps", "grad_equivalents", "nominal_grad_equivalents", "seconds", "step_ms", "peak_mem_mb", "cohort", "code",
    BORROWED, "error",
]  # fmt: skip
LOSS_COLUMNS = ["train_loss", "val_loss", "test_loss"]
CURVE_TYPES = {
    "task": "string", "optimizer": "string", STUDY: "Int64", "phase": "string", "trial": "Int64",
    "seed": "Int64", "step": "Int64", "epoch": "float64", "seconds": "float64", "grad_equivalents": "float64",
    "split": "string", "metric": "string", "value": "float64",
}  # fmt: skip
CURVE_KEY = ["task", "optimizer", STUDY, "phase", "trial", "seed", "step", "split", "metric"]
CURVATURE_TYPES = {
    "task": "string", "optimizer": "string", STUDY: "Int64", "seed": "Int64", "step": "Int64", "epoch": "float64",
    "quantity": "string", "index": "Int64", "value": "float64", "x": "float64",
}  # fmt: skip
CURVATURE_KEY = ["task", "optimizer", STUDY, "seed", "step", "quantity", "index"]
CLOCKS = ["epoch", "seconds", "grad_equivalents"]
TRIAL_IDENTITY = ["task", "optimizer", "trial", "state", "seed"]
SEED_IDENTITY = ["task", "optimizer", "seed", "status"]

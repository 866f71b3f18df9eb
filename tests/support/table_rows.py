"""Rows of the tables of a run, its configuration, and what a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuner.config.schema import Config
from tuner.store.run import Run

Row = dict[str, Any]
CONFIG = Config.model_validate({
    "preset": "default", "out": "runs", "name": None,
    "task": {"name": "blobs", "class": "pkg.Blobs", "args": {}, "metric": "val_loss", "mode": "min", "target": None,
             "dataset": "d", "datasets": ["d"], "data_dir": None, "check": None},
    "optimizers": {"adam": {"class": "pkg.Adam", "space": {"lr": {"low": 0.0, "high": 1.0}}}},
    "train": {"epochs": 1, "batch_size": 8, "evaluations": 2},
    "search": {"optimizers": ["adam"], "trials": 3, "seed": 1000, "sampler": "tpe", "scheduler": "fifo"},
    "retrain": {"seeds": 2, "epochs": None},
    "resources": {"cpus_per_trial": 1, "gpus_per_trial": 0, "max_concurrent": 1, "address": None},
})  # fmt: skip


def trial(number: int, **changes: Any) -> Row:
    return {"task": "blobs", "optimizer": "adam", "study": 0, "trial": number, "state": "complete", "value": 0.5,
            "seed": 1000, "steps": 10, "seconds": 0.25, "cohort": 1} | changes  # fmt: skip


def evaluation(step: int, **changes: Any) -> Row:
    return {"task": "blobs", "optimizer": "adam", "study": 0, "phase": "search", "trial": 0, "seed": 1000,
            "step": step, "epoch": step / 4, "seconds": 0.1 * step, "grad_equivalents": 2.0 * step, "split": "val",
            "metric": "loss", "value": 1 / (1 + step)} | changes  # fmt: skip


def seed_row(seed: int, **metrics: Any) -> Row:
    clocks = {"steps": 10, "grad_equivalents": 20.0, "seconds": 0.5, "step_ms": 50.0, "peak_mem_mb": 3.5}
    return {"task": "blobs", "optimizer": "adam", "study": 0, "seed": seed, "status": "complete"} | clocks | metrics


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def full_run(run: Run) -> Run:
    run.write_config(CONFIG)
    run.write_env({"old": 1})
    run.write_best({"old": 1})
    run.write_seeds([seed_row(0)], [])
    run.append_curves([evaluation(0)])
    run.finish_curves()
    run.append_curves([evaluation(1)])
    run.write_log("a", "old")
    return run


def failing(*args: object, **options: object) -> None:
    raise OSError("disk full")

"""Stand-ins for what surrounds a study: configurations, databases, the thread that writes, what becomes of jobs."""

from __future__ import annotations

import shutil
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import optuna

from tuner.config.schema import Config
from tuner.jobs import Job, Outcome
from tuner.planning.study import OptimizerStudy

SEED = 1000
SPACE = {"lr": {"low": 1e-5, "high": 0.1, "log": True}, "beta": {"low": 0.0, "high": 1.0}}
MIXED = {
    "lr": {"low": 1e-5, "high": 0.1, "log": True},
    "width": {"low": 1, "high": 64, "log": True, "integer": True},
    "depth": {"low": 1, "high": 4, "integer": True},
    "kind": {"choices": ["a", "b", "c"]},
}
OPTIMIZERS: dict[str, Any] = {
    "one": {"class": "pkg.One", "space": {"lr": {"low": 0.0, "high": 1.0}}, "defaults": [{"lr": 0.5}, {"lr": 0.125}]},
    "two": {
        "class": "pkg.Two",
        "space": {"lr": {"low": 1e-4, "high": 1.0, "log": True}, "n": {"low": 1, "high": 9, "integer": True}},
    },
}


def study_config(space: Any = SPACE, defaults: Any = (), **changes: Any) -> Config:
    """Of two optimizers, "one" and "two", with the same space."""
    optimizer = {"class": "pkg.Opt", "space": space, "defaults": list(defaults)}
    return run_config({"one": optimizer, "two": optimizer}, **changes)


def run_config(
    optimizers: dict[str, Any],
    *,
    trials: int = 4,
    seeds: Any = 2,
    sampler: str = "random",
    scheduler: str = "fifo",
    mode: str = "min",
    concurrent: int = 1,
    cohort: int | str = "auto",
    studies: int = 1,
    seed: int = SEED,
    task: str = "blobs",
) -> Config:
    return Config.model_validate({
        "preset": "default", "out": "runs", "name": None,
        "task": {"name": task, "class": "pkg.Blobs", "args": {}, "metric": "val_loss", "mode": mode, "target": None,
                 "dataset": "d", "datasets": ["d"], "data_dir": None, "check": None},
        "optimizers": optimizers,
        "train": {"epochs": 1, "batch_size": 8, "evaluations": 1},
        "search": {"optimizers": list(optimizers), "trials": trials, "seed": seed, "sampler": sampler,
                   "scheduler": scheduler, "studies": studies},
        "retrain": {"seeds": seeds, "epochs": None},
        "resources": {"cpus_per_trial": 1, "gpus_per_trial": 0, "max_concurrent": concurrent, "address": None,
                      "cohort": cohort},
    })  # fmt: skip


def blank_database(folder: Path) -> Path:
    """A study.db with Optuna's tables: they take 0.3 s to make, and none to copy."""
    path = folder / "study.db"
    optuna.storages.RDBStorage(f"sqlite:///{path}")
    return path


def copied_url(blank: Path, folder: Path) -> str:
    """Of a database of one's own."""
    return f"sqlite:///{shutil.copy(blank, folder)}"


def stored(url: str, optimizer: str = "one", study: int = 0) -> list[optuna.trial.FrozenTrial]:
    """What study.db has of an optimizer's study: nothing before a trial has ended."""
    name = f"blobs/{optimizer}" + (f"/study-{study}" if study else "")
    return optuna.load_study(study_name=name, storage=url).trials if name in optuna.get_all_study_names(url) else []


class AtOnce(Executor):
    """Does what is submitted there and then."""

    def submit(self, do: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(do(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


class Failing(AtOnce):
    """Fails a number of times."""

    def __init__(self, times: float) -> None:
        self.times = times

    def submit(self, do: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.times -= 1
        return super().submit(do, *args, **kwargs) if self.times < 0 else super().submit(no_space)


def no_space() -> None:
    raise OSError("no space left")


def ended(value: float, state: Any = "complete") -> Outcome:
    return Outcome(state, {} if state == "failed" else {"val_loss": value}, {"steps": 3})


def run_all(study: OptimizerStudy, outcomes: list[Outcome]) -> list[Job]:
    """One trial after the other, and all written."""
    jobs = []
    for outcome in outcomes:
        jobs.append(study.ask())
        study.tell(jobs[-1], outcome)
    study.database.write()
    return jobs

"""Valid configurations of no real task, and what is said of those that are not valid."""

from __future__ import annotations

from typing import Any

import pytest

from tuner.config.changes import revise
from tuner.config.schema import Config
from tuner.errors import UserError

SEED = 1000  # of the search

Content = dict[str, Any]


def config(**changes: Any) -> Config:
    """A valid configuration with other values at some keys, ``__`` for the dot."""
    space = {"lr": {"low": 1e-5, "high": 0.1, "log": True}}
    valid = Config.model_validate({
        "preset": "default", "out": "runs", "name": None,
        "task": {"name": "blobs", "class": "pkg.Blobs", "args": {}, "metric": "val_loss", "mode": "min", "target": None,
                 "dataset": "d", "datasets": ["d"], "data_dir": None, "check": None},
        "optimizers": {"adam": {"class": "pkg.Adam", "args": {"betas": [0.9, 0.999]}, "space": space}},
        "train": {"epochs": 10, "batch_size": 8, "evaluations": 2},
        "search": {"optimizers": ["adam"], "trials": 3, "seed": SEED, "sampler": "tpe", "scheduler": "fifo"},
        "retrain": {"seeds": 2, "epochs": None},
        "resources": {"cpus_per_trial": 1, "gpus_per_trial": None, "max_concurrent": None, "address": None},
    })  # fmt: skip
    return revise(valid, {key.replace("__", "."): value for key, value in changes.items()}) if changes else valid


def refusal(**changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        config(**changes)
    return one_line(caught.value)


def one_line(error: BaseException) -> str:
    assert not set("\n\r") & set(str(error))
    return str(error)

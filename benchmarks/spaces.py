"""Random trials of the optimizers of configs/, from their search spaces and from wider ones: docs/spaces.md.

Run as `python -m benchmarks.spaces --out docs/spaces.md` from the repository root. Each draw, of one optimizer on one
task, is a file in `--raw` once it has ended, under a name that depends on space, budget and number of trials; a second
command draws only what is missing, or has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks import space_rows
from benchmarks.space_rows import Row
from tasks.base import Task
from tuner.config.layers import resolve
from tuner.config.registry import available
from tuner.config.schema import Config
from tuner.config.space import Dimension
from tuner.training.build import make_engine, make_task, optimizer_maker, set_up
from tuner.training.metrics import evaluate
from tuner.training.records import Budget
from tuner.training.single import Hyperparameters
from tuner.training.stack import Member, stacks, train

SEEDS = {"wide": 11, "shipped": 12}
"""Of the two draws; the trials themselves have the search seed, as in a search."""
ALONE = 64
"""Trials of an optimizer that no stack can hold: they train one at a time."""

Space = Mapping[str, Dimension]


@dataclass(frozen=True)
class Subject:
    """A task of the smoke preset, for so many epochs: a few hundred steps or fewer."""

    task: str
    dataset: str
    epochs: int


TASKS = {
    "mnist1d": Subject("mnist1d", "mnist1d", 2),
    "iris": Subject("tabular_mlp", "iris", 100),
    "wine": Subject("tabular_mlp", "wine", 100),
    "rahimi_recht": Subject("rahimi_recht", "cond29", 25),
    "quadratic_deep": Subject("quadratic_deep", "deepobs", 20),
}


def tasks_of(optimizer: str) -> list[str]:
    """Four each: Newton steps with a block of 4,000 by 4,000 second derivatives are too slow."""
    left_out = "mnist1d" if optimizer == "subsampled_newton" else "wine"
    return [name for name in TASKS if name != left_out]


def log(low: float, high: float) -> Dimension:
    return Dimension(low=low, high=high, log=True)


CLIPPED = {"lr": log(1e-5, 10), "rho": log(1e-4, 30)}
WIDE: dict[str, Space] = {
    "diag_hessian": {"lr": log(1e-7, 1), "diff": Dimension(low=0.02, high=1.5), "square": Dimension(low=1, high=15)},
    **dict.fromkeys(("sadh", "ssdh", "ssvp", "sophia"), CLIPPED),
    "adahessian": {"lr": log(1e-5, 100)},
    "subsampled_newton": {"lr": log(1e-5, 10), "damping": log(1e-3, 100), "sampling_rate": Dimension(low=0, high=1)},
    "sgd": {"lr": log(1e-5, 100)},
    "sgdm": {"lr": log(1e-6, 10)},
    "nesterov": {"lr": log(1e-6, 10)},
    "schedule_free_sgd": {"lr": log(1e-5, 100)},
    "prodigy": {"lr": log(1e-3, 1e3)},
}
REST: Space = {
    "lr": log(1e-7, 10),
    "weight_decay": log(1e-6, 10),
    "eps": log(1e-12, 1),
    "one_minus_beta1": log(1e-3, 1),
    "one_minus_beta2": log(1e-5, 1),
}


def wide(optimizer: str, space: Space) -> dict[str, Dimension]:
    """What is drawn from to see beyond a space; choices are all there are."""
    around = {**REST, **WIDE.get(optimizer, {})}
    return {name: dim if dim.choices else around[name] for name, dim in space.items()}


def points(space: Space, trials: int, seed: int) -> list[Hyperparameters]:
    """So many points, log-uniform or uniform in each interval."""
    places = np.random.default_rng(seed).random((trials, len(space)))
    return [{name: at(dim, u) for (name, dim), u in zip(space.items(), row, strict=True)} for row in places]


def at(dim: Dimension, place: float) -> Any:
    """What lies at a place from 0 (low) to 1 (high) of an interval, or of a list of choices."""
    if dim.choices:
        return dim.choices[int(place * len(dim.choices))]
    assert dim.low is not None and dim.high is not None
    if dim.log:
        return float(dim.low * (dim.high / dim.low) ** place)
    return float(dim.low + (dim.high - dim.low) * place)


def trained(config: Config, optimizer: str, task: Task, hps: Sequence[Hyperparameters], epochs: int) -> pd.DataFrame:
    """Train a trial for each point, as a stack; where none can hold them, for the first ``ALONE``, one at a time.

    Returns:
        A row per trial: state, first value of the metric, last value, and the hyperparameters.
    """
    make, engine = optimizer_maker(optimizer, config.optimizers[optimizer]), make_engine(config)
    members = [Member(hp, config.search.seed) for hp in hps]
    first = evaluate(task, task.build(config.search.seed), ("train", "val"))[task.metric]
    groups = stacks(task, make, members, engine)
    rows: dict[int, dict[str, object]] = {}
    for places in groups if len(groups) < len(members) else groups[:ALONE]:
        try:
            results = train(task, make, [members[place] for place in places], Budget(epochs, 1), engine=engine)
            ended = [(result.status, result.metrics[task.metric]) for result in results]
        except Exception as error:  # as in a search, where it fails this trial alone
            print(f"{optimizer}, trial {places[0]}: {type(error).__name__}: {error}"[:200], file=sys.stderr)
            ended = [("failed", np.nan)] * len(places)
        for place, (state, value) in zip(places, ended, strict=True):
            rows[place] = {"state": state, "first": first, "value": value} | members[place].hp
    return pd.DataFrame([rows[place] for place in sorted(rows)])


def settings(optimizer: str, name: str) -> Config:
    subject = TASKS[name]
    flags = {"task.name": subject.task, "task.dataset": subject.dataset, "preset": "smoke"}
    return resolve(flags | {"search.optimizers": [optimizer], "resources.gpus_per_trial": 0})


def draw(optimizer: str, name: str, kind: str, trials: int, raw: Path) -> pd.DataFrame:
    """The trials of one optimizer on one task, drawn from its ``wide`` or ``shipped`` space, or read if they are there.

    Args:
        raw: the folder of the draws that have ended.
    """
    config, subject = settings(optimizer, name), TASKS[name]
    spec = config.optimizers[optimizer]
    space = spec.space if kind == "shipped" else wide(optimizer, spec.space)
    ranges = {key: dim.model_dump() for key, dim in space.items()}
    made_of = [spec.class_, spec.args, ranges, trials, SEEDS[kind], subject.epochs]
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:8]
    path = raw / f"{optimizer}-{name}-{kind}-{digest}.csv"
    if not path.is_file():
        started = time.monotonic()
        task = make_task(config)
        set_up(task, config)
        hps = points(space, trials, SEEDS[kind])
        table = trained(config, optimizer, task, hps, subject.epochs)
        raw.mkdir(parents=True, exist_ok=True)
        table.to_csv(path.with_suffix(".partial"), index=False)
        path.with_suffix(".partial").rename(path)
        print(f"{optimizer}, {name}, {kind}: {len(table)} trials, {time.monotonic() - started:.0f} s", flush=True)
    return pd.read_csv(path)


def rows(optimizer: str, tasks: Sequence[str], trials: int, raw: Path) -> list[Row]:
    """One for each of the optimizer's tasks."""
    found = []
    for name in [name for name in tasks_of(optimizer) if name in tasks]:
        shipped, around = (draw(optimizer, name, kind, trials, raw) for kind in ("shipped", "wide"))
        found.append(Row(name, settings(optimizer, name).optimizers[optimizer], shipped, around))
    return found


def main() -> None:
    everything = available("optimizers")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizers", nargs="+", choices=everything, default=everything, metavar="NAME")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), metavar="NAME")
    parser.add_argument("--trials", type=int, default=256, help="of each draw (default: %(default)s)")
    parser.add_argument("--raw", type=Path, default=Path("runs/spaces"), help="the folder of what has been drawn")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: rows(name, args.tasks, args.trials, args.raw) for name in args.optimizers}
    left_out = [name for name in everything if name not in args.optimizers]
    epochs = ", ".join(f"{name} {subject.epochs}" for name, subject in TASKS.items())
    args.out.write_text(space_rows.page(found, left_out, args.trials, ALONE, epochs), encoding="utf-8")


if __name__ == "__main__":
    main()

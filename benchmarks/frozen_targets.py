"""Fixes the targets of a suite's tasks, by AlgoPerf's rule, of a finished search of its four target-setting optimizers.

python -m tuner.search --suite core_targets --name targets
python -m benchmarks.frozen_targets runs/targets VERSION > configs/targets/core.yaml

Of each task each optimizer's best trial, drawn at random, was retrained 20 times; of each the best value along the way
counts, and of these the median; the best of the four medians is the target (after Dahl et al., "Benchmarking neural
network training algorithms", 2023, section 4.2). They are made in three quarters of the epochs that the suite trains
for, so that a method as good reaches them before its time is over; epochs and batch size stand beside them.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import yaml

from tuner.store.run import Run
from tuner.store.suites import Suite

DIGITS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("suite", type=Path)
    parser.add_argument("version", type=int)
    args = parser.parse_args()
    suite = Suite.open(args.suite)
    tasks = {entry: target(run) for entry, run in suite.runs.items()}
    first = next(iter(suite.runs.values()))
    print(
        yaml.safe_dump(
            {"version": args.version, "made": made(suite, first), "tasks": tasks}, sort_keys=False, width=120
        )
    )


def made(suite: Suite, run: Run) -> dict[str, Any]:
    """How the targets came about."""
    config, env = run.config(), run.env()
    return {
        "rule": "the best optimizer's median, over retrainings of its best trial, of the best value along each",
        "command": "python -m benchmarks.frozen_targets",
        "suite": suite.name,
        "optimizers": list(config.optimizers),
        "trials": config.search.trials,
        "sampler": config.search.sampler,
        "search_seed": config.search.seed,
        "retrainings": len(config.retrain.seeds),
        "date": env["started"][:10],
        "commit": env["git"].get("commit"),
        "versions": {name: env["versions"][name] for name in ("python", "torch", "optuna", "numpy")},
    }


def target(run: Run) -> dict[str, Any]:
    """That of a task, with what it is of."""
    config = run.config()
    medians = {name: median_of(run, name) for name in config.optimizers}
    name = (min if config.task.mode == "min" else max)(medians, key=lambda each: medians[each])
    return {
        "target": float(f"{medians[name]:.{DIGITS}g}"),
        "metric": config.task.metric,
        "dataset": config.task.dataset,
        "of": name,
        "hp": {key: rounded(value) for key, value in run.best_optimizers()[name]["hp"].items()},
        "epochs": config.train.epochs,
        "batch_size": config.train.batch_size,
    }


def median_of(run: Run, optimizer: str) -> float:
    """Over its retrainings, of the best value along each; one that diverged is worse than all others."""
    config, seeds, curves = run.config(), run.seeds(), run.curves()
    split, _, metric = config.task.metric.partition("_")
    own = (curves["optimizer"] == optimizer) & (curves["phase"] == "retrain")
    values = curves[own & (curves["split"] == split) & (curves["metric"] == metric)].groupby("seed")["value"]
    less = config.task.mode == "min"
    ends = values.min() if less else values.max()
    of_seeds = seeds[seeds["optimizer"] == optimizer].set_index("seed")["status"]
    if len(of_seeds) != len(config.retrain.seeds) or set(ends.index) != set(of_seeds.index):
        raise SystemExit(f"{run.path}: {optimizer} has {len(ends)} of {len(config.retrain.seeds)} retrainings")
    return float(ends.mask(of_seeds == "diverged", math.inf if less else -math.inf).median())


def rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()

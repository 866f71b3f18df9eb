"""Fixes the targets of a suite's tasks, by AlgoPerf's rule, of a finished search of its four target-setting optimizers.

python -m tuner.search --suite core_targets --name targets
python -m benchmarks.frozen_targets runs/targets VERSION > configs/targets/core.yaml

Of each task the best trial of all four optimizers, drawn at random, is taken by its validation metric; its
configuration was retrained 20 times; of each retraining the best value along the run counts, and of these the median is
the target (Dahl et al., "Benchmarking neural network training algorithms", 2023, section 4.2). They are made in three
quarters of the epochs that the suite trains for, so that a method as good reaches them before its time is over; epochs
and batch size stand beside them.
"""

from __future__ import annotations

import argparse
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
        "rule": "median over the retrainings of the best value along each, of the best trial of all optimizers",
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
    sign = 1.0 if config.task.mode == "min" else -1.0
    best = {name: entry for name, entry in run.best_optimizers().items() if entry["hp"] is not None}
    name = min(best, key=lambda each: sign * best[each]["value"])
    split, _, metric = config.task.metric.partition("_")
    curves = run.curves()
    own = (curves["optimizer"] == name) & (curves["phase"] == "retrain")
    values = curves[own & (curves["split"] == split) & (curves["metric"] == metric)].groupby("seed")["value"]
    ends = values.min() if config.task.mode == "min" else values.max()
    if len(ends) != len(config.retrain.seeds):
        raise SystemExit(f"{run.path}: {len(ends)} of {len(config.retrain.seeds)} retrainings are there")
    return {
        "target": float(f"{ends.median():.{DIGITS}g}"),
        "metric": config.task.metric,
        "dataset": config.task.dataset,
        "of": name,
        "hp": {key: rounded(value) for key, value in best[name]["hp"].items()},
        "epochs": config.train.epochs,
        "batch_size": config.train.batch_size,
    }


def rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()

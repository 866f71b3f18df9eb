"""``--dry-run``: what a command would do, from the configuration alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tuner.cli import hp_text
from tuner.schema import Config, Dimension


def show(config: Config, path: Path, *, as_json: bool) -> None:
    """Print the resolved configuration, the search space, the number of runs and the resources."""
    plan = describe(config, path)
    if as_json:
        print(json.dumps(plan, indent=2))
        return
    print("# resolved configuration (config.yaml)")
    print(config.to_yaml())
    print("# search space")
    for optimizer, spec in config.optimizers.items():
        for name, dim in spec.space.items():
            print(f"{optimizer:14} {name:14} {_interval(dim)}")
        for point in spec.enqueued()[: config.search.trials]:
            print(f"{optimizer:14} tried first: {hp_text(point)}")
    runs, resources = plan["runs"], plan["resources"]
    print("\n# runs")
    print(f"{runs['trials']} trials: {len(config.optimizers)} optimizers x {config.search.trials}, "
          f"{config.train.epochs} epochs each")  # fmt: skip
    print(f"{runs['retrain']} retraining runs: {len(config.optimizers)} optimizers x {len(config.retrain.seeds)} "
          f"seeds, {config.retrain_epochs} epochs each")  # fmt: skip
    print(f"{runs['total']} training runs in all")
    print("\n# resources")
    where = f"of the Ray cluster at {resources['address']}" if resources["address"] else "of this machine"
    concurrent = resources["max_concurrent"] or "as many as fit"
    gpus = (
        "as many as it has, at most 1," if resources["gpus_per_trial"] is None else f"{resources['gpus_per_trial']:g}"
    )
    print(f"{resources['cpus_per_trial']:g} CPUs and {gpus} GPUs per run, {concurrent} at once, {where}")
    print(f"\nnothing was started; the run directory would be {path}")


def describe(config: Config, path: Path) -> dict[str, Any]:
    """The same as a document."""
    trials = len(config.optimizers) * config.search.trials
    retrain = len(config.optimizers) * len(config.retrain.seeds)
    content = yaml.safe_load(config.to_yaml())
    return {
        "schema_version": 1,
        "run": str(path),
        "config": content,
        "space": {name: optimizer["space"] for name, optimizer in content["optimizers"].items()},
        "runs": {"trials": trials, "retrain": retrain, "total": trials + retrain},
        "resources": content["resources"],
    }


def _interval(dim: Dimension) -> str:
    if dim.choices is not None:
        return f"one of {', '.join(map(str, dim.choices))}"
    kind = f"{'whole numbers' if dim.integer else 'numbers'}, {'log-uniform' if dim.log else 'uniform'}"
    return f"{dim.low:g} to {dim.high:g} ({kind})"

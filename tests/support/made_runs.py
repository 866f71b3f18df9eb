"""Run directories as a search leaves them, of numbers drawn here: what reports are made of, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.config.space import Dimension
from tuner.machine.code import identity
from tuner.store.run import Run
from tuner.store.winners import entry_of

LOOKS = 11
SHA = "5f" * 32


def make_run(
    path: Path,
    task: str = "mnist1d",
    effects: Mapping[str, float] | None = None,
    *,
    seeds: int | Sequence[int] = 20,
    studies: int = 1,
    trials: int = 30,
    diverged: Mapping[str, Sequence[int]] | None = None,
    settings: Sequence[str] = (),
    configs: Path | None = None,
    spread: float = 0.02,
    luck: float = 0.02,
    draw: int = 0,
) -> Run:
    """Losses of 0.5 plus an optimizer's effect, plus the luck of its search, where there are several studies, plus what
    a seed does to all, plus noise of standard deviation ``spread``; accuracies are one minus a third of the losses.

    Args:
        effects: by optimizer, on the loss.
        diverged: by optimizer, the seeds whose retraining diverged.
        luck: standard deviation of that of a search.
    """
    effects = effects or {"diag_hessian": -0.03, "adam": 0.0}
    flags = {"task.name": task, "search.optimizers": list(effects), "search.trials": trials, "search.studies": studies}
    config = resolve(flags | {"retrain.seeds": seeds if isinstance(seeds, int) else list(seeds)}, settings, configs)
    rng = np.random.default_rng(draw)
    run = Run.create(path, config)
    common = {study: rng.normal(0, 0.03, len(config.retrain.seeds)) for study in config.studies}
    best = {}
    rows: list[dict[str, Any]] = []
    for name, effect in effects.items():
        winners = [_search(run, config, name, study, effect, rng) for study in config.studies]
        best[name] = entry_of(winners, config.task.mode)
        for study in config.studies:
            level = 0.5 + effect + (rng.normal(0, luck) if studies > 1 else 0.0)
            for seed, shift in zip(config.evaluation_seeds(study), common[study], strict=True):
                value = level + shift + rng.normal(0, spread)
                lost = seed in (diverged or {}).get(name, ())
                rows.append(_seed_row(config, name, seed, value, winners[study]["hp"], lost, rng) | {"study": study})
                curve = _curve(config, name, seed, value, winners[study]["trial"], lost)
                run.append_curves([row | {"study": study} for row in curve])
    run.write_seeds(rows, config.hyperparameters)
    run.write_best({"task": task, "metric": config.task.metric, "optimizers": best})
    run.finish_curves()
    run.write_env(_env(task) | {"code": identity(config)})
    return run


def make_tasks(folder: Path, count: int) -> list[Run]:
    """Runs that are a task each, as their training differs."""
    return [
        make_run(folder / f"run{epochs}", seeds=3, trials=2, settings=[f"train.epochs={epochs}"], draw=epochs)
        for epochs in range(1, count + 1)
    ]


def metrics(loss: float) -> dict[str, float]:
    accuracy = 1 - loss / 3
    return {"loss": loss, "acc": accuracy}


def _own(config: Config, values: Mapping[str, float]) -> float:
    """The task's metric."""
    return values.get(config.task.metric.partition("_")[2], values["loss"])


def _search(run: Run, config: Config, name: str, study: int, effect: float, rng: np.random.Generator) -> dict[str, Any]:
    space = config.optimizers[name].space
    rows = []
    for trial in range(config.trials(name)):
        places = rng.random(max(1, len(space)))
        hp = {key: _value(dim, place) for (key, dim), place in zip(space.items(), places, strict=False)}
        lost = bool(places[0] > 0.93)
        loss = 2.3 if lost else 0.5 + effect + 2.0 * (places[0] - 0.55) ** 2 + abs(rng.normal(0, 0.02))
        rows.append({
            "task": config.task.name, "optimizer": name, "study": study, "trial": trial,
            "state": "diverged" if lost else "complete", "value": _own(config, metrics(loss)),
            "seed": config.search_seed(study), "steps": 1000,
            "seconds": 1 + rng.random(), "cohort": 1, "error": "", **{f"hp.{key}": value for key, value in hp.items()},
        })  # fmt: skip
    run.append_trials(rows, config.hyperparameters)
    sign = 1 if config.task.mode == "min" else -1
    best = min((row for row in rows if row["state"] == "complete"), key=lambda row: sign * row["value"])
    hp = {key: best[f"hp.{key}"] for key in space}
    diverged = sum(row["state"] == "diverged" for row in rows)
    return {"hp": hp, "value": best["value"], "trial": best["trial"], "n_trials": len(rows), "n_diverged": diverged,
            "n_failed": 0, "at_boundary": [], "study": study, "seed": config.search_seed(study)}  # fmt: skip


def _value(dim: Dimension, place: float) -> Any:
    if dim.choices is not None:
        return dim.choices[int(place * len(dim.choices))]
    assert dim.low is not None and dim.high is not None
    value = dim.low * (dim.high / dim.low) ** place if dim.log else dim.low + place * (dim.high - dim.low)
    return round(value) if dim.integer else float(value)


def _seed_row(
    config: Config, name: str, seed: int, value: float, hp: Mapping[str, Any], lost: bool, rng: np.random.Generator
) -> dict[str, Any]:
    found = {
        f"{split}_{metric}": number
        for split, worse in (("train", -0.1), ("val", 0.0), ("test", 0.01))
        for metric, number in (metrics(2.3) if lost else metrics(value + worse)).items()
    }
    steps = 300 if lost else 2000
    step_ms = 0.2 + 0.05 * (len(name) % 5) + 0.01 * rng.random()
    return {
        "task": config.task.name, "optimizer": name, "seed": seed, "status": "diverged" if lost else "complete",
        **found,
        "steps": steps, "grad_equivalents": steps * _cost(name), "seconds": steps * step_ms / 1000, "step_ms": step_ms,
        "peak_mem_mb": 800.0 + len(name), "cohort": 1, **{f"hp.{key}": number for key, number in hp.items()},
    }  # fmt: skip


def _cost(name: str) -> float:
    return 1.0 if name in ("adam", "sgdm", "adamw", "sgd") else 1.3


def _curve(config: Config, name: str, seed: int, value: float, trial: int, lost: bool) -> list[dict[str, Any]]:
    rows = []
    for look in range(2 if lost else LOOKS):
        step = 200 * look
        for split, worse in (("train", -0.1), ("val", 0.0)):
            now = metrics(value + worse + 1.8 * float(np.exp(-look / 2)) - 1.8 * float(np.exp(-(LOOKS - 1) / 2)))
            for metric, number in now.items():
                rows.append({
                    "task": config.task.name, "optimizer": name, "phase": "retrain", "trial": trial, "seed": seed,
                    "step": step, "epoch": 2.0 * look, "seconds": step * 0.0003, "grad_equivalents": step * _cost(name),
                    "split": split, "metric": metric, "value": number,
                })  # fmt: skip
    return rows


def _env(task: str) -> dict[str, Any]:
    return {
        "started": "2026-01-02T03:04:05+00:00", "command": ["--task", task],
        "versions": {"python": "3.11.7", "torch": "2.14.1"}, "device": "cpu", "parameters": 5110,
        "hardware": {"platform": "Linux", "cpu": "a processor", "cpus": 2, "memory_mb": 24000, "gpus": []},
        "git": {"commit": "0" * 40, "dirty": False},
        "data": {"name": task, "source": "made here", "sha256": SHA, "rows": {"train": 100, "val": 50, "test": 50}},
    }  # fmt: skip

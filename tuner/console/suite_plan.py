"""The dry run of a suite shows what each of its tasks would cost, from the configurations alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tuner.config.about import NOTHING_SAID
from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.config.sources import TaskFiles
from tuner.console.dry_run import comparison
from tuner.errors import UserError
from tuner.planning.estimate import time_text
from tuner.planning.remaining import remaining_work
from tuner.store.run import Run

MINUTES = "times are scaled from those that presets were measured to take on 2 cores, - where none was"


def describe(suite: str, configs: Mapping[str, Config], path: Path) -> dict[str, Any]:
    """As a document: of each task what is left to do, and how long that takes, as far as that is known."""
    tasks = [_task(entry, config, path / entry) for entry, config in configs.items()]
    times = [task["minutes"] for task in tasks]
    return {
        "schema_version": 1,
        "suite": suite,
        "folder": str(path),
        "tasks": tasks,
        "total": sum(task["trials"] + task["retrain"] for task in tasks),
        "minutes": None if None in times else sum(times),
    }


def _task(entry: str, config: Config, path: Path) -> dict[str, Any]:
    names = config.optimizers
    trials, seeds = float(config.total_trials), float(len(names) * config.retraining_runs)
    if os.path.isdir(path):  # unlike Path's, false for a name that no folder can have
        work, _ = remaining_work(config, Run(path), search=True)
        trials, seeds = work.trials * len(names), work.seeds * len(names)
    return {
        "entry": entry,
        "task": config.task.name,
        "preset": config.preset,
        "optimizers": list(names),
        "studies": config.search.studies,
        "trials": round(trials),
        "retrain": round(seeds),
        "epochs": config.train.epochs,
        "target": config.task.target,
        "minutes": minutes(config, trials, seeds),
        "comparison": comparison(config)["sentence"],
    }


def minutes(config: Config, trials: float, seeds: float) -> float | None:
    """As long as a run of the preset was measured to take, per epoch of a training run."""
    try:
        configs = None if config.configs is None else Path(config.configs)
        about = TaskFiles(config.task.name, configs).about
        usual = resolve({"task.name": config.task.name, "preset": config.preset}, configs=configs)
    except UserError:  # a task that a program gave
        about, usual = NOTHING_SAID, config
    measured = about.minutes.get(config.preset)
    if measured is None:
        return None
    of_usual = _epochs(usual, usual.total_trials, len(usual.optimizers) * usual.retraining_runs)
    return measured * _epochs(config, trials, seeds) / of_usual


def _epochs(config: Config, trials: float, seeds: float) -> float:
    return trials * config.train.epochs + seeds * config.retrain_epochs


def show(plan: dict[str, Any]) -> None:
    """Print it for a person."""
    console = Console(highlight=False, width=250)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in ("task", "preset", "optimizers", "trials", "retraining runs", "epochs", "target", "on 2 cores"):
        table.add_column(Text(column), no_wrap=True)
    for task in plan["tasks"]:
        target = "-" if task["target"] is None else f"{task['target']:.4g}"
        cells = [
            task["entry"],
            task["preset"],
            len(task["optimizers"]),
            f"{task['trials']} in {task['studies']} studies",
        ]
        cells += [task["retrain"], task["epochs"], target, _time(task["minutes"])]
        table.add_row(*map(str, cells))
    with console.capture() as captured:
        console.print(table)
    print(f"# suite {plan['suite']}\n" + "\n".join(line.rstrip() for line in captured.get().splitlines()))
    whole = f"{plan['total']} training runs in all, about {_time(plan['minutes'])}; {MINUTES}"
    print(f"\n{whole if plan['total'] else 'nothing is left to do'}")
    of_sentence: dict[str, list[str]] = {}
    for task in plan["tasks"]:
        of_sentence.setdefault(task["comparison"], []).append(task["entry"])
    print("\n# comparison")
    for sentence, entries in of_sentence.items():
        print(sentence if len(of_sentence) == 1 else f"{', '.join(entries)}: {sentence}")
    there = os.path.isdir(plan["folder"])  # unlike Path's, false for a name that no folder can have
    print(f"\nnothing was started; the folder {'is' if there else 'would be'} {plan['folder']}")


def _time(minutes: float | None) -> str:
    return "-" if minutes is None else time_text(60 * minutes) if minutes else "0 s"

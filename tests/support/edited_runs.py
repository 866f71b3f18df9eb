"""Changes to the files of a run that was made: what a person, a fault or another program may have left."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuner.store.run import Run
from tuner.store.tables import csv_text

Row = dict[str, str]


def copied(run: Run, path: Path) -> Run:
    shutil.copytree(run.path, path)
    return Run(path)


def edit_best(run: Run, change: Callable[[str, dict[str, Any]], Any]) -> None:
    best = run.best()
    for name, entry in best["optimizers"].items():
        change(name, entry)
    (run.path / "best.json").write_text(json.dumps(best))


def edit_seeds(run: Run, change: Callable[[Row], Row | None]) -> None:
    """Every row as it comes back; none where it does not."""
    _edit(run.path / "seeds.csv", change)


def edit_trials(run: Run, change: Callable[[Row], Row | None]) -> None:
    _edit(run.path / "trials.csv", change)


def _edit(path: Path, change: Callable[[Row], Row | None]) -> None:
    rows = [dict(row) for row in csv.DictReader(path.read_text().splitlines())]
    kept = [made for row in rows if (made := change(row)) is not None]
    path.write_text(csv_text(list(dict.fromkeys(key for row in kept or rows for key in row)), kept, header=True))


def edit_env(run: Run, **changes: Any) -> None:
    env = run.env() | changes
    run.write_env({key: value for key, value in env.items() if key != "schema_version"})


def edit_config(run: Run, old: str, new: str) -> None:
    path = run.path / "config.yaml"
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


def hit(row: Row, optimizer: str, seeds: str | None) -> bool:
    return row["optimizer"] == optimizer and (seeds is None or row["seed"] in seeds.split())


def where(optimizer: str, seeds: str | None = None, **values: str) -> Callable[[Row], Row]:
    return lambda row: row | values if hit(row, optimizer, seeds) else row


def without(optimizer: str, seeds: str | None = None) -> Callable[[Row], Row | None]:
    return lambda row: None if hit(row, optimizer, seeds) else row


LOST = {"status": "failed"} | dict.fromkeys(
    ["train_loss", "val_loss", "test_loss", "train_acc", "val_acc", "test_acc"], ""
)

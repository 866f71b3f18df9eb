"""Changes to the files of a run that was made: what a person, a fault or another program may have left."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from tuner.store.columns import STUDY
from tuner.store.files import whole_lines
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


def as_before_studies(run: Run) -> None:
    """Make of a run of one study what a version wrote that knew no studies."""
    for table in ("trials.csv", "seeds.csv", "logs/curves.csv", "logs/curvature.csv"):
        path = run.path / table
        if path.exists():
            lines = whole_lines(path).decode().splitlines()
            rows = [{key: row[key] for key in row if key != STUDY} for row in csv.DictReader(lines)]
            columns = [column for column in lines[0].split(",") if column != STUDY]
            path.write_text(csv_text(columns, rows, header=True))
    for table in ("curves.parquet", "curvature.parquet"):
        path = run.path / table
        if path.exists():
            pd.read_parquet(path).drop(columns=STUDY).to_parquet(path, index=False)
    asked = run.logs / "asked.jsonl"
    if asked.exists():
        noted = map(json.loads, whole_lines(asked).decode().splitlines())
        lines = [json.dumps({key: line[key] for key in line if key != STUDY}) for line in noted]
        asked.write_text("".join(line + "\n" for line in lines))
    if (run.path / "best.json").exists():
        edit_best(run, lambda name, entry: [entry.pop(key) for key in (STUDY, "studies")])
    edit_config(run, "  studies: 1\n", "")

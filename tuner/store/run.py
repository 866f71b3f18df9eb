"""A run is one directory, read and written here: every file's format, in whole records. No torch, no ray.

``runs/<run-id>/`` holds config.yaml, env.json, status.json, study.db, trials.csv, best.json, seeds.csv, curves.parquet,
curvature.parquet and weights/ where they were asked for, and logs/; while training runs are under way, their
checkpoints/. A file is written whole (a temporary name, then a rename) or appended a line at a time, so that a reader,
or a run cut off at any moment, finds whole records.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from filelock import FileLock, Timeout

from tuner.errors import UserError
from tuner.store.byte_folder import ByteFolder
from tuner.store.columns import (
    CLOCK_COLUMNS,
    CLOCKS,
    CURVATURE_KEY,
    CURVATURE_TYPES,
    CURVE_KEY,
    CURVE_TYPES,
    LOSS_COLUMNS,
    SEED_COLUMNS,
    SEED_IDENTITY,
    STUDY,
    TRIAL_COLUMNS,
    TRIAL_IDENTITY,
)
from tuner.store.files import append, whole_lines, write_whole
from tuner.store.folders import SUITE_FILE, check_creatable, check_files, numbered, renamed
from tuner.store.json_files import read_json, write_json
from tuner.store.json_shapes import Best, Env, Status, first_error, is_finite, remove
from tuner.store.kept_weights import KeptWeights
from tuner.store.long_table import LongTable
from tuner.store.seed_rows import Retraining
from tuner.store.tables import HP, Row, append_lines, check_columns, csv_text, read_csv, shortened, text_rows
from tuner.text import plain

if TYPE_CHECKING:
    import pandas as pd

    from tuner.config.schema import Config
    from tuner.jobs import Job

OBJECTS = "objects.pkl"


class Run:
    """One run directory. Methods named after a file's content read it; ``write_`` and ``append_`` do so.

    Attributes:
        code: what the command at work is: see ``tuner.machine.code``.
        mark: what rows that it makes have in their column code: nothing if it is what the run was begun with.
        checkpoints: of training runs under way, by ``jobs.checkpoint_name``.
        weights: of retrained networks.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.code: dict[str, dict[str, Any]] = {}
        self.mark = ""
        self.study_url = f"sqlite:///{quote(os.fsencode(self.path / 'study.db'))}"
        self.logs = self.path / "logs"
        self._trials = self.path / "trials.csv"
        self._seeds = self.path / "seeds.csv"
        self._curves = LongTable(self.path / "curves.parquet", self.logs / "curves.csv", CURVE_TYPES, CURVE_KEY, CLOCKS)
        self._curvature = LongTable(
            self.path / "curvature.parquet", self.logs / "curvature.csv", CURVATURE_TYPES, CURVATURE_KEY, CLOCKS
        )
        self._asked = self.logs / "asked.jsonl"
        self.checkpoints = ByteFolder(self.path / "checkpoints", ".pt")
        self.weights = KeptWeights(self.path / "weights")

    @classmethod
    def create(cls, path: Path, config: Config, objects: bytes = b"", *, another: bool = False) -> Run:
        """Make the directory; it has its config.yaml from the first moment, so that it can be resumed.

        Args:
            objects: what the configuration carries by value: see ``tuner.config.carried``.
            another: take another name, with a number, where this one is taken, by a command begun at the same time.

        Raises:
            UserError: it exists, or cannot be made.
        """
        if not another:
            check_creatable(path)
        partial = cls(path.with_name(f".{secrets.token_hex(8)}.partial"))
        try:
            partial.logs.mkdir(parents=True)
            partial.write_config(config)
            if objects:
                write_whole(partial.path / OBJECTS, objects)
            return cls(renamed(partial.path, numbered(path) if another else iter([path])))
        except OSError as error:
            shutil.rmtree(partial.path, ignore_errors=True)
            raise UserError(f"output folder {path}: cannot be made ({error.strerror})") from None

    @classmethod
    def open(cls, path: Path) -> Run:
        """An existing run.

        Raises:
            UserError: the path is not a run directory, or has something else where files are.
        """
        if os.path.isfile(path / SUITE_FILE):
            runs = ", ".join(sorted(each.parent.name for each in path.glob("*/config.yaml")))
            raise UserError(f"{path}: is the folder of a suite; name one of its runs: {runs}")
        if not os.path.isfile(path / "config.yaml"):
            raise UserError(f"{path}: not a run directory, it has no config.yaml")
        check_files(path)
        return cls(path)

    @property
    def is_new(self) -> bool:
        """Whether nothing came of the run yet: its work has not begun."""
        return set(self.files()) <= {"config.yaml", "logs/", OBJECTS, "status.json"}

    def discard_if_new(self) -> None:
        """Remove the directory where nothing came of the run."""
        if self.path.is_dir() and self.is_new:
            shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from working on the run; the lock goes with this process, however it ends.

        Raises:
            UserError: another command does.
        """
        lock = FileLock(self.logs / "lock")
        try:
            self.logs.mkdir(exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            raise UserError(f"{self.path}: another command is at work on this run") from None
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from None
        try:
            yield
        finally:
            lock.release()

    def files(self) -> list[str]:
        """The names of what is there, logs/ included."""
        return sorted(p.name + "/" * p.is_dir() for p in self.path.iterdir() if not p.name.endswith(".partial"))

    # Configuration and environment.

    def write_config(self, config: Config) -> None:
        write_whole(self.path / "config.yaml", config.to_yaml())

    def config(self) -> Config:
        from tuner.config.layers import from_yaml

        path = self.path / "config.yaml"
        try:
            return from_yaml(path.read_text(encoding="utf-8"))
        except (UserError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: {error}") from None

    def objects(self) -> bytes:
        """What the configuration carries by value; empty where it carries nothing: see ``tuner.config.carried``."""
        path = self.path / OBJECTS
        return path.read_bytes() if path.is_file() else b""

    def write_env(self, env: Mapping[str, Any]) -> None:
        write_json(self.path / "env.json", env)

    def has_env(self) -> bool:
        """Not while a run's work has not begun."""
        return (self.path / "env.json").exists()

    def env(self) -> dict[str, Any]:
        """Without what has another shape than ``Env``'s: it is for people to read, no result hangs on it."""
        content = read_json(self.path / "env.json")
        while wrong := first_error(Env, content):
            remove(content, wrong["loc"])
        return content

    # The search.

    def append_trials(self, rows: Iterable[Row], hyperparameters: list[str]) -> None:
        """Add finished trials: ``TRIAL_COLUMNS``, then one ``hp.`` column for each of the hyperparameters."""
        append_lines(self._trials, [*TRIAL_COLUMNS, *(HP + name for name in hyperparameters)], rows)

    def write_trials(self, rows: Iterable[Row], hyperparameters: list[str]) -> None:
        """Write all finished trials anew."""
        columns = [*TRIAL_COLUMNS, *(HP + name for name in hyperparameters)]
        write_whole(self._trials, csv_text(columns, rows, header=True))

    def has_trials(self) -> bool:
        """Whether there is a table, of which an older version may have written no more than the header."""
        return self._trials.exists()

    def trials(self) -> pd.DataFrame:
        """The finished trials, in the order in which they ended; empty where there is none."""
        self.trial_rows()  # which refuses a damaged table
        table = read_csv(self._trials, TRIAL_COLUMNS)
        check_columns(self._trials, table, ["value"])
        return table

    def trial_rows(self) -> list[dict[str, str]]:
        """The same as text, as it stands in the file, without empty cells."""
        return text_rows(self._trials, TRIAL_IDENTITY)

    def append_asked(self, jobs: Iterable[Job]) -> None:
        """Note which trials are about to begin, with which hyperparameters."""
        noted = ({"optimizer": j.optimizer, STUDY: j.study, "trial": j.trial, "hp": j.hp} for j in jobs)
        append(self._asked, "".join(json.dumps(line) + "\n" for line in noted))

    def asked(self) -> dict[tuple[str, int], dict[int, dict[str, Any]]]:
        """Hyperparameters of the trials that began: optimizer and study -> by number."""
        asked: dict[tuple[str, int], dict[int, dict[str, Any]]] = {}
        for line in map(json.loads, whole_lines(self._asked).decode().splitlines()):
            asked.setdefault((line["optimizer"], line.get(STUDY, 0)), {})[int(line["trial"])] = line["hp"]
        return asked

    def write_best(self, best: Mapping[str, Any]) -> None:
        write_json(self.path / "best.json", best)

    def best(self) -> dict[str, Any]:
        """
        Raises:
            UserError: the file is damaged, or has a text for a hyperparameter that is a number.
        """
        content = read_json(self.path / "best.json", Best)
        self._check_numbers(content["optimizers"])
        return content

    def _check_numbers(self, best: Mapping[str, Mapping[str, Any]]) -> None:
        """Of the hyperparameters that were searched in an interval."""
        for name, optimizer in self.config().optimizers.items() if best else ():
            entry = best.get(name, {})
            for hp in [entry.get("hp"), *(study["hp"] for study in entry.get("studies", ()))]:
                for key, value in (hp or {}).items():
                    searched = optimizer.space.get(key)
                    if searched and searched.choices is None and not is_finite(value):
                        where = f"{self.path / 'best.json'}: optimizers.{name}.hp.{key}"
                        raise UserError(f"{where}: must be a finite number, got {shortened(value)}")

    def best_optimizers(self) -> dict[str, dict[str, Any]]:
        """Its entries, by optimizer; none as long as no trial has ended."""
        return self.best()["optimizers"] if (self.path / "best.json").exists() else {}

    # The retraining.

    def write_seeds(self, rows: Iterable[Row], hyperparameters: list[str]) -> None:
        """Write all retrained runs: identity, losses, the task's own metrics, clocks, hyperparameters."""
        rows = list(rows)
        known = [*SEED_COLUMNS, *LOSS_COLUMNS, *CLOCK_COLUMNS, *(HP + name for name in hyperparameters)]
        own = sorted({key for row in rows for key in row} - set(known))
        metrics = [*LOSS_COLUMNS, *own]
        columns = [*SEED_COLUMNS, *metrics, *CLOCK_COLUMNS, *(HP + name for name in hyperparameters)]
        write_whole(self._seeds, csv_text(columns, rows, header=True))

    def seeds(self) -> pd.DataFrame:
        """The retrained runs, one per optimizer and seed; empty where there is none."""
        self.seed_rows()
        return read_csv(self._seeds, [*SEED_COLUMNS, *LOSS_COLUMNS, *CLOCK_COLUMNS])

    def seed_rows(self) -> list[dict[str, str]]:
        """The same as text, as it stands in the file, without empty cells."""
        return text_rows(self._seeds, SEED_IDENTITY)

    def retrained_seeds(self) -> list[int]:
        """The seeds of retrained runs, failed ones too, as ``retrain.seeds`` has them."""
        return [Retraining.of(row).declared_seed for row in self.seed_rows()]

    def valid_seed_rows(self) -> list[dict[str, str]]:
        """Those of runs that need not be done again."""
        return [row for row in self.seed_rows() if row["status"] != "failed"]

    # The curves, and the curvature along them.

    def append_curves(self, rows: Iterable[Row]) -> None:
        """Add evaluations, long form: one row per (evaluation, split, metric), columns as in ``CURVE_TYPES``."""
        self._curves.append(rows)

    def append_curvature(self, rows: Iterable[Row]) -> None:
        """Add analyses, long form: one row per (evaluation, quantity, index), columns as in ``CURVATURE_TYPES``."""
        rows = list(rows)
        if rows:
            self._curvature.append(rows)

    def finish_curves(self) -> None:
        """Move what was appended into curves.parquet and curvature.parquet."""
        self._curves.finish()
        self._curvature.finish()

    def forget_retrained(self, optimizer: str, study: int, seeds: Iterable[int]) -> None:
        """Drop curves and weights of a study's retraining: another configuration has turned out to be the best.

        Args:
            seeds: those that were retrained.
        """
        self.weights.forget(optimizer, seeds)
        curves, curvature = self.curves(), self.curvature()
        here = (curves["optimizer"] == optimizer) & (curves[STUDY] == study)
        self._curves.write(curves[~here | (curves["phase"] != "retrain")])
        if len(curvature):
            self._curvature.write(curvature[(curvature["optimizer"] != optimizer) | (curvature[STUDY] != study)])

    def curves(self) -> pd.DataFrame:
        """All evaluations of the run, also while it goes on."""
        return self._curves.read()

    def curvature(self) -> pd.DataFrame:
        """What analyses of the curvature found; empty where there was none."""
        return self._curvature.read()

    # How it goes.

    def write_status(self, status: Mapping[str, Any]) -> None:
        write_json(self.path / "status.json", status)

    def status(self) -> dict[str, Any] | None:
        """What the command at work on the run said last; ``None`` of a run made before there was a status.json.

        Raises:
            UserError: the file is damaged, or of another shape.
        """
        path = self.path / "status.json"
        return cast(dict[str, Any], plain(read_json(path, Status))) if path.exists() else None

    # Logs.

    def write_log(self, name: str, text: str) -> Path:
        """Keep a text, say a traceback, as logs/<name>.log."""
        path = self.logs / f"{name}.log"
        write_whole(path, text)
        return path

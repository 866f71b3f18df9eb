"""The folder of a suite: suite.yaml, a run for each task, and what all of them come to. No torch, no ray."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tuner.config.bounded_yaml import bounded
from tuner.config.checks import NAME
from tuner.errors import UserError, nearest
from tuner.store.files import write_whole
from tuner.store.folders import SUITE_FILE, check_creatable, numbered, renamed
from tuner.store.run import Run
from tuner.text import line

if TYPE_CHECKING:
    from tuner.config.schema import Config
    from tuner.config.suites import SuiteFile

UNREADABLE = (OSError, ValueError, RecursionError, yaml.YAMLError, LookupError, TypeError, AttributeError)
"""What files that are none of ours raise."""


@dataclass(frozen=True)
class Suite:
    """A suite's folder.

    Attributes:
        name: of the suite's file.
        runs: those of its tasks, in the suite's order.
        targets: the file of the frozen targets that its tasks have.
    """

    path: Path
    name: str
    runs: dict[str, Run]
    targets: str | None = None

    @classmethod
    def create(
        cls, path: Path, file: SuiteFile, configs: Mapping[str, Config], objects: bytes, *, another: bool
    ) -> Suite:
        """Make the folder, with a run for each task that has its config.yaml from the first moment.

        Args:
            file: what the suite is.
            objects: what the configurations carry by value: see ``tuner.config.carried``.
            another: take another name, with a number, where this one is taken.

        Raises:
            UserError: it exists, or cannot be made.
        """
        if not another:
            check_creatable(path)
        partial = path.with_name(f".{secrets.token_hex(8)}.partial")
        try:
            partial.mkdir(parents=True)
            for entry, config in configs.items():
                Run.create(partial / entry, config, objects)
            about: dict[str, Any] = {
                "schema_version": 1,
                "suite": file.name,
                "targets": file.targets,
                "tasks": list(configs),
            }
            write_whole(partial / SUITE_FILE, yaml.safe_dump(about, sort_keys=False))
            return cls.open(renamed(partial, numbered(path) if another else iter([path])))
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise UserError(f"output folder {path}: cannot be made ({error.strerror})") from None
        except UserError as error:  # of a run
            shutil.rmtree(partial, ignore_errors=True)
            raise UserError(str(error).replace(str(partial), str(path))) from None

    @classmethod
    def open(cls, path: Path) -> Suite:
        """An existing one.

        Raises:
            UserError: the path is not the folder of a suite, or lacks a run.
        """
        try:
            about = yaml.safe_load(bounded((path / SUITE_FILE).read_text(encoding="utf-8")))
            name, tasks, targets = str(about["suite"]), [str(entry) for entry in about["tasks"]], about.get("targets")
        except UNREADABLE as error:
            raise UserError(
                f"{path / SUITE_FILE}: cannot be read as that of a suite ({type(error).__name__})"
            ) from None
        odd = [entry for entry in tasks if not NAME.fullmatch(entry)]
        if odd or not tasks:
            what = f"{odd[0]!r} is not the name of a run's folder" if odd else "it has no tasks"
            raise UserError(f"{path / SUITE_FILE}: cannot be read as that of a suite ({line(what)})")
        return cls(path, name, {entry: Run.open(path / entry) for entry in tasks}, targets)

    def only(self, entries: Iterable[str]) -> dict[str, Run]:
        """The runs of these tasks; of all, where none is named.

        Raises:
            UserError: it has no such task.
        """
        entries = list(entries)
        for entry in entries:
            check_task(entry, self.runs)
        return {entry: run for entry, run in self.runs.items() if not entries or entry in entries}

    def with_results(self) -> list[Run]:
        """The runs that have retrained anything."""
        return [run for run in self.runs.values() if run.seed_rows()]

    def discard_if_new(self) -> None:
        """Remove the folder where nothing came of any run."""
        if self.path.is_dir() and all(run.is_new for run in self.runs.values()):
            shutil.rmtree(self.path, ignore_errors=True)


def check_task(entry: str, known: Iterable[str]) -> None:
    """
    Raises:
        UserError: the suite has no such task.
    """
    known = list(known)
    if entry not in known:
        raise UserError(f"--only: the suite has no task {entry!r}{nearest(entry, known)}")


def is_suite(path: Path) -> bool:
    """Whether this is the folder of a suite."""
    return os.path.isfile(path / SUITE_FILE)  # unlike Path's, false for a name that no file can have


def folder_of_suite(paths: Sequence[Path]) -> Path | None:
    """Where the results of these paths belong: the suite's folder, if that alone is named."""
    return paths[0] if len(paths) == 1 and is_suite(paths[0]) else None


def runs_at(path: Path) -> list[Run]:
    """The run, or those of a suite that have retrained anything, or else all of them.

    Raises:
        UserError: it is neither.
    """
    if is_suite(path):
        suite = Suite.open(path)
        return suite.with_results() or list(suite.runs.values())
    return [Run.open(path)]

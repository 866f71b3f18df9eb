"""Folders of runs are made and opened here: which can be, and under which name."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import UserError

if TYPE_CHECKING:
    pass


SUITE_FILE = "suite.yaml"
"""In the folder of a suite, beside its runs."""
LONGEST_NAME = 255  # bytes, on all common file systems


def numbered(path: Path) -> Iterator[Path]:
    """The path, then others: name-2, name-3, ..."""
    yield path
    yield from (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))


def new_folder(path: Path) -> Path:
    """Made here and now, with a number behind its name where that is taken."""
    for free in numbered(path):
        with suppress(FileExistsError):
            free.mkdir()
            return free
    raise AssertionError("numbers do not end")


def renamed(folder: Path, names: Iterator[Path]) -> Path:
    """The folder under the first of the names that nobody has.

    Raises:
        OSError: all are taken, or it cannot be.
    """
    taken = None
    for name in names:
        try:
            return folder.rename(name)  # fails where there is a folder that is not empty, as a run never is
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            taken = error
    assert taken is not None
    raise taken


def check_files(run: Path) -> None:
    """Refuse a run directory with a pipe or a device, which to read or to write would take for ever.

    Raises:
        UserError: so it is.
    """
    for folder in (run, run / "logs", run / "checkpoints", run / "weights", run / "figures"):
        for path in folder.iterdir() if folder.is_dir() else ():
            if not path.is_file() and not path.is_dir() and path.exists():
                raise UserError(f"{path}: is neither a file nor a folder, but a pipe, a socket or a device")


def check_creatable(path: Path) -> None:
    """Refuse a run directory that exists or whose nearest existing parent cannot be written.

    Raises:
        UserError: with the reason. Nothing is made.
    """
    if "\0" in str(path) or any(len(os.fsencode(part)) > LONGEST_NAME for part in path.absolute().parts):
        raise UserError(f"output folder {path}: no folder can have this name")
    if os.path.lexists(path):
        raise UserError(f"output folder {path}: exists already; choose another --name or --out")
    parent = next(p for p in path.absolute().parents if os.path.lexists(p))
    if not parent.is_dir():
        raise UserError(f"output folder {path}: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"output folder {path}: {parent} cannot be written")

"""The manifest, figures/manifest.json, says which figures are a report's own: the next one replaces these and
nothing else."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection
from hashlib import sha256
from pathlib import Path

from tuner.errors import UserError
from tuner.store.files import write_whole

NAME = "manifest.json"
FIGURE = re.compile(r"[^/\0]+\.(svg|png)")


def begin(folder: Path, names: Collection[str], *, old_report: bool) -> None:
    """Make room for the figures with these names: those of an earlier report go, where they are as it left them.

    Args:
        old_report: whether there is a report of a version that kept no manifest, whose figures have these names too.

    Raises:
        UserError: a file that is somebody else's has one of the names; nothing has been changed.
    """
    known = _read(folder)
    if known is None and os.path.lexists(folder / NAME):
        raise UserError(f"{folder / NAME}: is not a list of a report's figures; move it away, or choose another --out")
    unchanged = {name for name, digest in (known or {}).items() if _is_own(folder / name, digest)}
    others = [name for name in names if name not in unchanged and os.path.lexists(folder / name)]
    if others and not (known is None and old_report):
        raise UserError(
            f"{folder / others[0]}: is not as an earlier report left it, and a figure of this one has its name; move "
            "it away, or choose another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_symlink():  # which may lead to the figures of another report
        for name in unchanged - set(names):
            (folder / name).unlink()
    _write(folder, dict.fromkeys(names))


def end(folder: Path, names: Collection[str]) -> None:
    """Note what the figures with these names are now."""
    _write(folder, {name: _digest(folder / name) for name in names})


def _read(folder: Path) -> dict[str, str | None] | None:
    """SHA-256 by name, none for those that were about to be drawn; ``None`` where there is no manifest to go by."""
    path = folder / NAME
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"] if path.is_file() else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if not isinstance(files, dict):
        return None
    return {name: digest for name, digest in files.items() if FIGURE.fullmatch(name)}


def _is_own(path: Path, digest: str | None) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode) and digest in (None, _digest(path))
    except OSError:
        return False


def _write(folder: Path, files: dict[str, str | None]) -> None:
    write_whole(folder / NAME, json.dumps({"schema_version": 1, "files": files}, indent=2) + "\n")


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()

"""Folders of the user who runs this process, also of one without a home, as in containers."""

from __future__ import annotations

import os
import stat
import tempfile
from functools import cache
from pathlib import Path


def home() -> Path | None:
    """The home directory; ``None`` where neither HOME nor the system's list of users has one."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def cache_directory() -> Path:
    """``$XDG_CACHE_HOME/tuner``, else ``~/.cache/tuner`` or, if that cannot be written, among temporary files."""
    chosen, own = os.environ.get("XDG_CACHE_HOME"), home()
    if chosen:
        return Path(chosen) / "tuner"
    return (own / ".cache" if own and is_writable(own / ".cache") else scratch_directory()) / "tuner"


def is_writable(folder: Path) -> bool:
    """Whether there is such a folder, or can be, in which files can be made."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


@cache
def scratch_directory() -> Path:
    """A folder among the temporary files that is this user's alone, the same one for every process if that can be."""
    path = Path(tempfile.gettempdir()) / f"tuner-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        about = path.lstat()
        if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o077:
            return path
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="tuner-"))  # somebody else has that name

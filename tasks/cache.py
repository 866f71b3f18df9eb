"""Arrays that are slow to make, made once per machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock

from tasks.user_folders import cache_directory

Arrays = dict[str, np.ndarray]


def cached_arrays(name: str, make: Callable[[], Arrays]) -> Arrays:
    """``make()``, kept as ``<name>.npz`` in the cache directory.

    Workers that start together wait for the first; a damaged file is made anew; where nothing can be written, nothing
    is kept.
    """
    path = cache_directory() / f"{name}.npz"
    arrays = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            arrays = _read(path)
            if arrays is None:
                arrays = make()
                _write(path, arrays)
    except OSError:
        pass
    return make() if arrays is None else arrays


def _read(path: Path) -> Arrays | None:
    try:
        # np.load given a path leaves the file open where the archive is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except FileNotFoundError:
        return None
    except Exception:  # damage shows as any of a dozen kinds
        path.unlink()
        return None


def _write(path: Path, arrays: Arrays) -> None:
    partial = path.with_suffix(".partial.npz")
    try:
        np.savez(partial, **arrays)  # type: ignore[arg-type]
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)

"""A byte folder holds whole files under names of their own; it is there while it holds any."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tuner.store.files import write_whole


class ByteFolder:
    """
    Args:
        path: of the folder.
        ending: of its files' names, with the dot.
    """

    def __init__(self, path: Path, ending: str) -> None:
        self.path = path
        self.ending = ending

    def file(self, name: str) -> Path:
        return self.path / f"{name}{self.ending}"

    def write(self, name: str, content: bytes) -> None:
        self.path.mkdir(exist_ok=True)
        write_whole(self.file(name), content)

    def names(self) -> list[str]:
        """Of all files."""
        return sorted(path.name.removesuffix(self.ending) for path in self.path.glob(f"*{self.ending}"))

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """Those of the names that there are."""
        paths = {name: self.file(name) for name in names} if self.path.is_dir() else {}
        return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}

    def drop(self, names: Iterable[str]) -> None:
        """Those of the names that there are; the folder goes with the last one."""
        if self.path.is_dir():
            for name in names:
                self.file(name).unlink(missing_ok=True)
            with suppress(OSError):
                self.path.rmdir()

    def clear(self) -> None:
        """Drop all of them, and what is half-written."""
        shutil.rmtree(self.path, ignore_errors=True)

"""Files are written whole, or a line at a time: a reader finds whole records at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An ``OSError`` says which file it is about, which those of writing and reading do not by themselves."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    partial = path.with_name(path.name + ".partial")
    try:
        with naming(path), partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def append(path: Path, lines: str, header: str = "") -> None:
    """Append lines; one without an end, which was cut off, goes, and so do these where not all can be written."""
    with naming(path), path.open("ab+", buffering=0) as file:
        whole = _length_of_lines(file)
        file.truncate(whole)
        content = memoryview((lines if whole else header + lines).encode())
        try:
            while content:
                content = content[file.write(content) :]
        except OSError:
            file.truncate(whole)
            raise


def _length_of_lines(file: RawIOBase) -> int:
    """The length of the file up to the end of its last whole line, in bytes."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 4096)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def whole_lines(path: Path) -> bytes:
    """The lines of a file that have their end."""
    lines = path.read_bytes() if path.exists() else b""
    return lines[: lines.rfind(b"\n") + 1]

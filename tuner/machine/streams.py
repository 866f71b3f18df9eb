"""Standard streams may be closed, full, or left by their reader: the work goes on, the loss is known."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

STDOUT, STDERR = 1, 2


class Stream(io.RawIOBase):
    """A descriptor to write to. From the first write that fails on, what is written is lost.

    Attributes:
        lost: why, once something was lost.
    """

    def __init__(self, descriptor: int, *, closed: bool) -> None:
        self.descriptor = descriptor
        self.was_closed = closed
        self.lost: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            if self.was_closed:
                raise OSError(errno.EBADF, "it is closed")
            return len(data) if self.lost else self._write(data)
        except OSError as error:
            self.lost = self.lost or error
            return len(data)

    def _write(self, data: bytes) -> int:
        while True:
            try:
                return os.write(self.descriptor, data)
            except BlockingIOError:  # another program has made the terminal or pipe non-blocking
                select.select([], [self.descriptor], [])


def prepare() -> None:
    """Make the standard streams such that writing to them never fails; to be called once, by a command."""
    closed = [number for number in range(3) if not _is_open(number)]
    for number in closed:  # else the next file that is opened would be taken for it
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if number == 0:
            sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _wrapped(sys.stdout, STDOUT, closed=STDOUT in closed)
    if sys.stderr is sys.__stderr__:
        own = os.dup(STDERR)  # what libraries print on descriptor 2 can be turned away, what we say cannot
        sys.stderr = _wrapped(sys.stderr, own, closed=STDERR in closed)


@contextmanager
def silenced(number: int) -> Iterator[None]:
    """Nothing that a library prints on this descriptor is seen; what is said through ``sys.stderr`` is."""
    kept = os.dup(number)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), number)
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


def say_at_once(text: str) -> None:
    """On standard error, also from a signal's handler, in the middle of a print."""
    with suppress(OSError):
        os.write(descriptor(sys.stderr), text.encode())


def descriptor(stream: TextIO) -> int:
    """Where a standard stream leads; standard error's descriptor for one that is in memory."""
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return STDERR


def lost_stdout() -> OSError | None:
    """Why some of what was printed could not be; ``None`` where all of it was, or its reader has just left."""
    lost = _lost()
    return None if isinstance(lost, BrokenPipeError) else lost


def reader_left() -> bool:
    """Whether nobody sees what is printed any more."""
    return _lost() is not None


def _lost() -> OSError | None:
    buffer = getattr(sys.stdout, "buffer", None)
    raw = getattr(buffer, "raw", None)
    return raw.lost if isinstance(raw, Stream) else None


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _wrapped(stream: TextIO | None, number: int, *, closed: bool) -> TextIO:
    """The same stream, with its encoding and buffering, over a ``Stream``."""
    if isinstance(stream, io.TextIOWrapper):
        stream.flush()
    buffer = io.BufferedWriter(Stream(number, closed=closed))  # type: ignore[type-var]
    return io.TextIOWrapper(
        buffer,
        encoding=getattr(stream, "encoding", "utf-8"),
        errors="backslashreplace",  # names of files need not be UTF-8
        line_buffering=number != STDOUT or getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", False),
    )

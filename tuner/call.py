"""A program that calls us has a command carried out in a process of its own: what the program has loaded, its signals
and its Ray stay as they are, and it outlives whatever becomes of the command.

The child (``tuner.child``) reads one ``Call`` from its standard input, whose end tells it that the program has ended,
and answers with messages into a pipe that is nobody else's.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from tuner import events
from tuner.config.program import Program
from tuner.errors import INTERRUPTED, MachineError, UserError
from tuner.events import Ended, Event, Listener
from tuner.machine import process_environment
from tuner.machine.signals import exit_cause
from tuner.planning.progress import Progress

CHILD = "tuner.child"


@dataclass(frozen=True)
class Call:
    """What is to be done.

    Attributes:
        argv: the flags of the command.
        plan: say what would be done, and do nothing.
    """

    command: Literal["search", "retrain"]
    argv: list[str]
    program: Program
    plan: bool = False


@dataclass(frozen=True)
class Answer:
    """What came of it.

    Attributes:
        run: the run directory.
        plan: what would be done, as a document, where that was asked.
        ended: how the work ended; ``None`` where there was nothing to do.
    """

    run: Path
    plan: dict[str, Any] | None = None
    ended: Ended | None = None


@dataclass(frozen=True)
class Failure:
    """Why nothing, or not all, came of it.

    Attributes:
        error: of which class of ours.
        traceback: of a fault of the program.
    """

    error: type[UserError | MachineError] | None
    message: str
    traceback: str = ""


def carry_out(call: Call, tell: Listener) -> Answer:
    """Do what is called for in a process of its own. An interruption is passed on, and the work ended in order.

    Args:
        tell: is told each ``events.Event``, in this thread.

    Raises:
        UserError: bad input.
        MachineError: the work ended before it was done; the message says how to go on.
        KeyboardInterrupt: it was interrupted; the message says how to go on.
    """
    said = pickle.dumps(call)
    reading, writing = _pipe()
    process = _start(writing)
    os.close(writing)
    assert process.stdin is not None
    with os.fdopen(reading, "rb") as pipe, process, process.stdin as stdin:  # whose end interrupts the child
        with suppress(BrokenPipeError):  # of a process that ended at once
            stdin.write(said)
            stdin.flush()
        return _Conversation(process, pipe, tell).answer()


def _pipe() -> list[int]:
    """Its ends, of which none is taken for a standard stream that this process has closed."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends]
    for end in ends:
        os.close(end)
    return high


def _start(writing: int) -> subprocess.Popen[bytes]:
    """The child, whom no interruption reaches before it is ready for it."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return subprocess.Popen(
            [sys.executable, "-m", CHILD, str(writing)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[writing],
            env=_environment(),
            start_new_session=True,  # an interruption of this one's processes reaches it through us alone
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _Conversation:
    """Reads what a child says, until it has ended."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: BinaryIO, tell: Listener) -> None:
        self.process = process
        self.tell = tell
        self.messages: queue.Queue[Any] = queue.Queue()
        self.last: Any = None
        self.began: events.TrainingBegan | None = None
        self.progress: Sequence[Progress] = ()
        self.error: BaseException | None = None
        self.over = False
        threading.Thread(target=self._read, args=[pipe], name="messages of the child", daemon=True).start()

    def _read(self, pipe: BinaryIO) -> None:
        """In a thread, since an interruption in the middle of a message would lose it."""
        try:
            while True:
                self.messages.put(pickle.load(pipe))
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):  # it has ended, in the middle of one perhaps
            pass
        finally:
            self.messages.put(None)

    def answer(self) -> Answer:
        """What the child answers, once it has ended; it does so in order, whatever the listener raises."""
        while not self.over:
            try:
                self._next()
            except BaseException as error:
                self._interrupt(error)
        return self._concluded(self.last)

    def _next(self) -> None:
        message = self.messages.get()
        if message is None:
            self.messages.put(None)  # for the next time, should this be interrupted
            self.process.wait()
            self.over = True
            return
        self.last = message
        if isinstance(message, list):
            self.progress = message
            message = events.Progressed() if self.began else None
        elif isinstance(message, events.TrainingBegan):
            message = self.began = replace(message, progress=lambda: self.progress)
        if isinstance(message, Event) and (self.error is None or isinstance(self.error, KeyboardInterrupt)):
            self.tell(message)

    def _interrupt(self, error: BaseException) -> None:
        """Ask the child to end in order; at once, where a person asks again."""
        if self.error is None or isinstance(error, KeyboardInterrupt):
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGINT)
        self.error = self.error or error

    def _concluded(self, last: Any) -> Answer:
        """The answer, where the last message is one."""
        if self.error is not None and not isinstance(self.error, KeyboardInterrupt):
            raise self.error
        if isinstance(last, Failure):
            if last.error:
                raise last.error(last.message)
            raise RuntimeError(f"{last.message}\n{last.traceback}")
        ended = last.ended if isinstance(last, Answer) else last if isinstance(last, Ended) else None
        if ended and ended.state != "ended":
            raise _why(ended)
        if self.error is not None or self.process.returncode == INTERRUPTED:
            raise KeyboardInterrupt(_goes_on(self.began))
        if isinstance(last, Answer):
            return last
        raise MachineError(
            f"the process of the command ended ({exit_cause(self.process.returncode)}); {_goes_on(self.began)}"
        )


def _why(ended: Ended) -> BaseException:
    """Why the work ended before it was done, and how to go on."""
    finished = f"{ended.finished} of {ended.total} training runs finished"
    if ended.state == "interrupted":
        return KeyboardInterrupt(f"{finished}; {ended.run} has them; to go on: {_resume(ended.run)}")
    reason = f"Ray was lost: {ended.reason}" if ended.state == "lost" else ended.reason
    return MachineError(f"{reason}; {finished}; to go on: {_resume(ended.run)}")


def _goes_on(began: events.TrainingBegan | None) -> str:
    """How to go on, where it is not known how far the work has come."""
    return f"to go on: {_resume(began.run)}" if began else "training had not begun"


def _resume(run: Path) -> str:
    return f"tuner.search(resume={str(run)!r})"


def _environment() -> dict[str, str]:
    """Of the child, which finds us where the program has found us."""
    path = process_environment.module_path()
    return dict(os.environ) if path is None else os.environ | {"PYTHONPATH": path}

"""A program that calls us has a command carried out in a process of its own: what the program has loaded, its signals
and its Ray stay as they are, and it outlives whatever becomes of the command.

The child (``tuner.child``) reads one ``Call`` from its standard input, whose end tells it that the program has ended,
and answers with messages into a pipe that is nobody else's.
"""

from __future__ import annotations

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
from tuner.config.modules import INSTALLED
from tuner.config.program import Program
from tuner.config.registry import ROOT
from tuner.errors import INTERRUPTED, MachineError, UserError
from tuner.events import Ended, Event, Listener
from tuner.machine.signals import exit_cause
from tuner.planning.progress import Progress


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
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "tuner.child", str(writing)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        pass_fds=[writing],
        env=_environment(),
        start_new_session=True,  # an interruption of this one's processes reaches it through us alone
    )
    os.close(writing)
    assert process.stdin is not None
    with os.fdopen(reading, "rb") as pipe, process, process.stdin as stdin:
        with suppress(BrokenPipeError):  # of a process that ended at once
            pickle.dump(call, stdin)
            stdin.flush()
        try:
            return _Conversation(process, pipe, tell).answer()
        except BaseException:
            process.kill()
            raise


class _Conversation:
    """Reads what a child says, until it has ended."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: BinaryIO, tell: Listener) -> None:
        self.process = process
        self.tell = tell
        self.messages: queue.Queue[Any] = queue.Queue()
        self.progress: Sequence[Progress] = ()
        self.error: BaseException | None = None
        threading.Thread(target=self._read, args=[pipe], name="messages of the child", daemon=True).start()

    def _read(self, pipe: BinaryIO) -> None:
        """In a thread, since an interruption in the middle of a message would lose it."""
        with suppress(EOFError, OSError, ValueError, pickle.UnpicklingError):
            while True:
                self.messages.put(pickle.load(pipe))
        self.messages.put(None)

    def answer(self) -> Answer:
        last: Any = None
        while True:
            try:
                message = self.messages.get()
                if message is None:
                    return self._concluded(last)
                last = message
                self._hear(message)
            except KeyboardInterrupt as error:
                self._interrupt(error)
            except (UserError, MachineError):
                raise
            except Exception as error:  # of the listener
                if message is None:
                    raise
                self._interrupt(error)

    def _interrupt(self, error: BaseException) -> None:
        """Ask the child to end in order; at once, where it was asked before."""
        self.error = self.error or error
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)

    def _hear(self, message: Any) -> None:
        if isinstance(message, list):
            self.progress = message
            message = events.Progressed()
        elif isinstance(message, events.TrainingBegan):
            message = replace(message, progress=lambda: self.progress)
        if isinstance(message, Event) and not isinstance(self.error, Exception):  # which the listener raised
            self.tell(message)

    def _concluded(self, last: Any) -> Answer:
        """The answer, where the last message is one."""
        code = self.process.wait()
        if isinstance(last, Failure):
            if last.error:
                raise last.error(last.message)
            raise RuntimeError(f"{last.message}\n{last.traceback}")
        ended = last.ended if isinstance(last, Answer) else last if isinstance(last, Ended) else None
        if self.error is not None and not isinstance(self.error, KeyboardInterrupt):
            raise self.error
        if ended and ended.state != "ended":
            raise _why(ended)
        if isinstance(last, Answer):
            return last
        if self.error is not None or code == INTERRUPTED:
            raise KeyboardInterrupt("interrupted before training began")
        raise MachineError(f"the process of the command ended ({exit_cause(code)}); tuner.search(resume=RUN) goes on")


def _why(ended: Ended) -> BaseException:
    """Why the work ended before it was done, and how to go on."""
    finished = f"{ended.finished} of {ended.total} training runs finished"
    resume = f"tuner.search(resume={str(ended.run)!r})"
    if ended.state == "interrupted":
        return KeyboardInterrupt(f"{finished}; {ended.run} has them; to go on: {resume}")
    reason = f"Ray was lost: {ended.reason}" if ended.state == "lost" else ended.reason
    return MachineError(f"{reason}; {finished}; to go on: {resume}")


def _environment() -> dict[str, str]:
    """Of the child, which finds us where the program has found us."""
    if any(folder == ROOT for folder in INSTALLED):
        return dict(os.environ)
    before = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *([before] if before else [])])}

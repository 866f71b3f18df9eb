"""A child process carries out a command for the program that called it: see ``tuner.call``."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import Any, BinaryIO

from tuner import events, text
from tuner.call import Answer, Call, Failure
from tuner.errors import INTERRUPTED, MachineError, UserError
from tuner.events import Event, Listener
from tuner.machine import streams
from tuner.machine.signals import NUMBERS, interruption
from tuner.planning.progress import Progress

PROGRESS_S = 0.2
"""Between two reports of progress."""


def main(pipe: int) -> int:
    """Do what standard input calls for, and answer into the pipe with this number; the exit code."""
    os.set_inheritable(pipe, False)
    try:
        call: Call = pickle.load(sys.stdin.buffer)
    except (EOFError, pickle.UnpicklingError):  # the caller was interrupted meanwhile
        return INTERRUPTED
    threading.Thread(target=_end_with_caller, name="end with the caller", daemon=True).start()
    sys.argv[1:] = call.argv
    with suppress(BrokenPipeError), os.fdopen(pipe, "wb") as answers:  # of a caller that has ended
        return _reply(call, Sender(answers))
    return INTERRUPTED


def _reply(call: Call, send: Sender) -> int:
    try:
        send(_answer(call, send.event))
    except (UserError, MachineError) as error:
        send(Failure(type(error), str(error)))
    except OSError as error:
        send(Failure(MachineError, text.refusal(error)))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        send(Failure(None, text.fault(error), text.tracebacks(error)))
    return 0


def _answer(call: Call, tell: Listener) -> Answer:
    from tuner.console.parsing import check_utf8, prepare_process

    signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)  # which the caller has blocked until now
    prepare_process()
    check_utf8(call.argv)
    module = import_module(f"tuner.{call.command}")
    args = module.make_parser().parse(call.argv)
    for remark in call.program.remarks:
        tell(events.Remark(remark))
    if call.plan:
        from tuner.console.plan_view import describe

        planned = module.planned(args, lambda remark: tell(events.Remark(remark)), call.program)
        return Answer(planned.path, plan=describe(planned))
    done = module.carry_out(args, tell, call.program)
    return Answer(done.run.path, ended=done.ended)


class Sender:
    """Sends messages to the caller, from whichever thread."""

    def __init__(self, pipe: BinaryIO) -> None:
        self.pipe = pipe
        self.lock = threading.Lock()
        self.progress: Callable[[], Sequence[Progress]] = tuple
        self.sent = 0.0

    def __call__(self, message: Any) -> None:
        with self.lock, suppress(BrokenPipeError):
            pickle.dump(message, self.pipe)
            self.pipe.flush()

    def event(self, event: Event) -> None:
        """As data alone: of a run's progress what it is now."""
        if isinstance(event, events.Progressed):
            if time.monotonic() - self.sent >= PROGRESS_S:
                self._send_progress()
            return
        if isinstance(event, events.TrainingBegan):
            self.progress = event.progress
            self._send_progress()
            event = replace(event, progress=tuple)
        elif isinstance(event, events.TrainingEnded):
            self._send_progress()
        self(event)

    def _send_progress(self) -> None:
        self(list(self.progress()))
        self.sent = time.monotonic()


def _end_with_caller() -> None:
    """Interrupt this process once the program that called it is no more."""
    while os.read(sys.stdin.fileno(), 1024):  # the stream's own lock would be held in processes that are forked
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    streams.prepare()
    interruption.install()
    code = main(int(sys.argv[1]))
    interruption.leave(code)
    sys.exit(code)

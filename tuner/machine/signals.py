"""SIGINT and SIGTERM interrupt a command; another one ends it there and then."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tuner.errors import INTERRUPTED
from tuner.machine import streams

NUMBERS = (signal.SIGINT, signal.SIGTERM)
WORD = "interrupted"


def exit_cause(code: int) -> str:
    """The signal that ended a process, or the code that it ended with, in words."""
    return f"signal {-code}" if code < 0 else f"code {code}"


class Interruption:
    """Whether a signal has come, and whether a person was told.

    Attributes:
        last_act: done before the process ends at once.
        at_once: whether it must end so, without what others do at its end.
    """

    at_once = False
    last_act: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self) -> None:
        self.noted = self.said = False
        self.previous_hook = sys.unraisablehook
        self._pipe: tuple[int, int] | None = None
        self._come: set[int] = set()

    def install(self) -> None:
        """Raise ``KeyboardInterrupt`` at the first signal from now on."""
        self.noted = self.said = self.at_once = False
        self._come.clear()
        if self._pipe is None:
            self._pipe = os.pipe()
            for end in self._pipe:
                os.set_blocking(end, False)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for number in NUMBERS:
            signal.signal(number, self._note)
        if sys.unraisablehook != self._unraisable:
            self.previous_hook, sys.unraisablehook = sys.unraisablehook, self._unraisable

    def came(self) -> bool:
        """Whether one has come, be it that the main thread is inside C++ and has not been told."""
        if self._pipe is not None:
            with suppress(BlockingIOError):
                self._come.update(os.read(self._pipe[0], 1024))
        return not self._come.isdisjoint(NUMBERS)

    def check(self) -> None:
        """
        Raises:
            KeyboardInterrupt: a signal came whose ``KeyboardInterrupt`` did not: C++ and finalizers swallow it.
        """
        if self.noted:
            raise KeyboardInterrupt

    def leave(self, code: int) -> None:
        """From now on the process is on its way out, and a signal only hastens it.

        Where one has come already the process ends here: Ray may be half started, and would abort on what follows.
        Or it is stuck.
        """
        if self.noted or self.at_once:
            self._exit(code)
        for number in NUMBERS:
            signal.signal(number, lambda *_: self._exit(code))

    def _exit(self, code: int) -> None:
        with suppress(Exception):
            self.last_act()
        os._exit(code)

    def say(self) -> None:
        """One line, however often it is called."""
        if not self.said:
            self.said = True
            print(WORD, file=sys.stderr)

    def _note(self, number: int, frame: object) -> None:
        if self.noted:
            if not self.said:
                streams.say_at_once(f"{WORD}\n")
            self._exit(INTERRUPTED)
        self.noted = True
        raise KeyboardInterrupt

    def _unraisable(self, unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            self.previous_hook(unraisable)


interruption = Interruption()

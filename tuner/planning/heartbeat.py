"""The heartbeat writes status.json: what the command at work on a run says of itself, every few seconds."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tuner.planning.progress import Pace
from tuner.store.run import Run

if TYPE_CHECKING:
    from tuner.planning.plan import Plan

INTERVAL_S = 2.0
AT_WORK = ("starting", "running")
"""States of a command that has not ended."""


def write_state(run: Run, state: str, progress: list[dict[str, Any]]) -> None:
    """Write status.json.

    Args:
        state: "starting" or "running"; "ended" by itself, "interrupted", "halted", since something could not be
            written, "lost", since Ray was, or "failed", by anything else.
        progress: of each optimizer in each phase.
    """
    run.write_status(stamp(state) | {"host": socket.gethostname(), "pid": os.getpid(), "progress": progress})


def stamp(state: str) -> dict[str, str]:
    """The state, and that it is so now."""
    return {"state": state, "updated": datetime.now(UTC).isoformat(timespec="seconds")}


class Heartbeat:
    """Writes the plan's progress into the run directory, so that others can look in."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.pace = Pace(plan.progress())
        self.written = 0.0

    def update(self) -> None:
        """To be called often.

        Raises:
            OSError: the run directory cannot be written.
        """
        if time.monotonic() - self.written >= INTERVAL_S:
            self._write("running")

    def end(self, state: str) -> None:
        """The last word."""
        try:
            self._write(state)
        except OSError:
            if state == "ended":
                raise

    def _write(self, state: str) -> None:
        self.written = time.monotonic()
        progress = [asdict(p) | {"left_s": self.pace.left_s(p)} for p in self.plan.progress()]
        write_state(self.plan.run, state, progress)

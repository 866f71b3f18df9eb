"""The heartbeat of a command writes every few seconds, into status.json, what it is at."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from tuner.planning.plan import Plan
from tuner.planning.progress import Pace
from tuner.store.run import Run

INTERVAL_S = 2.0


def write_state(run: Run, state: str, progress: list[dict[str, Any]]) -> None:
    """Write status.json.

    Args:
        state: "starting" or "running"; "ended" by itself, "interrupted", "halted", since something could not be
            written, "lost", since Ray was, or "failed", by anything else.
        progress: of each optimizer in each phase.
    """
    about = {"state": state, "updated": datetime.now(UTC).isoformat(timespec="seconds")}
    run.write_status(about | {"host": socket.gethostname(), "pid": os.getpid(), "progress": progress})


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

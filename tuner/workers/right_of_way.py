"""A preflight times steps, and is left a processor for it: of the workers that warm meanwhile, one waits until it ends.

On a machine whose processors all get a worker; the others have one to spare.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path

VARIABLE = "TUNER_RIGHT_OF_WAY"
"""In the environment of workers' processes: the file that is locked meanwhile."""

PREFLIGHT, WAITING = 0, 1
"""Bytes of it, of which the preflight locks one and the worker that waits the other."""


class RightOfWay:
    """Of the preflight of this process, until it is given up, or the process ends."""

    def __init__(self) -> None:
        self.file = tempfile.NamedTemporaryFile(prefix="tuner-preflight-")  # noqa: SIM115  (open until ``give_up``)
        fcntl.lockf(self.file, fcntl.LOCK_EX, 1, PREFLIGHT)
        os.environ[VARIABLE] = self.file.name

    def give_up(self) -> None:
        """Let the worker that waits go on."""
        os.environ.pop(VARIABLE, None)
        self.file.close()


def give_way() -> None:
    """Wait until the preflight has ended, where no other worker does."""
    path = os.environ.get(VARIABLE)
    if path is None:
        return
    with suppress(OSError), Path(path).open("rb+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, WAITING)  # which others then fail to get
        fcntl.lockf(file, fcntl.LOCK_EX, 1, PREFLIGHT)

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


class RightOfWay:
    """Of the preflight of this process, until it is given up, or the process ends."""

    def __init__(self) -> None:
        self.file = tempfile.NamedTemporaryFile(prefix="tuner-preflight-")  # noqa: SIM115  (open until ``give_up``)
        fcntl.flock(self.file, fcntl.LOCK_EX)
        os.environ[VARIABLE] = self.file.name

    def give_up(self) -> None:
        """Let the worker that waits go on."""
        os.environ.pop(VARIABLE, None)
        self.file.close()
        _turn(self.file.name).unlink(missing_ok=True)


def give_way() -> None:
    """Wait until the preflight has ended, where no other worker does."""
    path = os.environ.get(VARIABLE)
    if path is None:
        return
    with suppress(OSError), Path(path).open("rb") as file:
        _turn(path).touch(exist_ok=False)  # by the first alone
        fcntl.flock(file, fcntl.LOCK_SH)


def _turn(path: str) -> Path:
    return Path(f"{path}.waits")

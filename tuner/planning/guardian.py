"""A guardian process outlives a command which Ray's C++ ends from within, or the system from outside: it says so.

It imports little until then, reads its standard input, and has nothing to say where that ends with ``DONE``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tuner.machine import streams

DONE = b"done\n"


@contextmanager
def guarded(runs: Sequence[Path], resume: str) -> Iterator[None]:
    """Should this process not come to the end of the block, another one notes it in each run's status.json and says so.

    Args:
        runs: those that the command works on.
        resume: the command to go on with.
    """
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tuner.planning.guardian",
            str(os.getpid()),
            resume,
            *(str(run.absolute()) for run in runs),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=streams.descriptor(sys.stderr),
        start_new_session=True,  # a signal to all of this one's processes is not for it
    )
    assert process.stdin is not None
    try:
        yield
    finally:
        with suppress(OSError), process.stdin as stdin:
            stdin.write(DONE)
        process.wait()


def main(argv: list[str]) -> None:
    """Wait for the end of the process with this number, which works on runs."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read() != DONE:
        note_end(int(argv[0]), [Path(path) for path in argv[2:]], argv[1])


def note_end(pid: int, paths: Sequence[Path], resume: str) -> None:
    """Where that process was at work on the runs still: it has failed."""
    from tuner.planning.heartbeat import AT_WORK, stamp
    from tuner.store.run import Run

    done = total = 0
    cut_off = False
    for run in map(Run, paths):
        status = run.status()
        if status is None or status["pid"] != pid:
            continue
        if status["state"] in AT_WORK:
            run.write_status(status | stamp("failed"))
            cut_off = True
        done += len(run.trial_rows()) + len(run.valid_seed_rows())
        total += sum(part["total"] for part in status["progress"])
    if cut_off:
        finished = f"{done} of {total} training runs finished"
        why = "Ray was lost, or the system ended this command, perhaps for want of memory"
        print(f"error: {why}; {finished}; to go on: {resume}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])

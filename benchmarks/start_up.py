"""From Enter to the first trial: how long `python -m tuner.search` takes until it trains, beside what it took before.

python -m benchmarks.start_up --beside COMMIT

Commands alternate: by the code of that commit, by this code, and by this code once more, which then remembers what the
preflight found. Each is ended when its first outcome stands in trials.csv; the first trial began by as much earlier as
that outcome has seconds of training.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
SEARCH = ("--task", "mnist1d", "--preset", "smoke", "--optimizers", "adam", "--trials", "4", "--no-report", "-q")
LIMIT = 0.6
POLL_S = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--beside", metavar="COMMIT", default="HEAD", help="the code to compare with")
    parser.add_argument("--times", type=int, default=5, metavar="N", help="how often, after a first time each")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        checkout(args.beside, scratch / "before")
        seconds = measure(scratch, args.times)
    before = median(seconds["before"])
    for way, each in seconds.items():
        share = median(now / then for now, then in zip(each, seconds["before"], strict=True))
        print(f"| {way} | {median(each):.1f} | {min(each):.1f} to {max(each):.1f} | {share:.2f} |")
    met = median(seconds["now"]) <= LIMIT * before
    print(f"- {'Met' if met else 'NOT MET'}: at most {LIMIT:g} of the time before.")


def checkout(commit: str, folder: Path) -> None:
    """The sources of a commit, in a new folder."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)


def measure(scratch: Path, times: int) -> dict[str, list[float]]:
    """Seconds from the start of each way's commands to their first trials; first times, which compile, are left out."""
    seconds: dict[str, list[float]] = {"before": [], "now": [], "again": []}
    for number in range(times + 1):
        cache = str(scratch / f"cache-{number}")
        for way, each in seconds.items():
            code = scratch / "before" if way == "before" else ROOT
            each.append(until_first_trial(code, scratch / f"{way}-{number}", {"XDG_CACHE_HOME": cache}))
            print(f"{way}: {each[-1]:.1f} s", file=sys.stderr, flush=True)
    return {way: each[1:] for way, each in seconds.items()}


def until_first_trial(code: Path, run: Path, variables: Mapping[str, str], search: Sequence[str] = SEARCH) -> float:
    """Seconds.

    Raises:
        RuntimeError: the command ended before.
    """
    environment = {name: os.environ[name] for name in ("PATH", "HOME")} | variables
    command = [sys.executable, "-m", "tuner.search", *search, "--out", str(run.parent), "--name", run.name]
    started = time.time()
    with subprocess.Popen(
        command, cwd=code, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            while (began := begin_of_first(run / "trials.csv")) is None:
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)}: ended with {process.returncode} before its first trial")
                time.sleep(POLL_S)
        finally:
            process.send_signal(signal.SIGINT)
    return began - started


def begin_of_first(table: Path) -> float | None:
    """When the first stack began to train, in seconds since the epoch; ``None`` while it has not ended."""
    try:
        rows = pd.read_csv(table)
        seen = time.time()
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return None
    if not len(rows) or len(rows) < rows["cohort"][0]:
        return None
    return seen - float(rows["seconds"][: rows["cohort"][0]].sum())


if __name__ == "__main__":
    main()

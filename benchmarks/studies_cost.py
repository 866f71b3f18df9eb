"""What five studies of an optimizer cost beside one study of as many trials, in the largest cohorts that it may have.

Run as `python -m benchmarks.studies_cost` from the repository root, on two cores with nothing else to do. Each pair is
two searches of 100 trials in all, one after the other. The first ratio is of whole commands, start-up and a retraining
run of one epoch for each winner included; the second of what the trials' training took.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench_processes import Bench, Claim, say
from tuner.store.run import Run

TASKS = ("mnist1d", "rahimi_recht")
OPTIMIZER = "adam"
TRIALS, STUDIES, COHORT = 100, 5, 25
MOST = 1.6
"""Times the cost of one study."""


@dataclass(frozen=True)
class Cost:
    """Seconds of a search: of the whole command, and of all its trials' shares of training; its largest cohort."""

    whole: float
    trained: float
    cohort: int


def measure(bench: Bench, task: str, *arguments: str) -> Cost:
    """The cost of one search of 100 trials."""
    run, started = bench.search("--task", task, "--optimizers", OPTIMIZER, "--no-report", *arguments)
    whole = time.time() - started
    rows = Run(run.path).trials()
    if len(rows) != TRIALS:
        raise RuntimeError(f"{run.path.name} has {len(rows)} trials, not {TRIALS}")
    return Cost(whole, float(rows["seconds"].sum()), int(rows["cohort"].max()))


def pairs(bench: Bench, task: str, repeats: int) -> list[tuple[Cost, Cost]]:
    """One study and five, as often as that."""
    found = []
    for repeat in range(repeats):
        say(f"{task}: {repeat + 1} of {repeats} ...")
        one = measure(bench, task, "--studies", "1", "--trials", str(TRIALS), "--cohort", str(COHORT))
        several = measure(bench, task, "--studies", str(STUDIES), "--trials", str(TRIALS // STUDIES))
        found.append((one, several))
    return found


def row(task: str, found: list[tuple[Cost, Cost]]) -> tuple[str, Claim]:
    """A row of the table, and what is demanded of it."""
    one, several = (statistics.median(pair[i].whole for pair in found) for i in (0, 1))
    training = statistics.median(b.trained / a.trained for a, b in found)
    ratio = statistics.median(b.whole / a.whole for a, b in found)
    sizes = max(b.cohort for _, b in found)
    text = f"| {task} | {one:.1f} | {several:.1f} | {ratio:.2f} | {training:.2f} | {sizes} |"
    return text, Claim(f"{task}: {STUDIES} studies cost {ratio:.2f} times one, at most {MOST}", ratio <= MOST)


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.studies_cost", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="pairs of searches (default: 3)")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch))
        bench.search("--task", "mnist1d", "--optimizers", OPTIMIZER, "--trials", "2", settings=("train.epochs=1",))
        rows = [row(task, pairs(bench, task, repeats)) for task in TASKS]
    print(f"| task | 1 x {TRIALS}, --cohort {COHORT}, s | {STUDIES} x {TRIALS // STUDIES}, s | ratio | of training | "
          "largest cohort |\n| --- | --- | --- | --- | --- | --- |")  # fmt: skip
    print("\n".join(text for text, _ in rows))
    print("\n".join(str(claim) for _, claim in rows))


if __name__ == "__main__":
    main()

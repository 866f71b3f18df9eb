"""How many minutes a default run of each task's presets takes on 2 CPU cores, as the preflight's timed steps foretell.

python -m benchmarks.preset_times [--data-dir DIR] [TASK ...]

They stand as `about.minutes` in configs/tasks. Training and evaluation alone: Ray's start, some seconds, is not among
them. Without a GPU; with the cohorts that the steps in stacks would choose.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from statistics import median

from tuner.config.layers import resolve
from tuner.config.registry import available
from tuner.config.schema import Config
from tuner.machine.resources import Machine, settle
from tuner.planning.cohorts import CohortSizes
from tuner.planning.estimate import estimate
from tuner.workers.preflight import Preflight

CORES = 2
TIMES = 3
PRESETS = ("smoke", "default", "paper")
WIKITEXT2 = {"train": 2_088_628, "valid": 217_646, "test": 245_569}
"""Tokens of each split of WikiText-2 (Merity et al., 2016), the ends of lines among them."""
KINDS = 33_278


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="CIFAR-10; by default it is downloaded")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for task in args.tasks or available("tasks"):
            data_dir = text(Path(folder)) if task == "transformer" else args.data_dir
            minutes = {preset: expected(task, preset, data_dir) for preset in PRESETS}
            row = ", ".join(f"{preset}: {value:g}" for preset, value in minutes.items())
            print(f"{task}: {{{row}}}", flush=True)


def text(folder: Path) -> Path:
    """A text of WikiText-2's size: as many tokens and kinds of them, which is all that the time depends on."""
    for split, tokens in WIKITEXT2.items():
        words = [f"w{number % (KINDS - 2)}" for number in range(tokens - 1)]  # <eos> and <unk> are kinds of their own
        (folder / f"{split}.txt").write_text(" ".join(words) + "\n", encoding="utf-8")
    return folder


def expected(task: str, preset: str, data_dir: Path | None) -> float:
    """Minutes, to two digits: the median of several preflights."""
    flags = {"task.name": task, "preset": preset, "task.data_dir": data_dir and str(data_dir.absolute())}
    config = settle(resolve(flags), Machine(cpus=CORES, gpus=0))
    return two_digits(median(seconds(config) for _ in range(TIMES)) / 60)


def seconds(config: Config) -> float:
    with Preflight(config) as process:
        checked = process.wait()
    assert checked is not None
    seeds = config.retraining_runs
    sizes = CohortSizes(config, checked.timings.member_s, seeds)
    trials = config.total_trials / len(config.optimizers)
    of_run = estimate(config, checked.timings, sizes, trials=trials, seeds=seeds)
    return of_run.search_s + of_run.retrain_s


def two_digits(value: float) -> float:
    return round(value, 1 - math.floor(math.log10(value)))


if __name__ == "__main__":
    main()

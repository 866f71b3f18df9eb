"""On a GPU: cohorts against fractions of the GPU against one trial at a time."""

from __future__ import annotations

from benchmarks.bench_processes import Bench, read_run, say, timing
from benchmarks.throughput_rows import OPTIMIZERS, Row

WAYS = {  # name -> cohort, share of the GPU
    "`--cohort auto --gpus-per-trial 1`": ("auto", 1.0),
    "`--cohort auto --gpus-per-trial 0.25`": ("auto", 0.25),
    "`--cohort 1 --gpus-per-trial 0.25`": ("1", 0.25),
    "`--cohort 1 --gpus-per-trial 1`": ("1", 1.0),
}
TRIALS = {"rahimi_recht": 100, "mnist1d": 100, "cifar_cnn": 12, "transformer": 12}  # for each optimizer
SETTINGS = {
    "rahimi_recht": (),
    "mnist1d": (),
    "cifar_cnn": ("--preset", "smoke", "--dataset", "digits", "--set", "task.args.rows.train=1000"),
    "transformer": ("--preset", "smoke", "--dataset", "stdlib"),
}


def measure(bench: Bench, task: str, trials: int | None = None) -> Row:
    """A search of the default optimizers each way: the default preset of a small task, a larger network's smoke one.

    Args:
        trials: of each optimizer, in place of what the task has.
    """
    timings = {}
    asked = str(trials or TRIALS[task])
    for way, (cohort, share) in WAYS.items():
        say(f"{task}, {way}: {asked} trials of each ...")
        run, started = bench.search(
            *("--task", task, "--optimizers", *OPTIMIZERS, "--trials", asked, "--cohort", cohort),
            *SETTINGS[task],
            resources=("--gpus-per-trial", str(share), "--max-concurrent", str(int(1 / share))),
        )
        timings[way] = timing(read_run(run, int(1 / share)), started)
        say(f"{timings[way].rate:.0f} trials per minute")
    return Row(task, OPTIMIZERS, timings)

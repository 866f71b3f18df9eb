"""A thousand trivial trials: whether the time of one, or the driver's memory, grows with their number."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.bench_processes import Bench, Claim, Samples, read_run, say

TASK, OPTIMIZER = "rahimi_recht", "adam"
SLOTS = 2
WARM_UP = 0.2  # the share of the trials in which libraries are still being imported and caches filled
TIME_GROWTH = 0.15  # of the mean, over all trials
MEMORY_GROWTH = 0.1  # what a trial leaves in Ray's and Optuna's records, some 20 kB, is 7 % in 1,000
WAYS = (("random", "1"), ("random", "auto"), ("tpe", "1"), ("tpe", "auto"))  # sampler, cohort
JUDGED = "random"  # a sampler that does not look at earlier trials: what is left is the service
POINTS = 50  # of a curve, at most
FEWEST_POINTS = 20  # for a slope to mean anything


@dataclass(frozen=True)
class Trend:
    """A quantity against the number of trials that have ended.

    Attributes:
        counts, values: in increasing order of the counts.
        slope: of a straight line through those after the warm-up, the median of all pairs' slopes, per 1,000 trials.
        growth: what that line rises over all trials, relative to the median.
    """

    counts: list[float]
    values: list[float]
    slope: float
    growth: float


@dataclass(frozen=True)
class Many:
    """One run of many trials.

    Attributes:
        ms: per trial, over all.
        time, memory: milliseconds per trial; the driver's resident memory in MB.
    """

    sampler: str
    cohort: str
    trials: int
    ms: float
    time: Trend
    memory: Trend

    @property
    def title(self) -> str:
        return f"--sampler {self.sampler} --cohort {self.cohort}"

    def claims(self) -> list[Claim]:
        """Of the time only where there are enough points: a few large stacks end in bursts."""
        if self.sampler != JUDGED:
            return []
        judged = [("the driver's memory", self.memory, MEMORY_GROWTH)]
        if len(self.time.values) >= FEWEST_POINTS:
            judged.append(("time per trial", self.time, TIME_GROWTH))
        return [
            Claim(
                f"{self.trials:,} trivial trials, `{self.title}`, {what} grows by {100 * trend.growth:.1f} % over all, "
                f"wanted at most {100 * limit:g} %",
                trend.growth <= limit,
            )
            for what, trend, limit in judged
        ]


def measure(bench: Bench, sampler: str, cohort: str, trials: int) -> Many:
    """Search so many trials of one epoch."""
    say(f"{trials} trials of {TASK} with {OPTIMIZER}, 1 epoch, --sampler {sampler} --cohort {cohort} ...")
    samples: Samples = []
    run, _ = bench.search(
        *("--task", TASK, "--optimizers", OPTIMIZER, "--trials", str(trials)),
        *("--sampler", sampler, "--cohort", cohort),
        settings=("train.epochs=1", "train.evaluations=1"),
        memory=samples,
    )
    done = read_run(run, SLOTS)
    begin, ends = min(trial.begin for trial in done), sorted(trial.end for trial in done)
    ms = 1e3 * (ends[-1] - begin) / len(ends)
    return Many(sampler, cohort, len(done), ms, time_trend(begin, ends), memory_trend(begin, ends, samples))


def time_trend(begin: float, ends: Sequence[float]) -> Trend:
    """Milliseconds per trial, in blocks: trials of a stack end at the same time, and two stacks go on at once."""
    size = max(1, len(ends) // POINTS)
    moments = [(0, begin)]
    for count in range(size, len(ends) + 1, size):
        # A block ends with the last trial that ended with this one.
        together = bisect.bisect_right(ends, ends[count - 1] + 0.05)
        if together - moments[-1][0] >= size:
            moments.append((together, ends[together - 1]))
    counts = [(a + b) / 2 for (a, _), (b, _) in pairwise(moments)]
    values = [1e3 * (until - since) / (b - a) for (a, since), (b, until) in pairwise(moments)]
    return trend(counts, values, len(ends))


def memory_trend(begin: float, ends: Sequence[float], samples: Samples) -> Trend:
    inside = [(moment, mb) for moment, mb in samples if begin <= moment <= ends[-1] and mb == mb]
    counts = [float(bisect.bisect_right(ends, moment)) for moment, _ in inside]
    return trend(counts, [mb for _, mb in inside], len(ends))


def trend(counts: list[float], values: list[float], trials: int) -> Trend:
    """The straight line through what comes after the warm-up; a machine's hiccups do not move it."""
    from scipy.stats import theilslopes

    late = [(count, value) for count, value in zip(counts, values, strict=True) if count >= WARM_UP * trials]
    if len({count for count, _ in late}) < 2:
        return Trend(counts, values, slope=float("nan"), growth=float("nan"))
    x, y = np.array(late).T
    slope = float(theilslopes(y, x).slope)
    return Trend(counts, values, 1e3 * slope, slope * trials / float(np.median(y)))


def table(runs: Sequence[Many]) -> list[str]:
    lines = [
        "| search | trials | ms/trial | ms/trial more per 1,000 trials | driver's memory at the end, MB | MB more per "
        "1,000 trials |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for run in runs:
        numbers = [run.ms, run.time.slope, run.memory.values[-1], run.memory.slope]
        lines.append(f"| `{run.title}` | {run.trials} | " + " | ".join(f"{number:.3g}" for number in numbers) + " |")
    return lines


def figure(runs: Sequence[Many], path: Path) -> None:
    """Both quantities of all runs against the trials that have ended."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = path.name  # the same numbers make the same file
    from matplotlib import pyplot

    drawing, (times, memories) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for run in runs:
        times.plot(run.time.counts, run.time.values, marker=".", label=run.title)
        memories.plot(run.memory.counts, run.memory.values, label=run.title)
    for axes, what in ((times, "ms per trial"), (memories, "driver's resident memory, MB")):
        axes.set(xlabel="trials that have ended", ylabel=what)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    drawing.savefig(path, metadata={"Date": None})
    pyplot.close(drawing)

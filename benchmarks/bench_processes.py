"""The processes that `benchmarks.search_throughput` times, and what became of their trials."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers import SEED, Trial
from tuner.store.run import Run
from tuner.store.tables import HP

ROOT = Path(__file__).resolve().parent.parent
REST_S = 1.0  # after each process, for what Ray leaves behind to end
SAMPLE_S = 0.1
ON_TWO_CORES = ("--max-concurrent", "2", "--cpus-per-trial", "1", "--gpus-per-trial", "0")

Samples = list[tuple[float, float]]
"""Seconds since the epoch and the process's resident memory in MB of 2^20 bytes."""


class BenchmarkError(Exception):
    """A process failed, or trained something else than the others."""


@dataclass(frozen=True)
class Claim:
    """What is demanded, with what was found, and whether it holds."""

    text: str
    met: bool

    def __str__(self) -> str:
        return f"- {'Met' if self.met else 'NOT MET'}: {self.text}."


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Timing:
    """What one way did: seconds.

    Attributes:
        trials, diverged: how many; the diverged ones are among the trials.
        startup: from the command's start until the first trial begins.
        per_trial: from there to the last trial's end, divided by the number of trials; see ``timing``.
        training: mean over the trials of pure training, evaluation not counted.
        cohorts: optimizer -> the largest stack.
    """

    trials: int
    diverged: int
    startup: float
    per_trial: float
    training: float
    cohorts: dict[str, int]

    @property
    def rate(self) -> float:
        """Trials per minute."""
        return 60 / self.per_trial


class Bench:
    """Runs processes, all with the same environment, in a scratch folder.

    Args:
        scratch: holds bytecode, logs and results.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.count = 0
        self.environment = os.environ | {
            "PYTHONPYCACHEPREFIX": str(scratch / "bytecode"),  # else imports compile where site-packages has none
            "PYTHONDONTWRITEBYTECODE": "",
            "RAY_ADDRESS": "local",  # else a plain script joins whatever Ray runs here
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        }

    def command(self, *arguments: str, memory: Samples | None = None) -> float:
        """Run a module of this repository; when it started, in seconds since the epoch.

        Args:
            memory: takes what the process's memory was.

        Raises:
            BenchmarkError: it failed, with the end of what it said.
        """
        self.count += 1
        log = self.scratch / f"{self.count}.log"
        started = time.time()
        with (
            log.open("w") as file,
            subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=ROOT, env=self.environment, stdout=file, stderr=file
            ) as process,
        ):
            try:
                while process.poll() is None and memory is not None:
                    memory.append((time.time(), resident_mb(process.pid)))
                    time.sleep(SAMPLE_S)
                code = process.wait()
            except BaseException:
                process.kill()
                raise
        time.sleep(REST_S)
        if code != 0:
            tail = log.read_text(errors="replace")[-3000:]
            raise BenchmarkError(f"{' '.join(arguments)}: exit code {code}; its last words:\n{tail}")
        return started

    def peer(self, name: str, **arguments: Any) -> tuple[Any, float]:
        """Call a function of ``benchmarks.peers`` in its own process: what it returned, and when it started."""
        result = self.scratch / f"{name}.json"
        started = self.command("benchmarks.peers", name, json.dumps(arguments), str(result))
        return json.loads(result.read_text(encoding="utf-8")), started

    def plain(self, name: str, **arguments: Any) -> tuple[list[Trial], float]:
        """The trials of a plain script, and when it started."""
        rows, started = self.peer(name, **arguments)
        return [Trial(**row) for row in rows], started

    def search(
        self,
        *arguments: str,
        settings: Sequence[str] = (),
        resources: Sequence[str] = ON_TWO_CORES,
        memory: Samples | None = None,
    ) -> tuple[Run, float]:
        """`python -m tuner.search`, one study unless told otherwise: the run, and when the command started. Retraining
        is kept to one run of one epoch for each winner, after its last trial.
        """
        run = Run(self.scratch / f"run-{self.count}")
        started = self.command(
            *("tuner.search", "--studies", "1", *arguments, *resources, "--seeds", "0,", "--quiet"),
            *("--out", str(run.path.parent), "--name", run.path.name),
            *("--set", "retrain.epochs=1", f"search.seed={SEED}", *settings),
            memory=memory,
        )
        return run, started


def resident_mb(process: int) -> float:
    """Of a process that may have ended."""
    try:
        return psutil.Process(process).memory_info().rss / 2**20
    except psutil.Error:
        return float("nan")


def read_run(run: Run, slots: int) -> list[Trial]:
    """The trials of a run of ours, in the order in which they ended.

    An end is when the driver had the result, on the same clock as the peers' ends. A begin is that less the time of
    its stack, trained and evaluated: see ``beside_training``.
    """
    ends = trial_ends(run)
    curves = run.curves().query("phase == 'search' and split == 'train' and metric == 'loss'")
    looks = curves.groupby(["optimizer", "trial"]).size()
    trials = []
    for row in run.trials().astype(object).to_dict("records"):
        key = (row["optimizer"], row["trial"])
        if row["state"] == "failed":
            raise BenchmarkError(f"{run.path.name}: {key[0]} trial {key[1]} failed")
        hp = {str(n).removeprefix(HP): v for n, v in row.items() if str(n).startswith(HP) and v == v}
        did = int(row["steps"]), int(looks[key]), row["seconds"]
        trials.append(Trial(key[0], hp, row["value"], *did, ends[key], ends[key], row["state"], row["cohort"]))
    found = stacks(trials)
    beside = beside_training(found, slots)
    return [
        replace(trial, begin=stack[0].end - sum(t.seconds for t in stack) - beside * len(stack))
        for stack in found
        for trial in stack
    ]


def trial_ends(run: Run) -> dict[tuple[str, int], float]:
    """Optimizer and trial -> when its outcome was told to the study, in seconds since the epoch."""
    return {(name.split("/")[1], number): end for name, number, end in told(run)}


def told(run: Run) -> list[tuple[str, int, float]]:
    """The name of the study and number of each trial, and when its outcome was told, in seconds since the epoch."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return [
        (name, trial.number, trial.datetime_complete.timestamp())
        for name in optuna.get_all_study_names(run.study_url)
        for trial in optuna.load_study(study_name=name, storage=run.study_url).trials
        if trial.datetime_complete
    ]


def stacks(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials that trained as one, which end, and stand in trials.csv, one after the other."""
    found: list[list[Trial]] = []
    for trial in trials:
        if found and found[-1][0].optimizer == trial.optimizer and len(found[-1]) < trial.cohort == found[-1][0].cohort:
            found[-1].append(trial)
        else:
            found.append([trial])
    return found


def beside_training(found: Sequence[Sequence[Trial]], slots: int) -> float:
    """Seconds per trial that a slot spends on anything but training: evaluation, the way to the driver and back.

    While there are trials to do, one begins wherever one has ended; so the gaps between an end and when the next
    training could have begun, at the latest, add up to that, whichever of them belong together.
    """
    ends = sorted(stack[-1].end for stack in found)
    latest = sorted((stack[0].end - sum(t.seconds for t in stack), len(stack)) for stack in found)
    followed = latest[slots:]
    if not followed:
        return 0.0
    gaps = sum(begin for begin, _ in followed) - sum(ends[: len(followed)])
    return max(0.0, gaps / sum(size for _, size in followed))


def timing(trials: Sequence[Trial], started: float, slots: int = 1, of: int = 0) -> Timing:
    """The figures of one way.

    Args:
        of: where the trials are the first ones of so many, the rest is taken to go on at the pace of those after the
            first in each slot.
    """
    first, ends = min(trial.begin for trial in trials), sorted(trial.end for trial in trials)
    span, count = ends[-1] - first, len(trials)
    if of > count > slots:
        span += (of - count) * (ends[-1] - ends[slots - 1]) / (count - slots)
        count = of
    return Timing(
        trials=len(trials),
        diverged=sum(trial.state == "diverged" for trial in trials),
        startup=first - started,
        per_trial=span / count,
        training=sum(trial.seconds for trial in trials) / len(trials),
        cohorts={t.optimizer: max(o.cohort for o in trials if o.optimizer == t.optimizer) for t in trials},
    )


def together(timings: Sequence[Timing]) -> Timing:
    """Of scripts that run one after the other; the start-up of one."""
    trials = sum(t.trials for t in timings)

    def mean(name: str) -> float:
        return sum(getattr(t, name) * t.trials for t in timings) / trials

    return Timing(
        trials=trials,
        diverged=sum(t.diverged for t in timings),
        startup=mean("startup"),
        per_trial=mean("per_trial"),
        training=mean("training"),
        cohorts={name: size for t in timings for name, size in t.cohorts.items()},
    )

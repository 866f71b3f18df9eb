"""Time the same short trials in a plain Ray Tune script, a plain Optuna loop and this project.

Run as `python -m benchmarks.search_throughput` from the repository root, on a machine with nothing else to do. Each of
the three runs in a process of its own, one after the other, after a short run of all three that fills the caches of
the disk and of Python's bytecode. What they trained is checked to be the same before any time is reported.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.peers import BATCH_SIZE, DATASET, EVALUATIONS, FIRST_LR, SEED, Trial
from tuner.environment import describe
from tuner.resources import this_machine
from tuner.store import Run

ROOT = Path(__file__).resolve().parent.parent
WAYS = {"ray": "plain Ray Tune", "loop": "Optuna loop", "tuner": "tuner"}
ROWS = {
    "startup": "start-up until the first trial trains",
    "per_trial": "wall time per trial after start-up",
    "total": "total until the last trial's end",
    "training": "  training alone, per trial",
    "overhead": "  overhead per trial",
    "command": "whole command until its exit *",
}
PACKAGES = ("torch", "ray", "optuna")
STEADY = 1.3  # the slowest trial's training over the fastest's, on a machine with nothing else to do: seen 1.2
REST_S = 2.0  # after each process, for what Ray leaves behind to end
SAME_LOSS = 1e-3  # relative; sums that run in another order drift apart over thousands of steps


class BenchmarkError(Exception):
    """A process failed, or trained something else than the others."""


@dataclass(frozen=True)
class Timing:
    """Seconds.

    Attributes:
        startup: from the command's start until the first trial begins to train.
        per_trial: from there to the last trial's end, divided by the number of trials.
        total: from the command's start to the last trial's end.
        training: mean over the trials of pure training, evaluation not counted.
        training_min, training_max: how much that varies, which tells how quiet the machine was.
        overhead: of a trial, in slot-seconds: per_trial times slots, less training.
        command: from the command's start to its exit.
    """

    startup: float
    per_trial: float
    total: float
    training: float
    training_min: float
    training_max: float
    overhead: float
    command: float


class Bench:
    """Runs processes, all with the same environment, in a scratch folder.

    Args:
        scratch: holds bytecode, logs and results.
        slots: trials at once, of those ways that can.
    """

    def __init__(self, scratch: Path, slots: int) -> None:
        self.scratch = scratch
        self.slots = slots
        self.count = 0
        self.environment = os.environ | {
            "PYTHONPYCACHEPREFIX": str(scratch / "bytecode"),  # else imports compile where site-packages has none
            "PYTHONDONTWRITEBYTECODE": "",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        }

    def command(self, *arguments: str) -> tuple[float, float]:
        """Run a module of this repository; when it started and when it had ended, in seconds since the epoch.

        Raises:
            BenchmarkError: it failed, with the end of what it said.
        """
        self.count += 1
        log = self.scratch / f"{self.count}.log"
        with log.open("w") as file:
            started = time.time()
            code = subprocess.run(
                [sys.executable, "-m", *arguments], cwd=ROOT, env=self.environment, stdout=file, stderr=file
            ).returncode
            ended = time.time()
        time.sleep(REST_S)
        if code != 0:
            tail = log.read_text(errors="replace")[-3000:]
            raise BenchmarkError(f"{' '.join(arguments)}: exit code {code}; its last words:\n{tail}")
        return started, ended

    def peer(self, name: str, **arguments: Any) -> tuple[Any, float, float]:
        """Call a function of ``benchmarks.peers`` in its own process: what it returned, start and end."""
        result = self.scratch / f"{name}.json"
        started, ended = self.command("benchmarks.peers", name, json.dumps(arguments), str(result))
        return json.loads(result.read_text(encoding="utf-8")), started, ended

    def trials(self, way: str, trials: int, epochs: int) -> tuple[list[Trial], float, float]:
        """Run a search one way: its trials, when the command started and when it had ended."""
        if way != "tuner":
            rows, started, ended = self.peer(way, trials=trials, slots=self.slots, epochs=epochs)
            return [Trial(**row) for row in rows], started, ended
        run = Run(self.scratch / f"run-{self.count}")
        started, ended = self.command("tuner.search", *tuner_arguments(run.path, trials, self.slots, epochs))
        return read_run(run), started, ended


def tuner_arguments(path: Path, trials: int, slots: int, epochs: int) -> list[str]:
    """Of `python -m tuner.search`. Retraining is kept to one run of one epoch, after the last trial."""
    return [
        *("--task", "rahimi_recht", "--dataset", DATASET, "--optimizers", "adam", "--trials", str(trials)),
        *("--seeds", "0,", "--max-concurrent", str(slots), "--cpus-per-trial", "1", "--gpus-per-trial", "0"),
        *("--out", str(path.parent), "--name", path.name),
        *("--set", f"train.epochs={epochs}", f"train.batch_size={BATCH_SIZE}", f"train.evaluations={EVALUATIONS}"),
        *("retrain.epochs=1", f"search.seed={SEED}"),
    ]


def read_run(run: Run) -> list[Trial]:
    """The trials of a run of ours. An end is when the driver had the result, on the same clock as the peers' ends; a
    begin is that less the training, so later than the truth by the evaluations and the way back, some 0.02 s."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    (name,) = optuna.get_all_study_names(run.study_url)
    ends = {t.number: t.datetime_complete for t in optuna.load_study(study_name=name, storage=run.study_url).trials}
    curves = run.curves().query("phase == 'search' and split == 'train' and metric == 'loss'")
    evaluations = curves.groupby("trial").size()
    trials = []
    for row in run.trials().to_dict("records"):
        number, seconds, end = row["trial"], row["seconds"], ends[row["trial"]].timestamp()
        steps, looks = int(row["steps"]), int(evaluations[number])
        trials.append(Trial(row["hp.lr"], row["value"], steps, looks, seconds, end - seconds, end))
    return trials


def timing(trials: list[Trial], started: float, ended: float, slots: int) -> Timing:
    """The figures of one way."""
    first, last = min(trial.begin for trial in trials), max(trial.end for trial in trials)
    seconds = [trial.seconds for trial in trials]
    per_trial, training = (last - first) / len(trials), sum(seconds) / len(trials)
    return Timing(
        startup=first - started,
        per_trial=per_trial,
        total=last - started,
        training=training,
        training_min=min(seconds),
        training_max=max(seconds),
        overhead=per_trial * slots - training,
        command=ended - started,
    )


def check(bench: Bench, searched: dict[str, list[Trial]], trials: int, epochs: int, steps: int) -> None:
    """Make sure that all ways trained the same.

    Every trial must have done the steps and evaluations that the others did. The losses of each way's first and last
    trial, the first with the same learning rate everywhere, must come out again in a plain loop in another process.

    Raises:
        BenchmarkError: a way did something else.
    """
    for way, done in searched.items():
        if len(done) != trials:
            raise BenchmarkError(f"{WAYS[way]}: {len(done)} trials, expected {trials}")
        for trial in done:
            if (trial.steps, trial.evaluations) != (steps, EVALUATIONS + 1):
                raise BenchmarkError(f"{WAYS[way]}: {trial} is not {steps} steps and {EVALUATIONS + 1} evaluations")
        if FIRST_LR not in [trial.lr for trial in done]:
            raise BenchmarkError(f"{WAYS[way]}: no trial with lr={FIRST_LR}")
    chosen = {way: [next(t for t in done if t.lr == FIRST_LR), done[-1]] for way, done in searched.items()}
    again, _, _ = bench.peer("repeat", lrs=[t.lr for pair in chosen.values() for t in pair], epochs=epochs)
    for way, pair in chosen.items():
        for trial in pair:
            value = again.pop(0)
            if not math.isclose(trial.value, value, rel_tol=SAME_LOSS):
                raise BenchmarkError(f"{WAYS[way]}: lr={trial.lr} gave a loss of {trial.value}, again {value}")


def benchmark(trials: int, slots: int, seconds: float) -> dict[str, Any]:
    """Time the three ways; what `--json` prints."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="throughput-") as scratch:
        bench = Bench(Path(scratch), slots)
        work, _, _ = bench.peer("calibrate", seconds=seconds)
        epochs, steps = work["epochs"], work["steps"]
        say("warming up: two tiny trials each way ...")
        for way in WAYS:
            bench.trials(way, trials=2, epochs=EVALUATIONS)
        say(f"{epochs} epochs make a trial of about {seconds:g} s")
        searched: dict[str, list[Trial]] = {}
        timings: dict[str, Timing] = {}
        for way, title in WAYS.items():
            say(f"{title}: {trials} trials ...")
            searched[way], started, ended = bench.trials(way, trials, epochs)
            timings[way] = timing(searched[way], started, ended, 1 if way == "loop" else slots)
            say(f"{title}: {timings[way].total:.1f} s")
        say("checking that all trained the same ...")
        check(bench, searched, trials, epochs, steps)
    fastest, slowest = min(t.training_min for t in timings.values()), max(t.training_max for t in timings.values())
    return {
        "machine": machine() | {"load": load, "steady": slowest <= STEADY * fastest},
        "work": {"trials": trials, "slots": slots, "epochs": epochs, "steps": steps, "evaluations": EVALUATIONS + 1},
        "seconds": {way: asdict(t) for way, t in timings.items()},
        "ratios": {
            way: {row: ratio(getattr(timings[way], row), getattr(timings["tuner"], row)) for row in ROWS}
            for way in ("ray", "loop")
        },
    }


def ratio(theirs: float, ours: float) -> float | None:
    """None where ours is too small to divide by."""
    return theirs / ours if ours > 1e-3 else None


def machine() -> dict[str, Any]:
    """Processor, cores and versions."""
    found = describe(this_machine())
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return {"cpu": found["hardware"]["cpu"], "cores": found["hardware"]["cpus"], "versions": versions}


def table(result: dict[str, Any]) -> str:
    """The result for a person."""
    work, found = result["work"], result["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    header = f"{'seconds':38}" + "".join(f"{title:>16}" for title in WAYS.values())
    lines = [
        f"{work['trials']} trials of Adam on rahimi_recht {DATASET}, {work['slots']} slots (the loop has one); "
        f"each {work['steps']} steps, {work['evaluations']} evaluations",
        "",
        header + f"{'plain/tuner':>14}{'loop/tuner':>13}",
    ]
    for row, title in ROWS.items():
        cells = "".join(f"{result['seconds'][way][row]:16.2f}" for way in WAYS)
        ratios = [result["ratios"][way][row] for way in ("ray", "loop")]
        shown = ["-" if r is None or row == "training" else f"{r:.2f}" for r in ratios]
        lines.append(f"{title:38}{cells}{shown[0]:>14}{shown[1]:>13}")
    spread = "; ".join(
        f"{title} {result['seconds'][way]['training_min']:.2f} to {result['seconds'][way]['training_max']:.2f}"
        for way, title in WAYS.items()
    )
    lines += [
        "",
        "* tuner's includes a retraining of one epoch and its files; the table's other figures do not",
        f"training of a trial, fastest to slowest: {spread}",
        f"{found['cpu']}, {found['cores']} cores, load {found['load']:.1f} at the start; {versions}",
    ]
    if not found["steady"]:
        lines.append("NOT STEADY: the same training took longer at times; something else was running, so repeat this")
    return "\n".join(lines)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser("benchmarks.search_throughput", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="default: 20")
    parser.add_argument("--slots", type=int, default=2, metavar="K", help="trials at once (default: 2)")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="training of one trial (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the same as JSON")
    args = parser.parse_args()
    cores = this_machine().cpus
    if not (args.trials >= 1 and args.seconds > 0 and 1 <= args.slots <= cores):
        parser.error(f"--trials must be at least 1, --seconds positive and --slots between 1 and {cores}")
    try:
        result = benchmark(args.trials, args.slots, args.seconds)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(result, indent=2) if args.json else table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

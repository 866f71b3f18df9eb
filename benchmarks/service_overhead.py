"""What the service adds to trials of a minute or more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.bench_processes import Bench, BenchmarkError, Claim, read_run, say
from benchmarks.peers import Trial

TASK, OPTIMIZER = "mnist1d", "adam"
SLOTS = 2
LIMIT = 0.03
MARGIN = 1.5  # calibration's trials are short
SHORTEST = 0.9  # of the time that a trial should train, before the measurement counts as one of such trials


@dataclass(frozen=True)
class Overhead:
    """Slot-seconds of some long trials.

    Attributes:
        shortest: training of the shortest trial.
        training: of all.
        evaluation: of all, at what an evaluation takes alone.
        driver: everything else between a slot's first begin and its last end: networks made, outcomes on their way,
            records, the next trial chosen.
        waiting: after a slot's last trial for the end of the other's.
    """

    trials: int
    epochs: int
    shortest: float
    training: float
    evaluation: float
    driver: float
    waiting: float

    @property
    def share(self) -> float:
        """Of the training time."""
        return (self.evaluation + self.driver) / self.training

    def claim(self) -> Claim:
        return Claim(
            f"trials of {self.shortest:.0f} s and more, evaluation and service beside training: "
            f"{100 * self.share:.2f} % of it, wanted under {100 * LIMIT:g} %",
            self.share < LIMIT,
        )

    def table(self) -> list[str]:
        parts = {
            "training": self.training,
            "evaluation": self.evaluation,
            "the rest of the service": self.driver,
            "one slot waiting at the end for the other": self.waiting,
        }
        lines = ["| slot-seconds | s | % of training |", "| --- | ---: | ---: |"]
        return lines + [f"| {name} | {s:.2f} | {100 * s / self.training:.2f} |" for name, s in parts.items()]


def measure(bench: Bench, trials: int, seconds: float) -> Overhead:
    """Search with trials of about so many seconds, one at a time in each slot.

    Raises:
        BenchmarkError: the trials were shorter.
    """
    work, _ = bench.peer("calibrate", task=TASK, optimizer=OPTIMIZER, seconds=MARGIN * seconds)
    epochs = int(work["epochs"])
    say(f"{trials} trials of {TASK} with {OPTIMIZER}, {epochs} epochs each, about {MARGIN * seconds:.0f} s ...")
    run, _ = bench.search(
        *("--task", TASK, "--optimizers", OPTIMIZER, "--trials", str(trials), "--cohort", "1"),
        *("--set", f"train.epochs={epochs}"),
    )
    done = read_run(run, SLOTS)
    if min(trial.seconds for trial in done) < SHORTEST * seconds:
        raise BenchmarkError(f"a trial trained {min(trial.seconds for trial in done):.1f} s only, not {seconds:g}")
    return split(done, work["evaluation_s"], epochs)


def split(trials: Sequence[Trial], evaluation_s: float, epochs: int) -> Overhead:
    """What the slots spent their time on. One that has ended a trial begins the next as long as there are any, so the
    last ends are those of the slots, and the first begins theirs too."""
    ends = sorted(trial.end for trial in trials)[-SLOTS:]
    begins = sorted(trial.begin for trial in trials)[:SLOTS]
    training = sum(trial.seconds for trial in trials)
    evaluation = evaluation_s * sum(trial.evaluations for trial in trials)
    return Overhead(
        trials=len(trials),
        epochs=epochs,
        shortest=min(trial.seconds for trial in trials),
        training=training,
        evaluation=evaluation,
        driver=sum(ends) - sum(begins) - training - evaluation,
        waiting=sum(max(ends) - end for end in ends),
    )

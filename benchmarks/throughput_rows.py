"""Trials per minute: this project with and without cohorts, a plain Ray Tune script and a plain Optuna loop."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.bench_processes import Bench, BenchmarkError, Claim, Timing, read_run, say, timing, together
from benchmarks.peers import EVALUATIONS, FIRST, Trial

WAYS = {
    "cohorts": "here, `--cohort auto`",
    "single": "here, `--cohort 1`",
    "ray": "plain Ray Tune script",
    "loop": "plain Optuna loop, one process",
}
OURS = {"cohorts": "auto", "single": "1"}
PLAIN = {"ray": 2, "loop": 1}  # way -> trials at once
SLOTS = 2
OPTIMIZERS = ("diag_hessian", "adam")
THEIRS = {"single": "those one at a time", "ray": "those of a plain Ray Tune script"}
WANTED = {"rahimi_recht": {"single": 10, "ray": 100}, "mnist1d": {"single": 4, "ray": 25}}
SAME_LOSS = 1e-3  # relative; sums that run in another order drift apart over thousands of steps

NEVER_SLOWER = 0.95
NETWORK_TRIALS = 5  # for each optimizer: all drawn at random, so that both ways train the same
NETWORKS: Mapping[str, tuple[str, ...]] = {
    "resnet18": (
        *("--dataset", "digits", "--set", "train.epochs=2"),
        *(f"task.args.rows.{split}={rows}" for split, rows in (("train", 256), ("val", 100), ("test", 100))),
    ),
    "cifar_cnn": (
        *("--dataset", "digits", "--set", "train.epochs=2"),
        *(f"task.args.rows.{split}={rows}" for split, rows in (("train", 768), ("val", 100), ("test", 100))),
    ),
    "transformer": (
        *("--dataset", "stdlib", "--set", "train.epochs=1"),
        *("task.args.tokens=60000", "task.args.held_out_tokens=5000"),
    ),
}


@dataclass(frozen=True)
class Row:
    """A task and optimizers that were searched together.

    Attributes:
        timings: of each way.
        uncertainty: of the first way's trials per minute over the second's: two relative standard errors.
    """

    task: str
    optimizers: Sequence[str]
    timings: Mapping[str, Timing]
    uncertainty: float = 0.0

    def gain(self, over: str) -> float:
        """Trials per minute of the first way over another's."""
        return next(iter(self.timings.values())).rate / self.timings[over].rate


Searched = Mapping[str, list[Trial]]
"""A description of who searched -> the trials."""


def small_tasks(bench: Bench, task: str, trials: int, plain_trials: int) -> list[Row]:
    """The default preset of a small task: each optimizer, then all in one search.

    Raises:
        BenchmarkError: a way trained something else than the others.
    """
    searched: dict[str, list[Trial]] = {}
    plain: dict[str, dict[str, Timing]] = {way: {} for way in PLAIN}
    for optimizer in OPTIMIZERS:
        for way, slots in PLAIN.items():
            say(f"{task} with {optimizer}, {WAYS[way]}: {plain_trials} trials ...")
            done, started = bench.plain(way, task=task, optimizer=optimizer, trials=plain_trials, slots=slots)
            searched[f"{WAYS[way]}, {optimizer}"] = done
            plain[way][optimizer] = timing(done, started, slots, of=trials)
    rows = []
    for optimizers in [(name,) for name in OPTIMIZERS] + [OPTIMIZERS]:
        ours, done_by = our_ways(bench, task, optimizers, trials)
        searched |= {f"{WAYS[way]}, {' and '.join(optimizers)}": done for way, done in done_by.items()}
        theirs = {way: together([found[name] for name in optimizers]) for way, found in plain.items()}
        rows.append(Row(task, optimizers, ours | theirs))
    say(f"{task}: checking that all trained the same ...")
    check(searched, lambda points: bench.peer("repeat", task=task, points=points)[0])
    return rows


def our_ways(
    bench: Bench, task: str, optimizers: Sequence[str], trials: int, *arguments: str
) -> tuple[dict[str, Timing], dict[str, list[Trial]]]:
    """One search with cohorts and one without: timings and trials."""
    timings, searched = {}, {}
    for way, cohort in OURS.items():
        say(f"{task} with {' and '.join(optimizers)}, {WAYS[way]}: {trials} trials of each ...")
        named = ("--task", task, "--optimizers", *optimizers, "--trials", str(trials), "--cohort", cohort)
        run, started = bench.search(*named, *arguments)
        searched[way] = read_run(run, SLOTS)
        timings[way] = timing(searched[way], started)
        say(f"{timings[way].rate:.0f} trials per minute")
        if len(searched[way]) != trials * len(optimizers):
            raise BenchmarkError(f"{task}, {WAYS[way]}: {len(searched[way])} trials, expected {trials} of each")
    return timings, searched


def check(searched: Searched, repeat: Callable[[list[tuple[str, dict[str, float]]]], list[float]]) -> None:
    """Make sure that all ways trained the same.

    Every trial that did not diverge must have done the steps and evaluations that the others did. Of each way the
    trial that all have, and that of the next learning rate, must come out again in a plain loop in another process.
    (Where a learning rate is too large, the loss at the end depends on the order of sums.)

    Args:
        repeat: the losses of plain trials of these optimizers and hyperparameters.

    Raises:
        BenchmarkError: a way did something else.
    """
    chosen: list[tuple[str, Trial]] = []
    work = next(trial for done in searched.values() for trial in done if trial.state == "complete").steps
    for who, done in searched.items():
        for trial in done:
            if trial.state == "complete" and (trial.steps, trial.evaluations) != (work, EVALUATIONS + 1):
                raise BenchmarkError(f"{who}: {trial} is not {work} steps and {EVALUATIONS + 1} evaluations")
        for name in dict.fromkeys(trial.optimizer for trial in done):
            own = [trial for trial in done if trial.optimizer == name and trial.state == "complete"]
            own.sort(key=lambda trial: abs(math.log(trial.hp["lr"] / FIRST[trial.optimizer]["lr"])))
            if not own or own[0].hp != FIRST[name]:
                raise BenchmarkError(f"{who}: no complete trial with {FIRST[name]}")
            chosen += [(who, trial) for trial in own[:2]]
    again = repeat([(trial.optimizer, trial.hp) for _, trial in chosen])
    for (who, trial), value in zip(chosen, again, strict=True):
        if not math.isclose(trial.value, value, rel_tol=SAME_LOSS):
            raise BenchmarkError(f"{who}: {trial.optimizer} with {trial.hp} gave {trial.value}, again {value}")


def network(bench: Bench, task: str, trials: int = NETWORK_TRIALS) -> Row:
    """A larger network on embedded data, cut to a few seconds a trial: with and without cohorts.

    Raises:
        BenchmarkError: the two did not train the same.
    """
    timings, searched = our_ways(bench, task, OPTIMIZERS, trials, "--preset", "smoke", *NETWORKS[task])
    first, second = ({(t.optimizer, *t.hp.values()): t for t in searched[way]} for way in OURS)
    if {key: t.steps for key, t in first.items()} != {key: t.steps for key, t in second.items()}:
        raise BenchmarkError(f"{task}: not the same trials with and without cohorts")
    ratios = [math.log(first[key].seconds / second[key].seconds) for key in first]
    return Row(task, OPTIMIZERS, timings, 2 * statistics.stdev(ratios) / len(ratios) ** 0.5)


def table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| task | optimizers | way | trials | diverged | trials/min | the first way's over this | start-up, s "
        "| ms/trial | training, ms/trial | largest cohort |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        for way, found in row.timings.items():
            numbers = [row.gain(way), found.startup, 1e3 * found.per_trial, 1e3 * found.training]
            cells = [row.task, " and ".join(row.optimizers), WAYS.get(way, way), str(found.trials), str(found.diverged)]
            cells += [
                f"{found.rate:,.1f}",
                *(f"{number:,.3f}" if number < 10 else f"{number:,.0f}" for number in numbers),
            ]
            lines.append("| " + " | ".join([*cells, ", ".join(str(size) for size in found.cohorts.values())]) + " |")
    return lines


def small_claims(rows: Sequence[Row]) -> list[Claim]:
    """Of the default search, of all optimizers in one."""
    claims = []
    for row in rows:
        if row.optimizers == OPTIMIZERS:
            what = f"{row.task}, search of {' and '.join(row.optimizers)}, trials per minute with cohorts over"
            for way, wanted in WANTED[row.task].items():
                gain = row.gain(way)
                claims.append(Claim(f"{what} {THEIRS[way]}: {gain:.1f}, wanted at least {wanted}", gain >= wanted))
    return claims


def network_claims(rows: Sequence[Row]) -> list[Claim]:
    claims = []
    for row in rows:
        gain, noise = row.gain("single"), row.uncertainty
        text = (
            f"{row.task}, trials per minute with `--cohort auto` over those one at a time: {gain:.3f}, wanted at least "
            f"{NEVER_SLOWER}, or 1 within twice the standard error, {noise:.3f}"
        )
        claims.append(Claim(text, gain >= NEVER_SLOWER or gain + noise >= 1))
    return claims

"""How many trials this project does in a minute, and what a trial costs beside its training.

Run as `python -m benchmarks.search_throughput --out docs/performance.md` from the repository root, on a machine with
nothing else to do. Every search is a process of its own, one after the other, after short ones that fill the caches of
the disk and of Python's bytecode. What was trained is checked to be the same before any time is reported.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks import gpu_cohorts, many_trials, one_optimizer, service_overhead, throughput_rows
from benchmarks.bench_processes import Bench, BenchmarkError, Claim, say
from benchmarks.peers import EVALUATIONS
from tuner.machine.environment import describe
from tuner.machine.resources import gpu_names, this_machine

PARTS = ("rahimi_recht", "mnist1d", "one", "networks", "long", "many")
Section = tuple[list[str], list[Claim]]

SMALL = """\
Searches of the default preset, {slots} slots. The scripts beside it are what one writes without this project
(benchmarks/peers.py): a Ray Tune function with `OptunaSearch` and settings as they come, an Optuna loop in one process,
each over the same space with the same task, data, evaluations and optimizer. In a plain Ray script every trial costs a
new worker, so the scripts do the first {plain} trials of each optimizer only, and {trials} are taken to go on at the
pace of those after the first in each slot. For both optimizers they are the two scripts one after the other. Trials per
minute count from the first trial's begin to the last trial's end; what comes before, the
start of Python, Ray and workers, the data, the choice of the cohorts' sizes, is the start-up. A plain trial notes its
begin itself. Here it is the end, when the driver recorded the trial, less the training of its cohort and less what the
following cohorts took per trial beside training. A trial's training is its share of its cohort's.

The first trial of each search, the same everywhere, and that of the next learning rate were trained again by a plain
loop and came to the same loss to within {loss:g}; all trials that did not diverge took as many steps and {evaluations}
evaluations. A trial that diverges ends at once here; the plain scripts go on."""
ONE = """\
{studies} studies of {trials} trials of one optimizer in the default preset, {slots} slots; one at a time {fewer}, whose
pace is that of all where a trial takes seconds. Trials per minute count from the first trial's begin to the last
trial's end, all that is beside training included; own_class is a class that only its user knows, of plain functions
of PyTorch."""
NETWORKS = """\
The smoke preset's networks on embedded data, cut to a few seconds a trial; {trials} trials of each optimizer, all drawn
at random, so that both ways train the same. On a CPU a stack of such networks saves nothing, and `auto` should find
that out."""
LONG = """\
{trials} trials of {task} with {optimizer}, {epochs} epochs each, `--cohort 1`, {slots} slots: where the slots' time
went, from their first trials' begin to their last trials' end, and what one waited for the other at the very end, which
is no cost of the service and not counted."""
MANY = """\
{task} with {optimizer}, one epoch and one evaluation after it: trials of next to nothing, {slots} slots. The driver's
resident memory was read from outside. Slopes are of straight lines through what comes after the first {warm_up:.0%} of
the trials; that of the time says little of cohorts, of which there are a few that end in bursts.

The verdict is on the sampler that draws at random, with which the time is the service's own. TPE, the default, goes
through all earlier trials of its study for each new one: that is the growth of its time per trial, and what any script
with Optuna pays. A trial's records in Ray and Optuna stay until the run ends.
Finished trials go to study.db every five seconds, by a thread of the driver: trials of next to nothing are slower while
it writes, and in a run of some eight seconds that is their last third.

![Time per trial and the driver's memory against the number of trials]({figure})"""
GPU = """\
Searches of {optimizers}; the small tasks in their default preset, the networks in the smoke preset on embedded data."""


def small(bench: Bench, task: str, args: argparse.Namespace) -> Section:
    rows = throughput_rows.small_tasks(bench, task, args.trials, args.plain_trials)
    return throughput_rows.table(rows), throughput_rows.small_claims(rows)


def one(bench: Bench) -> Section:
    lines, claims = one_optimizer.section(bench)
    sizes = {"studies": one_optimizer.STUDIES, "trials": one_optimizer.TRIALS, "fewer": one_optimizer.fewer_of_tasks()}
    return [ONE.format(slots=throughput_rows.SLOTS, **sizes), "", *lines], claims


def networks(bench: Bench) -> Section:
    rows = [throughput_rows.network(bench, task) for task in throughput_rows.NETWORKS]
    text = NETWORKS.format(trials=throughput_rows.NETWORK_TRIALS)
    return [text, "", *throughput_rows.table(rows)], throughput_rows.network_claims(rows)


def long(bench: Bench, args: argparse.Namespace) -> Section:
    found = service_overhead.measure(bench, args.long_trials, args.long_seconds)
    of = {"task": service_overhead.TASK, "optimizer": service_overhead.OPTIMIZER, "slots": service_overhead.SLOTS}
    text = LONG.format(trials=found.trials, epochs=found.epochs, **of)
    return [text, "", *found.table()], [found.claim()]


def many(bench: Bench, args: argparse.Namespace) -> Section:
    runs = [many_trials.measure(bench, sampler, cohort, args.many) for sampler, cohort in many_trials.WAYS]
    figure = Path("performance.svg")
    if args.out:
        figure = args.out.with_suffix(".svg")
        many_trials.figure(runs, figure)
    of = {"task": many_trials.TASK, "optimizer": many_trials.OPTIMIZER, "slots": many_trials.SLOTS}
    text = MANY.format(warm_up=many_trials.WARM_UP, figure=figure.name, **of)
    return [text, "", *many_trials.table(runs)], [claim for run in runs for claim in run.claims()]


def gpu(bench: Bench, tasks: list[str], trials: int | None) -> Section:
    rows = [gpu_cohorts.measure(bench, task, trials) for task in tasks]
    return [GPU.format(optimizers=" and ".join(throughput_rows.OPTIMIZERS)), "", *throughput_rows.table(rows)], []


def sections(bench: Bench, args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Section]]]:
    """Titles, and what measures each."""
    if args.device == "cuda":
        name = gpu_names()[0]
        yield f"Trials per minute on {name}", lambda: gpu(bench, list(gpu_cohorts.TRIALS), args.gpu_trials)
        return
    for task in ("rahimi_recht", "mnist1d"):
        if task in args.only:
            yield f"Trials per minute: {task}", partial(small, bench, task, args)
    if "one" in args.only:
        yield "Searches of one optimizer", lambda: one(bench)
    if "networks" in args.only:
        yield "Networks for which one at a time is best", lambda: networks(bench)
    if "long" in args.only:
        yield "Trials of a minute", lambda: long(bench, args)
    if "many" in args.only:
        yield f"{args.many:,} trivial trials", lambda: many(bench, args)


def warm_up(bench: Bench) -> None:
    """One tiny search of each kind."""
    say("warming up ...")
    bench.plain("ray", task="mnist1d", optimizer="adam", trials=1, slots=1)
    bench.search("--task", "mnist1d", "--optimizers", "adam", "--trials", "2", settings=("train.epochs=1",))


def setting() -> list[str]:
    """What the tables were measured on, line by line."""
    found = describe(this_machine())
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("python", "torch", "ray", "optuna"))
    device = [f"- device: {name}" for name in gpu_names()]
    return [*device, f"- processor: {found['hardware']['cpu']}, {found['hardware']['cpus']} cores", f"- {versions}"]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.search_throughput", description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure (default: all)")
    add("--trials", type=int, default=100, metavar="N", help="of each optimizer and small task (default: 100)")
    add("--plain-trials", type=int, default=12, metavar="N", help="of the scripts beside it (default: 12)")
    add("--long-trials", type=int, default=4, metavar="N", help="of a minute (default: 4)")
    add("--long-seconds", type=float, default=60.0, metavar="S", help="training of such a trial (default: 60)")
    add("--many", type=int, default=1000, metavar="N", help="trivial trials (default: 1000)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: cohorts and fractions of a GPU only")
    add("--gpu-trials", type=int, metavar="N", help="of each optimizer and task there (default: 100, networks 12)")
    add("--out", type=Path, metavar="FILE", help="write the tables there, in Markdown, and the figure beside it")
    return parser


def main() -> int:
    parser = make_parser()
    args = parser.parse_args()
    machine = this_machine()
    if args.device == "cuda" and not machine.gpus:
        parser.error("--device cuda: there is no GPU")
    if machine.cpus < throughput_rows.SLOTS:
        parser.error(f"this needs {throughput_rows.SLOTS} cores, there is {machine.cpus}")
    try:
        return run(args)
    except BenchmarkError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130


def run(args: argparse.Namespace) -> int:
    command = " ".join(["python -m benchmarks.search_throughput", *sys.argv[1:]])
    text = ["# How fast a search is", "", f"Written by `{command}`.", "", *setting()]
    if {"rahimi_recht", "mnist1d"} & set(args.only) and args.device == "cpu":
        of = {
            "slots": throughput_rows.SLOTS,
            "plain": args.plain_trials,
            "trials": args.trials,
            "loss": throughput_rows.SAME_LOSS,
        }
        text += ["", SMALL.format(evaluations=EVALUATIONS + 1, **of)]
    claims: list[Claim] = []
    with tempfile.TemporaryDirectory(prefix="throughput-") as scratch:
        bench = Bench(Path(scratch))
        warm_up(bench)
        failed = False
        for title, measure in sections(bench, args):
            try:
                lines, found = measure()
            except BenchmarkError as error:  # what the other parts found is not lost
                say(f"error: {error}")
                lines, found, failed = [f"FAILED: {error}"], [], True
            text += ["", f"## {title}", "", *lines]
            claims += found
    if claims:
        text += ["", "## Verdict", "", *map(str, claims)]
    print("\n".join(text))
    if args.out:
        args.out.write_text("\n".join(text) + "\n", encoding="utf-8")
    return 0 if all(claim.met for claim in claims) and not failed else 1


if __name__ == "__main__":
    sys.exit(main())

"""Run a plan from start to end: start Ray, do the jobs, say what came out."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tuner import environment
from tuner.cli import DONE, INTERRUPTED, NOTHING, PARTLY
from tuner.cohort_size import CohortSizes
from tuner.errors import UserError
from tuner.estimate import Estimate, estimate, sentences, warning
from tuner.jobs import current_rows, missing_seeds
from tuner.preflight import Found, Preflight
from tuner.progress import LenientConsole
from tuner.resources import settle, this_machine
from tuner.schema import Config
from tuner.store import Run

if TYPE_CHECKING:
    from tuner.plan import Plan

LOOPBACK = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
"""Ray's setting to listen on this machine's own address only."""
PATIENCE_S = 15.0
EXIT_CODES = {"done": DONE, "partly": PARTLY, "nothing": NOTHING}


@dataclass(frozen=True)
class Output:
    """How a command speaks: see ``tuner.cli.add_output_flags``."""

    as_json: bool
    quiet: bool
    verbose: bool


@dataclass(frozen=True)
class Work:
    """What a command has to do.

    Attributes:
        search: whether trials may be among it, or only retraining.
        trials, seeds: how many are left, per optimizer on average.
    """

    search: bool
    trials: float
    seeds: float


def new_run(config: Config, path: Path, output: Output) -> int:
    """Search and retrain into a new run directory; the exit code.

    Raises:
        UserError: bad input that only now comes to light; nothing has been written.
    """
    found = check(config, output)
    run = Run.create(path, config)
    try:
        with run.locked():
            work = Work(search=True, trials=config.search.trials, seeds=len(config.retrain.seeds))
            return carry_out(config, run, work, found, output)
    finally:
        run.discard_if_new()  # Ray did not start


def go_on(config: Config, run: Run, output: Output, *, search: bool) -> int:
    """Do what a run lacks; the exit code.

    Args:
        config: the run's, with more trials or seeds perhaps.
        search: whether trials may be among it, or only retraining.

    Raises:
        UserError: bad input that only now comes to light; nothing has been written.
    """
    from tuner.summary import present

    with run.locked():
        work, seeds = left(config, run, search)
        if not work.trials and not seeds:
            run.write_config(config)
            return EXIT_CODES[present(run, config, as_json=output.as_json)]
        retrain = config.retrain.model_copy(update={"seeds": seeds or config.retrain.seeds})
        found = check(config.model_copy(update={"retrain": retrain}), output)
        return carry_out(config, run, work, found, output)


def left(config: Config, run: Run, search: bool) -> tuple[Work, list[int]]:
    """What a run lacks, and the seeds that are among it."""
    rows, names = run.trial_rows(), config.optimizers
    there = Counter(row["optimizer"] for row in rows)
    trials = sum(max(0, config.search.trials - there[name]) for name in names) if search else 0
    best = run.best_optimizers()
    missing = [
        (name, seed)
        for name, seed in missing_seeds(config, current_rows(run.valid_seed_rows(), best))
        if name not in best or best[name]["hp"]
    ]
    work = Work(search, trials / len(names), len(missing) / len(names))
    return work, list(dict.fromkeys(seed for _, seed in missing))


def check(config: Config, output: Output) -> Found | None:
    """Load the task's data and time a few steps, in a process of its own; ``None`` where that is for a cluster to do.

    Raises:
        UserError: the task, an optimizer or the data cannot be used.
    """
    with (
        Preflight(config, verbose=output.verbose) as preflight,
        waiting(console(output), "loading the data, timing a few steps ..."),
    ):
        if config.resources.address is None:
            os.environ.setdefault(*LOOPBACK)  # Ray reads it when it is imported
        from tuner import plan, ray_tune  # noqa: F401  (meanwhile: these imports take as long)

        return preflight.wait()


def check_data(run: Run, found: Found | None) -> None:
    """
    Raises:
        UserError: the data is not what the run was begun with.
    """
    if found is None or not run.has_env():
        return
    before, now = run.env().get("data", {}).get("sha256"), found.data["sha256"]
    if before not in (None, now):
        raise UserError(
            f"{run.path}: was made with other data (sha256 {before[:12]}..., now {now[:12]}... from "
            f"{found.data['source']}); its results would not be comparable"
        )


def announce(config: Config, work: Work, found: Found | None, output: Output) -> tuple[CohortSizes, Estimate | None]:
    """How large cohorts will be, and how long the run will take, which is said."""
    sizes = CohortSizes(config, found.timings.member_s if found else {}, math.ceil(work.seeds))
    if found is None:
        return sizes, None
    expected = estimate(config, found.timings, sizes, trials=work.trials, seeds=work.seeds)
    without = ["the analyses of the curvature come on top"] if config.retrain.analyze_curvature else []
    for line in [*sentences(expected, found.timings.untimed), *without, *sizes.sentences()]:
        console(output).print(line, markup=False)
    if config.resources.gpus_per_trial and found.device == "cpu":
        print("the cluster's nodes declare GPUs, but PyTorch there finds none: training is on CPUs", file=sys.stderr)
    elif too_long := warning(config, expected):
        print(too_long, file=sys.stderr)
    return sizes, expected


def note_environment(run: Run, sizes: CohortSizes, expected: Estimate | None) -> None:
    """Versions, hardware and what was expected, of this command: a run that goes on keeps those of its beginning."""
    here = environment.describe(this_machine())
    here |= {"estimate": expected and expected.to_dict(), "cohorts": sizes.to_dict()}
    if not run.has_env():
        run.write_env(here)
        return
    env = run.env()
    run.write_env(env | {"resumed": [*env.get("resumed", []), here]})


@contextmanager
def waiting(say: LenientConsole, what: str) -> Iterator[None]:
    """Show on a terminal what is waited for; elsewhere say it once it takes long."""
    timer = threading.Timer(0.0 if say.is_terminal else PATIENCE_S, say.print, [what])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def console(output: Output) -> LenientConsole:
    return LenientConsole(stderr=True, quiet=output.quiet, highlight=False, soft_wrap=True, emoji=False)


def carry_out(config: Config, run: Run, work: Work, found: Found | None, output: Output) -> int:
    """Start Ray, do what is left, print what came out; the exit code."""
    from tuner import heartbeat, ray_tune
    from tuner.plan import retrain_plan, search_plan
    from tuner.summary import present

    say = console(output)
    heartbeat.say(run, "starting", [])
    address = config.resources.address
    if not address:
        check_data(run, found)
        announced = announce(config, work, found, output)
    say.print("joining Ray ..." if address else "starting Ray ...", markup=False)
    with ray_tune.cluster(address, this_machine(), output.verbose) as (nodes, scratch):
        config = settle(config, *nodes, owner="the cluster's largest node" if address else "this machine")
        if address:
            with waiting(say, "loading the data, timing a few steps in the cluster ..."):
                found = ray_tune.look_there(config)
            check_data(run, found)
            announced = announce(config, work, found, output)
        run.write_config(config)
        note_environment(run, *announced)
        plan = (search_plan if work.search else retrain_plan)(config, run, announced[0])
        end = do(plan, config, scratch, output)
    for name in plan.hopeless():
        print(f"{name}: its search was given up, since all of its trials failed", file=sys.stderr)
    for job, error in plan.failures[:1]:
        failed = f"{len(plan.failures)} {'run' if len(plan.failures) == 1 else 'runs'} failed"
        say.print(f"{failed}; the first: {job}: {error}; see {run.logs}", markup=False)
    for job, fault in plan.unanalyzed[:1]:
        runs = f"{len(plan.unanalyzed)} {'run' if len(plan.unanalyzed) == 1 else 'runs'}"
        say.print(f"the curvature of {runs} was not analysed; the first: {job}: {fault}; see {run.logs}", markup=False)
    progress = plan.progress()
    finished = f"{sum(p.done for p in progress)} of {sum(p.total for p in progress)} training runs finished"
    resume = f"python -m tuner.search --resume {run.path}"
    if end.halted:
        print(f"error: {end.halted}; {finished}; when it can be written again: {resume}", file=sys.stderr)
        return PARTLY if any(p.done > p.failed for p in progress) else NOTHING
    status = present(run, config, as_json=output.as_json)
    if end.interrupted:
        print(f"interrupted: {finished}; {run.path} has them; to go on: {resume}", file=sys.stderr)
        return INTERRUPTED
    return EXIT_CODES[status]


@dataclass(frozen=True)
class End:
    """How the work ended, where it was not by itself: by a person or the system; since something cannot be written."""

    interrupted: bool = False
    halted: str = ""


def do(plan: Plan, config: Config, scratch: Path, output: Output) -> End:
    """The plan's jobs, and what is said of them meanwhile."""
    from tuner import ray_tune
    from tuner.desk import Desk, Halted
    from tuner.heartbeat import Heartbeat
    from tuner.progress import make_view

    end = End()
    view = make_view(plan.progress, config.task.metric, output.quiet)
    heartbeat = Heartbeat(plan)

    def look() -> None:
        view.update()
        heartbeat.update()

    with view, Desk(plan, look).signals() as desk:
        try:
            ray_tune.run(desk, config, scratch)
        except Halted as halted:
            end = End(halted=str(halted))
        except KeyboardInterrupt:
            end = End(interrupted=True)
        finally:
            faults = [] if end.halted else plan.close()
            if end.halted:
                with suppress(Exception):
                    plan.close(patience_s=5.0)
    for fault in faults:
        print(f"{fault}; trials.csv has them", file=sys.stderr)
    heartbeat.end("halted" if end.halted else "interrupted" if end.interrupted else "ended")
    return end

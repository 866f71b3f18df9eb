"""Run a plan from start to end: start Ray, do the jobs, say what came out."""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tuner.cli import DONE, INTERRUPTED, NOTHING, PARTLY
from tuner.cohort_size import CohortSizes
from tuner.estimate import Estimate, Timings, estimate, sentences, warning
from tuner.jobs import missing_seeds
from tuner.preflight import Preflight
from tuner.progress import LenientConsole
from tuner.resources import settle, this_machine
from tuner.schema import Config
from tuner.store import Run

if TYPE_CHECKING:
    from tuner.plan import Plan

MakePlan = Callable[[Config, Run, CohortSizes, Estimate | None], "Plan"]

PATIENCE_S = 15.0
EXIT_CODES = {"done": DONE, "partly": PARTLY, "nothing": NOTHING}
TABLE_WIDTH = 250  # enough for every column; a narrower terminal wraps the lines and hides nothing


@dataclass(frozen=True)
class Output:
    """How a command speaks: see ``tuner.cli.add_output_flags``."""

    as_json: bool
    quiet: bool
    verbose: bool


def new_run(config: Config, path: Path, output: Output) -> int:
    """Search and retrain into a new run directory; the exit code.

    Raises:
        UserError: bad input that only now comes to light; nothing has been written.
    """
    work = Work(search=True, seeds=len(config.retrain.seeds))
    timings = check(config, output)
    from tuner import environment, plan

    run = Run.create(path)

    def make_plan(settled: Config, run: Run, sizes: CohortSizes, expected: Estimate | None) -> Plan:
        about = {"estimate": expected and expected.to_dict(), "cohorts": sizes.to_dict()}
        run.write_env(environment.describe(this_machine()) | about)
        return plan.new_plan(settled, run, sizes)

    try:
        return carry_out(config, run, make_plan, work, timings, output)
    finally:
        run.discard_if_empty()  # Ray did not start


def more_seeds(config: Config, run: Run, output: Output) -> int:
    """Retrain a run's best configurations over the seeds that are still missing; the exit code.

    Raises:
        UserError: bad input that only now comes to light; nothing has been written.
    """
    missing = missing_seeds(config, run.valid_seed_rows())
    if not missing:
        return EXIT_CODES[_present(config, run, output)]
    work = Work(search=False, seeds=len(missing) / len(config.optimizers))
    left = config.retrain.model_copy(update={"seeds": list(dict.fromkeys(seed for _, seed in missing))})
    timings = check(config.model_copy(update={"retrain": left}), output)
    from tuner.plan import retrain_plan

    def make_plan(settled: Config, run: Run, sizes: CohortSizes, expected: Estimate | None) -> Plan:
        return retrain_plan(settled, run, sizes)

    return carry_out(config, run, make_plan, work, timings, output)


@dataclass(frozen=True)
class Work:
    """What a command has to do.

    Attributes:
        search: whether there is a search before the retraining.
        seeds: retraining runs per optimizer.
    """

    search: bool
    seeds: float


def check(config: Config, output: Output) -> Timings | None:
    """Load the task's data and time a few steps, in a process of its own; ``None`` where that is for a cluster to do.

    Raises:
        UserError: the task, an optimizer or the data cannot be used.
    """
    with (
        Preflight(config, verbose=output.verbose) as preflight,
        waiting(console(output), "loading the data, timing a few steps ..."),
    ):
        from tuner import plan, ray_tune  # noqa: F401  (meanwhile: these imports take as long)

        return preflight.wait()


def announce(
    config: Config, work: Work, timings: Timings | None, output: Output
) -> tuple[CohortSizes, Estimate | None]:
    """How large cohorts will be, and how long the run will take, which is said."""
    sizes = CohortSizes(config, timings.member_s if timings else {}, math.ceil(work.seeds))
    if timings is None:
        return sizes, None
    expected = estimate(config, timings, sizes, search=work.search, seeds=work.seeds)
    for line in [*sentences(expected, timings.untimed), *sizes.sentences()]:
        console(output).print(line, markup=False)
    if too_long := warning(config, expected):
        print(too_long, file=sys.stderr)
    return sizes, expected


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
    return LenientConsole(stderr=True, quiet=output.quiet, highlight=False, soft_wrap=True)


def carry_out(
    config: Config, run: Run, make_plan: MakePlan, work: Work, timings: Timings | None, output: Output
) -> int:
    """Start Ray, do the plan's jobs, print what came out; the exit code."""
    from tuner import ray_tune
    from tuner.progress import make_view

    say = console(output)
    address = config.resources.address
    if not address:
        announced = announce(config, work, timings, output)
    say.print("joining Ray ..." if address else "starting Ray ...", markup=False)
    interrupted = False
    with ray_tune.cluster(address, this_machine(), output.verbose) as (machine, scratch):
        config = settle(config, machine, "the cluster" if address else "this machine")
        if address:
            with waiting(say, "loading the data, timing a few steps in the cluster ..."):
                timings = ray_tune.timings_there(config)
            announced = announce(config, work, timings, output)
        run.write_config(config)
        plan = make_plan(config, run, *announced)
        view = make_view(plan.progress, config.task.metric, output.quiet)
        with view, ray_tune.Desk(plan, view.update).signals() as desk:
            try:
                ray_tune.run(desk, config, scratch)
            except KeyboardInterrupt:
                interrupted = True
            finally:
                faults = plan.close()
    for fault in faults:
        print(f"{fault}; trials.csv has them", file=sys.stderr)
    for job, error in plan.failures[:1]:
        failed = f"{len(plan.failures)} {'run' if len(plan.failures) == 1 else 'runs'} failed"
        say.print(f"{failed}; the first: {job}: {error}; see {run.logs}", markup=False)
    status = _present(config, run, output)
    if interrupted:
        progress = plan.progress()
        done, total = sum(p.done for p in progress), sum(p.total for p in progress)
        print(f"interrupted: {done} of {total} training runs finished; {run.path} has them", file=sys.stderr)
        return INTERRUPTED
    return EXIT_CODES[status]


def _present(config: Config, run: Run, output: Output) -> str:
    """Print the results and the next commands on stdout; how complete the run is."""
    from tuner.summary import print_table, setting, summarize

    summary = summarize(run, config)
    if output.as_json:
        print(json.dumps(summary, indent=2))
        return summary["status"]
    console = Console(highlight=False, width=TABLE_WIDTH)
    with console.capture() as captured:
        print_table(summary, config, console)
    print("\n" + "\n".join(line.rstrip() for line in captured.get().splitlines()))
    print("\n" + setting(summary, config))
    print(f"files: {run.path}/ ({', '.join(run.files())})")
    print("next:")
    seeds, searched = len(config.retrain.seeds), [entry for entry in summary["optimizers"] if entry["hp"]]
    if any(entry["n_seeds"] - entry["seeds"].get("failed", 0) < seeds for entry in searched):
        print(f"  python -m tuner.retrain {run.path}   # the evaluation seeds that are still missing")
    elif searched:
        print(f"  python -m tuner.retrain {run.path} --seeds {2 * seeds}   # the same hyperparameters over more seeds")
    print(f"  optuna-dashboard {run.study_url}   # look into the search (pip install optuna-dashboard)")
    return summary["status"]

"""Run a plan from start to end: start Ray, do the jobs, say what came out."""

from __future__ import annotations

import gc
import math
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from rich.console import Console

from tuner.config.schema import Config
from tuner.console.parsing import DONE, NOTHING, PARTLY, command_line
from tuner.errors import UserError
from tuner.machine import code as identity
from tuner.machine import environment
from tuner.machine.resources import settle, this_machine
from tuner.machine.signals import INTERRUPTED, interruption
from tuner.planning.cohorts import CohortSizes
from tuner.planning.estimate import Estimate, estimate, sentences, warning
from tuner.planning.guardian import guarded
from tuner.store.run import Run
from tuner.store.seed_rows import current_rows, missing_seeds
from tuner.workers.preflight import Found, Preflight

if TYPE_CHECKING:
    from tuner.planning.plan import Plan

LOOPBACK = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
"""Ray's setting to listen on this machine's own address only."""
PATIENCE_S = 15.0
EXIT_CODES = {"done": DONE, "partly": PARTLY, "nothing": NOTHING}


@dataclass(frozen=True)
class Output:
    """How a command speaks: see ``tuner.console.parsing.add_output_flags``."""

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
    identity.check_folder(config)
    code = identity.identity(config)
    found = check(config, output)
    run = Run.create(path, config, another=config.name is None)
    run.code = code
    try:
        with run.locked():
            trials = sum(map(config.trials, config.optimizers)) / len(config.optimizers)
            work = Work(search=True, trials=trials, seeds=len(config.retrain.seeds))
            return carry_out(config, run, work, found, output)
    finally:
        run.discard_if_new()  # Ray did not start


def go_on(config: Config, run: Run, output: Output, *, search: bool, changed_code: bool = False) -> int:
    """Do what a run lacks; the exit code.

    Args:
        config: the run's, with more trials or seeds perhaps.
        search: whether trials may be among it, or only retraining.
        changed_code: whether that may be done by other code than the run was begun with.

    Raises:
        UserError: bad input that only now comes to light; nothing has been written.
    """
    from tuner.console.end_of_run import present

    with run.locked():
        work, seeds = left(config, run, search)
        if not work.trials and not seeds:
            run.write_config(config)
            run.finish_curves()  # which a full disk may have prevented
            return EXIT_CODES[present(run, config, as_json=output.as_json)]
        identity.check(config, run, allowed=changed_code)
        retrain = config.retrain.model_copy(update={"seeds": seeds or config.retrain.seeds})
        found = check(config.model_copy(update={"retrain": retrain}), output)
        return carry_out(config, run, work, found, output)


def left(config: Config, run: Run, search: bool) -> tuple[Work, list[int]]:
    """What a run lacks, and the seeds that are among it."""
    rows, names = run.trial_rows(), config.optimizers
    there = Counter(row["optimizer"] for row in rows)
    trials = sum(max(0, config.trials(name) - there[name]) for name in names) if search else 0
    best = run.best_optimizers()
    missing = [
        (name, seed)
        for name, seed in missing_seeds(config, current_rows(run.valid_seed_rows(), best))
        if name not in best or best[name]["hp"] is not None
    ]
    work = Work(search, trials / len(names), len(missing) / len(names))
    return work, list(dict.fromkeys(seed for _, seed in missing))


def check(config: Config, output: Output) -> Found | None:
    """Load the task's data and time a few steps, in a process of its own; ``None`` where that is for a cluster to do.

    Raises:
        UserError: the task, an optimizer or the data cannot be used; or Ray, with this interpreter.
    """
    if sys.flags.optimize > 1:
        raise UserError("python -OO (PYTHONOPTIMIZE=2) removes docstrings, without which Ray cannot be imported")
    with (
        Preflight(config, verbose=output.verbose) as preflight,
        waiting(console(output), "loading the data, timing a few steps ..."),
    ):
        if config.resources.address is None:
            os.environ.setdefault(*LOOPBACK)  # Ray reads it when it is imported
        from tuner.planning import plan  # noqa: F401  (meanwhile: these imports take as long)
        from tuner.workers import tune  # noqa: F401

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
    for said in found.warnings:
        print(f"warning: {said}", file=sys.stderr)
    expected = estimate(config, found.timings, sizes, trials=work.trials, seeds=work.seeds)
    without = ["the analyses of the curvature come on top"] if config.retrain.analyze_curvature else []
    unsaved = [f"{name}: trained without checkpoints, since {why}" for name, why in found.unsaved.items()]
    for line in [*sentences(expected, found.timings.untimed), *without, *sizes.sentences(), *unsaved]:
        console(output).print(line, markup=False)
    if config.resources.gpus_per_trial and found.device == "cpu":
        print("the cluster's nodes declare GPUs, but PyTorch there finds none: training is on CPUs", file=sys.stderr)
    elif too_long := warning(config, expected):
        print(too_long, file=sys.stderr)
    return sizes, expected


def note_environment(config: Config, run: Run, sizes: CohortSizes, expected: Estimate | None) -> None:
    """Versions, hardware and what was expected, of this command: a run that goes on keeps those of its beginning, and
    notes which seeds it did not ask for before there were results to look at."""
    here = environment.describe(this_machine())
    here |= {"code": run.code, "estimate": expected and expected.to_dict(), "cohorts": sizes.to_dict()}
    if not run.has_env():
        run.write_env(here)
        return
    env, asked = run.env(), run.config().retrain.seeds
    last = [env, *env.get("resumed", [])][-1]
    if not isinstance(last, dict) or last.get("code") not in (None, run.code):
        run.forget_checkpoints()  # states of other code
    if run.valid_seed_rows():
        here |= {"added_seeds": [seed for seed in config.retrain.seeds if seed not in asked]}
    run.write_env(env | {"resumed": [*env.get("resumed", []), here]})


@contextmanager
def waiting(say: Console, what: str) -> Iterator[None]:
    """Show on a terminal what is waited for; elsewhere say it once it takes long."""
    timer = threading.Timer(0.0 if say.is_terminal else PATIENCE_S, say.print, [what])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def console(output: Output) -> Console:
    return Console(stderr=True, quiet=output.quiet, highlight=False, soft_wrap=True, emoji=False)


def carry_out(config: Config, run: Run, work: Work, found: Found | None, output: Output) -> int:
    """Start Ray, do what is left, print what came out; the exit code."""
    from tuner.planning import heartbeat

    heartbeat.say(run, "starting", [])
    try:
        plan, config, end = with_ray(config, run, work, found, output)
    except BaseException as error:
        with suppress(OSError):
            heartbeat.say(run, "interrupted" if isinstance(error, KeyboardInterrupt) else "failed", [])
        raise
    return tell(plan, config, run, end, output)


def with_ray(config: Config, run: Run, work: Work, found: Found | None, output: Output) -> tuple[Plan, Config, End]:
    """What is left, done; how it ended, and the configuration with the resources that there turned out to be."""
    from tuner.planning.plan import retrain_plan, search_plan
    from tuner.workers import session, tune

    say = console(output)
    speak = partial(say.print, markup=False)
    address = config.resources.address
    if not address:
        check_data(run, found)
        announced = announce(config, work, found, output)
    speak("joining Ray ..." if address else "starting Ray ...")
    with session.cluster(address, this_machine(), speak, verbose=output.verbose) as (nodes, scratch):
        config = settle(config, *nodes, owner="the cluster's largest node" if address else "this machine")
        if address:
            with waiting(say, "loading the data, timing a few steps in the cluster ..."):
                found = tune.look_there(config)
            check_data(run, found)
            announced = announce(config, work, found, output)
        note_environment(config, run, *announced)
        run.write_config(config)
        make_plan = search_plan if work.search else retrain_plan
        plan = make_plan(config, run, announced[0], found.unsaved if found else ())
        return plan, config, do(plan, config, scratch, output)


def tell(plan: Plan, config: Config, run: Run, end: End, output: Output) -> int:
    """Print what came out; the exit code."""
    from tuner.console.end_of_run import present

    say = console(output)
    for name in plan.abandoned_searches():
        print(f"{name}: its search was given up, since all of its trials failed", file=sys.stderr)
    for line in plan.replaced_workers:
        print(line, file=sys.stderr)
    for job, error in plan.failures[:1]:
        failed = f"{len(plan.failures)} {'run' if len(plan.failures) == 1 else 'runs'} failed"
        say.print(f"{failed}; the first: {job}: {error}; see {run.logs}", markup=False)
    for job, fault in plan.unanalyzed[:1]:
        runs = f"{len(plan.unanalyzed)} {'run' if len(plan.unanalyzed) == 1 else 'runs'}"
        say.print(f"the curvature of {runs} was not analysed; the first: {job}: {fault}; see {run.logs}", markup=False)
    if end.state == "halted":
        return say_end(plan, end)
    status = present(run, config, as_json=output.as_json)
    return say_end(plan, end) if end.state == "interrupted" else EXIT_CODES[status]


def say_end(plan: Plan, end: End) -> int:
    """One line on why the work ended before it was done, and how to go on; the exit code."""
    progress = plan.progress()
    finished = f"{sum(p.done for p in progress)} of {sum(p.total for p in progress)} training runs finished"
    resume = resume_line(plan.run)
    line = {
        "interrupted": f"interrupted: {finished}; {plan.run.path} has them; to go on: {resume}",
        "halted": f"error: {end.why}; {finished}; when it can be written again: {resume}",
        "lost": f"error: Ray was lost: {end.why}; {finished}; to go on: {resume}",
    }[end.state]
    print(line, file=sys.stderr)
    if end.state == "interrupted":
        return INTERRUPTED
    return PARTLY if any(p.done > p.failed for p in progress) else NOTHING


def resume_line(run: Run) -> str:
    return command_line("tuner.search", "--resume", run.path)


@dataclass(frozen=True)
class End:
    """How the work ended.

    Attributes:
        state: by itself ("ended"), by a person or the system ("interrupted"), since something cannot be written
            ("halted"), or without Ray ("lost").
        why: the reason, of the last two.
    """

    state: Literal["ended", "interrupted", "halted", "lost"] = "ended"
    why: str = ""


def do(plan: Plan, config: Config, scratch: Path, output: Output) -> End:
    """The plan's jobs, and what is said of them meanwhile."""
    from tuner.console.progress import make_view
    from tuner.planning.dispatch import Dispatcher, Halted, on_disk
    from tuner.planning.heartbeat import Heartbeat
    from tuner.workers import session, tune

    address = config.resources.address
    view = make_view(plan.progress, config.task.metric, output.quiet)
    heartbeat = Heartbeat(plan)

    def look() -> None:
        view.update()
        heartbeat.update()

    def leave(end: End) -> NoReturn:
        """End this process without Ray, which would wait in vain for what is lost."""
        with on_disk():
            with suppress(Exception):
                view.__exit__()
            with suppress(Exception):
                close(plan, end)
            heartbeat.end(end.state)
            code = say_end(plan, end)
            sys.stdout.flush()
            session.abandon()
            os._exit(code)

    def stuck(reason: str) -> None:
        leave(End("interrupted") if interruption.came() else End("lost", reason))

    end = End()
    guard = guarded(plan.run.path, resume_line(plan.run))
    with guard, view, Dispatcher(plan, look).signals() as dispatcher:
        try:
            with session.watched(address, interruption.came, stuck):
                tune.run(dispatcher, config, scratch)
        except Halted as halted:
            end = End("halted", str(halted))
        except KeyboardInterrupt:
            end = End("interrupted")
        except Exception:
            if reason := session.why_lost(address):
                leave(End("lost", reason))
            close(plan, end)
            raise
        if end.state != "ended" and session.why_lost(address):
            leave(end)
        end = close(plan, end)
        heartbeat.end(end.state)
    return end


def close(plan: Plan, end: End) -> End:
    """Leave the run's files as a reader expects them; where that cannot be done, the work has been halted, too."""
    from tuner.planning.dispatch import Halted, on_disk

    gc.disable()  # a finalizer of Tune's speaks to Ray, which may be lost, in whatever thread it is called
    try:
        with on_disk():
            for fault in plan.close(5.0) if end.state == "halted" else plan.close():
                print(f"{fault}; trials.csv has them", file=sys.stderr)
    except Halted as halted:
        return end if end.state == "halted" else End("halted", str(halted))
    except Exception:
        if end.state != "halted":
            raise
    finally:
        gc.enable()
    return end

"""A command is executed from start to end: preflight, Ray, the plan's jobs. It tells a listener, and prints nothing."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tuner import events
from tuner.config.program import Inside
from tuner.config.schema import Config
from tuner.errors import UserError
from tuner.events import Ended, Listener
from tuner.machine import code
from tuner.machine.resources import settle, this_machine
from tuner.planning.cohorts import CohortSizes
from tuner.planning.estimate import Estimate, estimate, sentences, warning
from tuner.planning.remaining import Work, remaining_work
from tuner.store import extent, provenance
from tuner.store.run import Run
from tuner.text import fault
from tuner.workers.preflight import Preflight, PreflightResult

if TYPE_CHECKING:
    from tuner.comparison.results import Results
    from tuner.planning.looking import Decide
    from tuner.planning.plan import Plan
    from tuner.trackers.tracker import Tracker

LOOPBACK = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
"""Ray's setting to listen on this machine's own address only."""


@dataclass(frozen=True)
class Executed:
    """What came of a command.

    Attributes:
        config: with the resources that there turned out to be.
        ended: how the work ended; ``None`` where there was nothing to do.
        results: what the retraining runs come to; ``None`` where there are none, or nothing could be written.
        report: the page that was written, if one was.
        all_written: whether tables and report could be.
    """

    run: Run
    config: Config
    ended: Ended | None
    results: Results | None = None
    report: Path | None = None
    all_written: bool = True


@dataclass(frozen=True)
class RaySetting:
    """How Ray is used.

    Attributes:
        inside: the Ray to join where the configuration names none; ``None`` starts one.
        verbose: leave the logs of Ray and of its workers where a person sees them.
    """

    inside: Inside | None = None
    verbose: bool = False


def new_run(
    config: Config,
    path: Path,
    tell: Listener,
    *,
    objects: bytes = b"",
    report: bool = False,
    ray: RaySetting = RaySetting(),
) -> Executed:
    """Search and retrain into a new run directory.

    Args:
        tell: is told each ``events.Event``.
        objects: what the configuration names and carries by value: see ``tuner.config.carried``.
        report: write report.html at the end.

    Raises:
        UserError: bad input that only now comes to light; nothing has been written.
    """
    code.check_folders(config)
    identity = code.identity(config, objects)
    checked = preflight(config, objects, tell, ray)
    run = Run.create(path, config, objects, another=config.name is None)
    run.code = identity
    try:
        with run.locked():
            trials = config.total_trials / len(config.optimizers)
            work = Work(search=True, trials=trials, seeds=config.retraining_runs)
            return with_results(run_plan(config, run, work, checked, tell, ray), tell, report=report)
    finally:
        run.discard_if_new()  # Ray did not start


def resume(
    config: Config,
    run: Run,
    tell: Listener,
    *,
    search: bool,
    changed_code: bool = False,
    report: bool = False,
    ray: RaySetting = RaySetting(),
) -> Executed:
    """Do what a run lacks.

    Args:
        config: the run's, with more trials or seeds perhaps.
        tell, report: as for ``new_run``.
        search: whether trials may be among it, or only retraining.
        changed_code: whether that may be done by other code than the run was begun with.

    Raises:
        UserError: bad input that only now comes to light; nothing has been written.
    """
    with run.locked():
        work, seeds = remaining_work(config, run, search)
        tell_lacking_weights(config, run, tell)
        if not work.trials and not seeds:
            run.write_config(config)
            run.finish_curves()  # which a full disk may have prevented
            take_missed_looks(config, run, tell)
            return with_results(Executed(run, config, None), tell, report=report)
        provenance.check_code(config, run, allowed=changed_code, remark=lambda text: tell(events.CodeRemark(text)))
        retrain = config.retrain.model_copy(update={"seeds": (not config.looks and seeds) or config.retrain.seeds})
        checked = preflight(config.model_copy(update={"retrain": retrain}), run.objects(), tell, ray)
        return with_results(run_plan(config, run, work, checked, tell, ray), tell, report=report)


def take_missed_looks(config: Config, run: Run, tell: Listener) -> None:
    """Look, where a command ended between the last run and that: looks are a function of what there is."""
    from tuner.planning.looking import Looking

    before = extent.read(run.path) if config.looks else {}
    all_stopped = set(config.optimizers) <= set(before.get("stopped", ()))
    if len(before.get("looks", ())) < len(config.looks) and not all_stopped:
        looking = Looking(config, decisions(config, run, tell), run.path)
        while looking.take():
            pass


def with_results(done: Executed, tell: Listener, *, report: bool) -> Executed:
    """Compare, and write summary.csv, contrasts.csv and, unless the work was cut off, the report."""
    from tuner.comparison.results import compare

    state, run = done.ended.state if done.ended else "ended", done.run
    if state == "halted" or not run.seed_rows():
        return done
    done = replace(done, results=(results := compare([run])))
    try:
        if not report or state != "ended":
            results.write_tables(run.path)
            return done
        with waiting("drawing the report ...", tell):
            from tuner.reporting.files import write_report

            return replace(done, report=write_report(results, run.path).page)
    except OSError as error:
        tell(events.NotWritten(f"{error.filename or run.path}: cannot be written ({error.strerror})"))
    except Exception as error:  # what was found is shown all the same
        tell(events.NotWritten(f"report.html: cannot be drawn ({fault(error)})"))
    return replace(done, all_written=False)


def tell_lacking_weights(config: Config, run: Run, tell: Listener) -> None:
    """How many earlier retraining runs have no weights, where weights are to be kept."""
    lacking = run.weights.lacking(run.seed_rows()) if config.retrain.keep_weights else 0
    if lacking:
        runs = f"{lacking} earlier retraining {'run was' if lacking == 1 else 'runs were'}"
        tell(events.WeightsRemark(f"{runs} made without --keep-weights, and {'stays' if lacking == 1 else 'stay'} so"))


def preflight(config: Config, objects: bytes, tell: Listener, ray: RaySetting) -> PreflightResult | None:
    """Load the task's data and time a few steps, in a process of its own; ``None`` where that is for a cluster to do.

    Raises:
        UserError: the task, an optimizer or the data cannot be used; or Ray, with this interpreter.
    """
    if sys.flags.optimize > 1:
        raise UserError("python -OO (PYTHONOPTIMIZE=2) removes docstrings, without which Ray cannot be imported")
    with (
        Preflight(config, objects, verbose=ray.verbose) as process,
        waiting("loading the data, timing a few steps ...", tell),
    ):
        if config.resources.address is None:
            os.environ.setdefault(*LOOPBACK)  # Ray reads it when it is imported
        from tuner.planning import plan  # noqa: F401  (meanwhile: these imports take as long)
        from tuner.workers import tune  # noqa: F401

        return process.wait()


@contextmanager
def waiting(what: str, tell: Listener) -> Iterator[None]:
    tell(events.WaitBegan(what))
    try:
        yield
    finally:
        tell(events.WaitEnded())


def expectations(
    config: Config, run: Run, work: Work, checked: PreflightResult | None, tell: Listener
) -> tuple[CohortSizes, Estimate | None]:
    """How large cohorts will be, and how long the run will take; both are told.

    Raises:
        UserError: the data is not what the run was begun with.
    """
    sizes = CohortSizes(config, checked.timings.member_s if checked else {}, math.ceil(work.seeds))
    if checked is None:
        return sizes, None
    provenance.check_data(run, checked.data)
    for text in checked.warnings:
        tell(events.TaskWarning(text))
    expected = estimate(config, checked.timings, sizes, trials=work.trials, seeds=work.seeds)
    without = ["the analyses of the curvature come on top"] if config.retrain.analyze_curvature else []
    without += ["this is what it comes to if nothing is decided before the last look"] if config.looks else []
    unsaved = [f"{name}: trained without checkpoints, since {why}" for name, why in checked.unsaved.items()]
    tell(events.Expected([*sentences(expected, checked.timings.untimed), *without, *sizes.sentences(), *unsaved]))
    if config.resources.settled.gpus_per_trial and checked.device == "cpu":
        no_gpu = "the cluster's nodes declare GPUs, but PyTorch there finds none: training is on CPUs"
        tell(events.ResourceWarning(no_gpu))
    elif too_long := warning(config, expected):
        tell(events.ResourceWarning(too_long))
    return sizes, expected


def run_plan(
    config: Config, run: Run, work: Work, checked: PreflightResult | None, tell: Listener, ray: RaySetting
) -> Executed:
    """Start Ray, do what is left, tell what went wrong."""
    from tuner.planning.heartbeat import write_state

    write_state(run, "starting", [])
    try:
        plan, config, ended = with_ray(config, run, work, checked, tell, ray)
    except BaseException as error:
        with suppress(OSError):
            write_state(run, "interrupted" if isinstance(error, KeyboardInterrupt) else "failed", [])
        raise
    tell_faults(plan, tell)
    return Executed(run, config, ended)


def with_ray(
    config: Config, run: Run, work: Work, checked: PreflightResult | None, tell: Listener, ray: RaySetting
) -> tuple[Plan, Config, Ended]:
    """What is left, done; how it ended, and the configuration with the resources that there turned out to be."""
    from tuner.planning.plan import retrain_plan, search_plan
    from tuner.workers import session, supervision, tune

    def remark(text: str) -> None:
        tell(events.RayRemark(text))

    elsewhere = config.resources.address is not None
    address = config.resources.address or (ray.inside.address if ray.inside else None)
    if not elsewhere:
        sizes, expected = expectations(config, run, work, checked, tell)
    remark("joining Ray ..." if address else "starting Ray ...")
    with session.cluster(address, this_machine(), remark, verbose=ray.verbose) as (nodes, scratch):
        config = settle(config, *nodes, owner="the cluster's largest node" if address else "this machine")
        if elsewhere:
            with waiting("loading the data, timing a few steps in the cluster ...", tell):
                checked = tune.preflight_in_cluster(config, run.objects())
            sizes, expected = expectations(config, run, work, checked, tell)
        provenance.note_environment(config, run, expected.to_dict() if expected else None, sizes.to_dict())
        run.write_config(config)
        make_plan = search_plan if work.search else retrain_plan
        tracker = tracker_of(config, run, tell)
        plan = make_plan(config, run, sizes, checked.unsaved if checked else (), tracker, decisions(config, run, tell))
        return plan, config, supervision.Supervisor(plan, config, scratch, tell, address).run()


def decisions(config: Config, run: Run, tell: Listener) -> Decide | None:
    """What a look at the comparison decides, which is told; ``None`` where there are no looks."""
    if not config.looks:
        return None

    def decide(units: int) -> dict[str, str]:
        from tuner.comparison.looks import decided

        found = decided(run, units)
        what = "studies" if config.unit == "study" else "seeds"
        said = [f"{name} {found.get(name, 'undecided')}" for name in config.optimizers if name != config.baseline]
        tell(events.LookRemark(f"after {units} of at most {config.most_units} {what}: {', '.join(said)}"))
        return found

    return decide


def tracker_of(config: Config, run: Run, tell: Listener) -> Tracker | None:
    """The tracker that was asked for, whose fault is told."""
    from tuner.trackers.tracker import make_tracker

    if config.tracker is None:
        return None
    return make_tracker(config.tracker, run, config, lambda text: tell(events.TrackerFailed(text)))


def tell_faults(plan: Plan, tell: Listener) -> None:
    """What went wrong with searches, workers and training runs, of which each kind's first is told."""
    for name in plan.abandoned_searches():
        tell(events.SearchAbandoned(name))
    for reason in plan.replaced_workers:
        tell(events.WorkerReplaced(reason))
    for job, error in plan.failures[:1]:
        tell(events.RunsFailed("training", len(plan.failures), str(job), error, plan.run.logs))
    for job, error in plan.unanalyzed[:1]:
        count = len(plan.unanalyzed)
        tell(events.RunsFailed("analysis of the curvature", count, str(job), error, plan.run.logs))

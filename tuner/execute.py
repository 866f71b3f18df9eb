"""A command is executed from start to end: preflight, Ray, the plan's jobs. It tells a listener, and prints nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tuner import events
from tuner.config.schema import Config
from tuner.errors import UserError
from tuner.events import Ended, Listener
from tuner.machine import code
from tuner.machine.code import Code
from tuner.planning import borrowing
from tuner.planning.borrowing import Loans, borrowed
from tuner.planning.remaining import Work, remaining_work
from tuner.store import extent, provenance
from tuner.store.run import Run
from tuner.text import fault
from tuner.work import DEFAULT_RAY, RaySetting, RunWork, decisions, preflight, ray_of, run_plans, waiting
from tuner.workers.preflight import PreflightResult
from tuner.workers.starting import CommandRay

if TYPE_CHECKING:
    from tuner.comparison.results import Results


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


def new_run(
    config: Config,
    path: Path,
    tell: Listener,
    *,
    objects: bytes = b"",
    lenders: Sequence[Run] = (),
    report: bool = False,
    ray: RaySetting = DEFAULT_RAY,
) -> Executed:
    """Search and retrain into a new run directory.

    Args:
        tell: is told each ``events.Event``.
        objects: what the configuration names and carries by value: see ``tuner.config.carried``.
        lenders: runs of any tasks, from which what they have under the same conditions is borrowed.
        report: write report.html at the end.

    Raises:
        UserError: bad input that only now comes to light; nothing has been written.
    """
    code.check_folders(config)
    identity = code.identity(config, objects)
    with ray_of(ray, tell) as started:
        checked = checked_one(config, objects, tell, started)
        loans = agreed(config, lenders, checked, identity, tell)
        run = Run.create(path, loans.config, objects, another=config.name is None)
        run.code = identity
        try:
            with run.locked():
                part = begun(run, loans, checked)
                done = Executed(run, loans.config, None) if part is None else done_alone(part, tell, started)
                return with_results(done, tell, report)
        finally:
            run.discard_if_new()  # Ray did not start


def agreed(
    config: Config, lenders: Sequence[Run], checked: PreflightResult | None, identity: Code, tell: Listener
) -> Loans:
    """What a new run borrows; what stands against it is told."""
    if not lenders or checked is None:
        return Loans(config, [], [])
    loans = borrowed(config, lenders, checked.data, identity)
    for line in loans.remarks:
        tell(events.LoanRemark(line))
    return loans


def begun(run: Run, loans: Loans, checked: PreflightResult | None) -> RunWork | None:
    """What a new run has to do beside what it borrows; ``None`` where that is nothing."""
    config = loans.config
    if not loans.loans or checked is None:
        work = Work(search=True, trials=config.total_trials / len(config.optimizers), seeds=config.retraining_runs)
        return RunWork(config, run, work, checked)
    borrowing.write(run, config, loans.loans)
    work, seeds = remaining_work(config, run, search=True)
    if work.trials or seeds:
        return RunWork(config, run, work, checked)
    borrowing.end_without_work(run, config, checked.data, loans.loans[0].lender)
    return None


def checked_one(config: Config, objects: bytes, tell: Listener, ray: CommandRay) -> PreflightResult | None:
    """
    Raises:
        UserError: the task, an optimizer or the data cannot be used; or Ray, with this interpreter.
        MachineError: Ray did not start.
    """
    (found,) = preflight([config], objects, tell, ray)
    if isinstance(found, UserError):
        raise found
    return found


def done_alone(part: RunWork, tell: Listener, ray: CommandRay) -> Executed:
    """The work of a command on one run."""
    (plan,), ended = run_plans([part], part.run.path, tell, ray)
    return Executed(part.run, plan.config, ended)


def resume(
    config: Config,
    run: Run,
    tell: Listener,
    *,
    search: bool,
    changed_code: bool = False,
    report: bool = False,
    ray: RaySetting = DEFAULT_RAY,
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
    with run.locked(), ray_of(ray, tell) as started:
        part, to_check = lacking(config, run, tell, search=search, changed_code=changed_code)
        if part is None:
            return with_results(Executed(run, config, None), tell, report)
        checked = checked_one(to_check, run.objects(), tell, started)
        return with_results(done_alone(replace(part, checked=checked), tell, started), tell, report)


def lacking(
    config: Config, run: Run, tell: Listener, *, search: bool, changed_code: bool
) -> tuple[RunWork | None, Config]:
    """What a run lacks, and what the preflight is to check of it; where that is nothing, its files are as they should
    be.

    Raises:
        UserError: it was begun with other code, and that is not allowed.
    """
    work, seeds = remaining_work(config, run, search)
    tell_lacking_weights(config, run, tell)
    if not work.trials and not seeds:
        run.write_config(config)
        run.finish_curves()  # which a full disk may have prevented
        take_missed_looks(config, run, tell)
        return None, config
    provenance.check_code(config, run, allowed=changed_code, remark=lambda text: tell(events.CodeRemark(text)))
    retrain = config.retrain.model_copy(update={"seeds": (not config.looks and seeds) or config.retrain.seeds})
    return RunWork(config, run, work), config.model_copy(update={"retrain": retrain})


def take_missed_looks(config: Config, run: Run, tell: Listener) -> None:
    """Look, where a command ended between the last run and that: looks are a function of what there is."""
    from tuner.planning.looking import Looking

    before = extent.read(run.path) if config.looks else {}
    all_stopped = set(config.optimizers) <= set(before.get("stopped", ()))
    if len(before.get("looks", ())) < len(config.looks) and not all_stopped:
        looking = Looking(config, decisions(config, run, tell), run.path)
        while looking.take():
            pass


def with_results(done: Executed, tell: Listener, report: bool) -> Executed:
    """Compare, and write summary.csv, contrasts.csv and, unless the work was cut off, the report."""
    runs = [done.run] if done.run.seed_rows() else []
    results, page, all_written = compared(runs, done.run.path, done.ended, tell, report=report)
    return replace(done, results=results, report=page, all_written=all_written)


def compared(
    runs: Sequence[Run], folder: Path, ended: Ended | None, tell: Listener, *, report: bool
) -> tuple[Results | None, Path | None, bool]:
    """What runs come to, with tables and, unless the work was cut off, the report in the folder; the page, and whether
    all could be written.

    Args:
        runs: those that have retrained anything.
        ended: how the work ended; nothing is written where it was halted, since nothing can be.
    """
    from tuner.comparison.results import compare

    state = ended.state if ended else "ended"
    if not runs or state == "halted":
        return None, None, True
    results = compare(runs)
    try:
        if not report or state != "ended":
            results.write_tables(folder)
            return results, None, True
        with waiting("drawing the report ...", tell):
            from tuner.reporting.files import write_report

            return results, write_report(results, folder).page, True
    except OSError as error:
        tell(events.NotWritten(f"{error.filename or folder}: cannot be written ({error.strerror})"))
    except Exception as error:  # what was found is shown all the same
        tell(events.NotWritten(f"report.html: cannot be drawn ({fault(error)})"))
    return results, None, False


def tell_lacking_weights(config: Config, run: Run, tell: Listener) -> None:
    """How many earlier retraining runs have no weights, where weights are to be kept."""
    lacking = run.weights.lacking(run.seed_rows()) if config.retrain.keep_weights else 0
    if lacking:
        runs = f"{lacking} earlier retraining {'run was' if lacking == 1 else 'runs were'}"
        tell(events.WeightsRemark(f"{runs} made without --keep-weights, and {'stays' if lacking == 1 else 'stay'} so"))

"""A suite is executed: the runs of its tasks on one Ray, in whose order they end. It tells a listener, and prints
nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tuner import events
from tuner.config.classes import check_dataset
from tuner.config.schema import Config
from tuner.config.suites import SuiteFile
from tuner.errors import UserError
from tuner.events import Ended, Listener
from tuner.execute import agreed, begun, compared, lacking
from tuner.machine import code
from tuner.store.provenance import check_data
from tuner.store.run import Run
from tuner.store.suites import Suite
from tuner.work import DEFAULT_RAY, RaySetting, RunWork, named, preflight, ray_of, run_plans
from tuner.workers.preflight import PreflightResult
from tuner.workers.starting import CommandRay

if TYPE_CHECKING:
    from tuner.comparison.results import Results


NO_RUNS: Mapping[str, Run] = {}


@dataclass(frozen=True)
class SuiteExecuted:
    """What came of a command on a suite.

    Attributes:
        configs: of the tasks that it was about, by entry.
        failed: why tasks could not be trained at all, by entry.
        ended: how the work ended; ``None`` where there was nothing to do.
        results: what the retraining runs of all tasks come to; ``None`` where there are none.
        report: the page that was written, if one was.
        all_written: whether tables and report could be.
    """

    suite: Suite
    configs: dict[str, Config]
    failed: dict[str, str] = field(default_factory=dict)
    ended: Ended | None = None
    results: Results | None = None
    report: Path | None = None
    all_written: bool = True

    @property
    def run(self) -> Suite:
        """What was written, as ``Executed.run`` is."""
        return self.suite


def new_suite(
    file: SuiteFile,
    configs: Mapping[str, Config],
    path: Path,
    tell: Listener,
    *,
    objects: bytes = b"",
    only: Sequence[str] = (),
    lenders: Sequence[Run] = (),
    another: bool = False,
    report: bool = False,
    ray: RaySetting = DEFAULT_RAY,
) -> SuiteExecuted:
    """Search and retrain the tasks of a suite into a new folder.

    Args:
        file: the suite's.
        configs: of all its tasks, by entry.
        objects: what the configurations carry by value: see ``tuner.config.carried``.
        only: the entries to begin with; none: all.
        lenders: runs of any tasks, from which what they have under the same conditions is borrowed.
        another: take another name where that of the folder is taken.
        tell, report, ray: as for ``execute.new_run``.

    Raises:
        UserError: bad input that only now comes to light, of every task; nothing has been written.
    """
    chosen = {entry: config for entry, config in configs.items() if not only or entry in only}
    for config in chosen.values():
        code.check_folders(config)
    with ray_of(ray, tell) as started:
        checked, failed = checked_all(chosen, objects, tell, started)
        codes = {entry: code.identity(config, objects) for entry, config in chosen.items()}
        loans = {
            entry: agreed(chosen[entry], lenders, found, codes[entry], named(entry, tell))
            for entry, found in checked.items()
        }
        chosen |= {entry: of_entry.config for entry, of_entry in loans.items()}
        suite = Suite.create(path, file, {**configs, **chosen}, objects, another=another)
        try:
            with locked(suite.runs[entry] for entry in chosen):
                parts = []
                for entry, found in checked.items():
                    suite.runs[entry].code = codes[entry]
                    part = begun(suite.runs[entry], loans[entry], found)
                    parts += [replace(part, name=entry)] if part else []
                return carried_out(SuiteExecuted(suite, chosen, failed), parts, tell, started, report=report)
        finally:
            suite.discard_if_new()  # Ray did not start


def resume_suite(
    suite: Suite,
    configs: Mapping[str, Config],
    tell: Listener,
    *,
    search: Callable[[Config], bool],
    changed_code: bool = False,
    report: bool = False,
    ray: RaySetting = DEFAULT_RAY,
) -> SuiteExecuted:
    """Do what runs of a suite lack.

    Args:
        configs: of the runs that this is about, with more trials or seeds perhaps, by entry. They share their workers:
            one that has gone on alone with other resources than the first has those of the first.
        search: whether trials may be among it, or only retraining.
        tell, changed_code, report, ray: as for ``execute.resume``.

    Raises:
        UserError: bad input that only now comes to light, of every task that lacks something; nothing was done.
    """
    shared = {"resources": next(iter(configs.values())).resources}
    configs = {entry: config.model_copy(update=shared) for entry, config in configs.items()}
    with locked(suite.runs[entry] for entry in configs), ray_of(ray, tell) as started:
        parts: dict[str, RunWork] = {}
        to_check: dict[str, Config] = {}
        for entry, config in configs.items():
            told = named(entry, tell)
            part, check = lacking(config, suite.runs[entry], told, search=search(config), changed_code=changed_code)
            if part is not None:
                parts[entry], to_check[entry] = replace(part, name=entry), check
        objects = next(iter(suite.runs.values())).objects()
        checked, failed = checked_all(to_check, objects, tell, started, suite.runs) if parts else ({}, {})
        ready = [replace(parts[entry], checked=found) for entry, found in checked.items()]
        return carried_out(SuiteExecuted(suite, dict(configs), failed), ready, tell, started, report=report)


@contextmanager
def locked(runs: Iterable[Run]) -> Iterator[None]:
    """Keep other commands from working on these runs.

    Raises:
        UserError: another command does on one of them.
    """
    with ExitStack() as locks:
        for run in runs:
            locks.enter_context(run.locked())
        yield


def checked_all(
    configs: Mapping[str, Config],
    objects: bytes,
    tell: Listener,
    ray: CommandRay,
    runs: Mapping[str, Run] = NO_RUNS,
) -> tuple[dict[str, PreflightResult | None], dict[str, str]]:
    """What the preflight found of each task, by entry, and of the others why they cannot be trained.

    Args:
        runs: those that go on, whose data must be what it was.

    Raises:
        UserError: so it is of all of them.
    """
    failed: dict[str, str] = {}
    there: dict[str, Config] = {}
    for entry, config in configs.items():
        try:
            check_dataset(config)
            there[entry] = config
        except UserError as error:
            failed[entry] = str(error)
    checked: dict[str, PreflightResult | None] = {}
    for entry, found in zip(there, preflight(list(there.values()), objects, tell, ray), strict=True):
        try:
            if isinstance(found, UserError):
                raise found
            if found is not None and entry in runs:
                check_data(runs[entry], found.data)
            checked[entry] = found
        except UserError as error:
            failed[entry] = str(error)
    if not checked:
        raise UserError("; ".join(f"{entry}: {why}" for entry, why in failed.items()))
    for entry, why in failed.items():
        tell(events.TaskFailed(f"{entry}: cannot be trained, the other tasks are ({why})"))
    return checked, failed


def carried_out(
    done: SuiteExecuted, parts: Sequence[RunWork], tell: Listener, ray: CommandRay, *, report: bool
) -> SuiteExecuted:
    """The work on the runs of a suite, and what all of its runs come to."""
    if parts:
        plans, ended = run_plans(parts, done.suite.path, tell, ray)
        settled = {plan.key: plan.config for plan in plans}
        done = replace(done, configs=done.configs | settled, ended=ended)
    results, page, all_written = compared(done.suite.with_results(), done.suite.path, done.ended, tell, report=report)
    return replace(done, results=results, report=page, all_written=all_written)

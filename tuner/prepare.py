"""What the flags of a search ask for is resolved here: configurations with settled resources, and where to write."""

from __future__ import annotations

import argparse
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.config.program import NO_PROGRAM, Program
from tuner.console.parsing import RETRAINING_KEYS, given
from tuner.errors import CHANGED_CODE, UserError

if TYPE_CHECKING:
    from tuner.config.schema import Config
    from tuner.config.suites import SuiteFile
    from tuner.store.run import Run
    from tuner.store.suites import Suite

FLAG_KEYS = {
    "task": "task.name", "optimizers": "search.optimizers", "trials": "search.trials",
    "preset": "preset", "gpus_per_trial": "resources.gpus_per_trial", "cpus_per_trial": "resources.cpus_per_trial",
    "address": "resources.address",
    "sampler": "search.sampler", "scheduler": "search.scheduler", "data_dir": "task.data_dir",
    "dataset": "task.dataset", "out": "out", "name": "name", "tracker": "tracker", **RETRAINING_KEYS,
}  # fmt: skip


def opened(args: argparse.Namespace) -> Run | Suite | None:
    """The run, or the suite, that goes on.

    Raises:
        UserError: there is none.
    """
    if args.resume is None:
        return None
    from tuner.store.run import Run
    from tuner.store.suites import Suite, is_suite

    return Suite.open(args.resume) if is_suite(args.resume) else Run.open(args.resume)


def lenders_of(args: argparse.Namespace) -> list[Run]:
    """The runs of ``--against``.

    Raises:
        UserError: there are none.
    """
    from tuner.store.suites import runs_at

    return [] if args.against is None else runs_at(args.against)


def prepare(args: argparse.Namespace, run: Run | None, program: Program = NO_PROGRAM) -> Config:
    """The resolved configuration, of a run that goes on or of a new one. Neither torch nor Ray is imported.

    Raises:
        UserError: bad input.
    """
    from tuner.config.classes import check_dataset
    from tuner.config.layers import resolve

    check_together(args, run, program)
    if run is None:
        config = one_at_a_time(resolve(flags_of(args, program), args.set, args.configs, program.given))
    else:
        config = going_on(args, run.config(), run.retrained_seeds(), args.add_optimizer or [])
    if run is None or not args.dry_run:
        check_dataset(config)
    return settled(config, program)


def prepare_suite(args: argparse.Namespace, program: Program = NO_PROGRAM) -> tuple[SuiteFile, dict[str, Config]]:
    """A new suite's file, and the resolved configuration of each of its tasks.

    Raises:
        UserError: bad input.
    """
    from tuner.config.suites import read_suite, resolve_suite
    from tuner.store.suites import check_task

    check_together(args, None, program)
    if args.dataset is not None:
        raise UserError(
            "--dataset: is of one task; write it into the suite's file, tasks: {NAME: {task: {dataset: ...}}}"
        )
    file = read_suite(args.suite, args.configs)
    for entry in args.only or ():
        check_task(entry, file.tasks)
    configs = resolve_suite(file, flags_of(args, program), args.set, args.configs, program.given)
    return file, {entry: settled(one_at_a_time(config), program) for entry, config in configs.items()}


def prepare_resumed_suite(args: argparse.Namespace, suite: Suite, program: Program = NO_PROGRAM) -> dict[str, Config]:
    """The configuration of each run of a suite that goes on, or of those of ``--only``.

    Raises:
        UserError: bad input.
    """
    check_together(args, suite, program)
    runs, wanted = suite.only(args.only or ()), args.add_optimizer or []
    configs = {entry: run.config() for entry, run in runs.items()}
    lacking = {entry: [name for name in wanted if name not in config.optimizers] for entry, config in configs.items()}
    if not any(lacking.values()):
        lacking = dict.fromkeys(configs, wanted)  # of which the first is refused
    return {
        entry: settled(going_on(args, configs[entry], run.retrained_seeds(), lacking[entry]), program)
        for entry, run in runs.items()
    }


def flags_of(args: argparse.Namespace, program: Program = NO_PROGRAM) -> dict[str, Any]:
    """Keys of the configuration, with the values that flags, and a program, give them.

    Raises:
        UserError: there is no such data.
    """
    flags = given(args, FLAG_KEYS)
    if args.data_dir is not None:
        flags["task.data_dir"] = data_folder(args.data_dir)
    if args.dataset is not None and args.dataset.endswith(".npz"):
        flags["task.dataset"] = str(Path(args.dataset).absolute())
    if program.python_path and args.resume is None:
        flags["python_path"] = program.python_path
    return flags


def data_folder(data_dir: str) -> str:
    """Where it is, whatever the working directory: workers may run elsewhere.

    Raises:
        UserError: there is no such data.
    """
    if not os.path.exists(data_dir):  # unlike Path's, false for a name that no file can have
        raise UserError(f"--data-dir {data_dir}: no such folder or file")
    return str(Path(data_dir).absolute())


def going_on(args: argparse.Namespace, config: Config, retrained: list[int], added: list[str]) -> Config:
    """The configuration of a run that goes on, as the flags extend it, with these optimizers more."""
    from tuner.config.changes import add_optimizers, extend, keep_seeds

    settings = args.set
    if added:
        config, settings = add_optimizers(config, added, settings, args.configs)
    return keep_seeds(extend(config, flags_of(args), settings), retrained)


def settled(config: Config, program: Program) -> Config:
    """The configuration with what this machine has, where the run is to be here, and cohorts as they are to be.

    Raises:
        UserError: not even one training run fits, or the tracker is not there.
    """
    from tuner.machine.resources import Machine, settle, this_machine
    from tuner.trackers.tracker import check

    if config.tracker is not None:
        check(config.tracker)
    if config.resources.address is not None:
        return config
    if inside := program.inside:
        return settle(config, Machine(inside.cpus, inside.gpus), owner="what is free in the Ray that is initialised")
    return settle(config, this_machine())


def check_together(args: argparse.Namespace, going_on: Run | Suite | None, program: Program) -> None:
    """
    Raises:
        UserError: flags are missing, or do not go together.
    """
    new = going_on is None
    if new and args.task is None and args.suite is None:
        raise UserError(
            "--task is missing: the training problem (or --suite NAME for several, or --resume RUN, to go on with an "
            "earlier run)"
        )
    if args.suite is not None and (args.task is not None or not new):
        other = "--task" if args.task is not None else "--resume"
        raise UserError(f"--suite and {other} exclude each other: what is to be searched?")
    if args.only and not (args.suite is not None or hasattr(going_on, "runs")):
        raise UserError("--only: names tasks of a suite; there is one task here")
    if args.add_optimizer and new:
        raise UserError("--add-optimizer: to a run or a suite that is there: --resume RUN; a new one has --optimizers")
    if args.against is not None and (not new or args.address is not None):
        other = "--address" if new else "--resume"
        raise UserError(f"--against and {other} exclude each other: a new run on this machine may borrow")
    if new and args.allow_changed_code:
        raise UserError(f"{CHANGED_CODE}: only a run that goes on (--resume RUN) has code of before")
    if not new and args.configs is not None and not args.add_optimizer:
        raise UserError("--configs: a run that goes on has its own config.yaml; leave it out with --resume")
    if not new and any(program.given.values()):
        raise UserError("resume: a run that goes on has its own classes and contents; give names alone, or nothing")


def one_at_a_time(config: Config) -> Config:
    """With --max-concurrent 1 a search is repeatable, so the size of cohorts is not left to what is fastest today."""
    if config.resources.max_concurrent != 1 or config.resources.cohort != "auto":
        return config
    return config.model_copy(update={"resources": config.resources.model_copy(update={"cohort": 1})})


def new_path(config: Config, name: str | None = None) -> Path:
    """The directory to make.

    Args:
        name: of what it is of; none: of the task.

    Raises:
        UserError: it cannot be made.
    """
    from tuner.store.folders import check_creatable, numbered

    path = Path(config.out) / (config.name or f"{name or config.task.name}-{datetime.now():%Y%m%d-%H%M%S}")
    if config.name is None:
        path = next(free for free in numbered(path) if not os.path.lexists(free))
    check_creatable(path)
    return path

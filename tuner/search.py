"""`python -m tuner.search`: search each optimizer's hyperparameters, retrain the best over seeds, write it all down.

With --resume an earlier run goes on: what it has is kept, what it lacks is done.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.callable import make_callable
from tuner.config.program import NO_PROGRAM, Program
from tuner.config.registry import available
from tuner.console import completion
from tuner.console.completion import complete
from tuner.console.parsing import (
    RETRAINING_KEYS,
    Parser,
    add_output_flags,
    add_retraining_flags,
    check_utf8,
    given,
    run_command,
)
from tuner.errors import CHANGED_CODE, UserError

if TYPE_CHECKING:
    from tuner.config.schema import Config
    from tuner.events import Listener
    from tuner.execute import Executed
    from tuner.store.run import Run

FLAG_KEYS = {
    "task": "task.name", "optimizers": "search.optimizers", "trials": "search.trials",
    "preset": "preset", "gpus_per_trial": "resources.gpus_per_trial", "cpus_per_trial": "resources.cpus_per_trial",
    "address": "resources.address",
    "sampler": "search.sampler", "scheduler": "search.scheduler", "data_dir": "task.data_dir",
    "dataset": "task.dataset", "out": "out", "name": "name", "tracker": "tracker", **RETRAINING_KEYS,
}  # fmt: skip


def make_parser() -> Parser:
    parser = Parser(
        "tuner.search", "Search each optimizer's hyperparameters, retrain the best over seeds, write it all down."
    )
    add = parser.add_argument
    complete(add("--task", help=f"the training problem: {', '.join(available('tasks'))}"), completion.tasks)
    named = add("--optimizers", nargs="+", metavar="NAME", help=", ".join(available("optimizers")))
    complete(named, completion.optimizers)
    add("--trials", type=int, metavar="N", help="trials of each study")
    add_retraining_flags(parser)
    complete(add("--preset", help="smoke, default or paper"), completion.presets)
    add("--gpus-per-trial", type=float, metavar="G", help="a fraction shares a GPU; 0 trains on the CPU")
    add("--cpus-per-trial", type=float, metavar="C")
    add("--address", help="of a running Ray cluster, or auto; by default Ray starts on this machine")
    complete(add("--sampler", help="tpe, gp, random or qmc"), completion.choices("search", "sampler"))
    complete(add("--scheduler", help="fifo or asha"), completion.choices("search", "scheduler"))
    add("--data-dir", metavar="DIR", help="the folder (or text file) where the task's data lies")
    add("--dataset", metavar="NAME", help="one of the task's data sets")
    tracker = add("--tracker", help="tensorboard, mlflow or wandb: tell it what the run directory gets")
    complete(tracker, completion.choices("", "tracker"))
    add(
        "--resume",
        metavar="RUN",
        type=Path,
        help="the directory of a run that goes on; more --trials, --studies or --seeds extend it",
    )
    add("--out", metavar="DIR", help="where the run directory is made (default: runs)")
    add("--name", help="the run directory's name (default: <task>-<date>-<time>)")
    add("--configs", metavar="DIR", type=Path, help="your own folder with optimizers/, tasks/ and defaults.yaml")
    setting = add("--set", metavar="KEY=VALUE", nargs="+", action="extend", default=[], help="say train.epochs=3")
    complete(setting, completion.settings)
    add("--dry-run", action="store_true", help="print what would be done, and do nothing")
    add_output_flags(parser)
    return parser


def main(argv: list[str]) -> int:
    args = make_parser().parse(argv)
    check_utf8(argv)
    if args.dry_run:
        from tuner.console import dry_run

        dry_run.show(*planned(args, partial(print, file=sys.stderr)), as_json=args.json)
        return 0
    from tuner.console.terminal import Terminal, conclude

    terminal = Terminal(quiet=args.quiet)
    return conclude(carry_out(args, terminal), terminal, as_json=args.json)


def carry_out(args: argparse.Namespace, tell: Listener, program: Program = NO_PROGRAM) -> Executed:
    """Do what the flags, and a program that calls us, ask for.

    Args:
        tell: is told each ``events.Event``.

    Raises:
        UserError: bad input.
    """
    from tuner import execute
    from tuner.work import RaySetting

    run = opened(args)
    config = prepare(args, run, program)
    ray = RaySetting(program.inside, args.verbose)
    report = not args.no_report
    if run is None:
        return execute.new_run(config, new_path(config), tell, objects=program.objects, report=report, ray=ray)
    return execute.resume(config, run, tell, search=True, changed_code=args.allow_changed_code, report=report, ray=ray)


def planned(
    args: argparse.Namespace, remark: Callable[[str], Any], program: Program = NO_PROGRAM
) -> tuple[Config, Path]:
    """What ``carry_out`` would do, and where; nothing is started.

    Args:
        remark: told, a line each, what cannot be known without doing it.

    Raises:
        UserError: bad input.
    """
    from tuner.store.provenance import check_code

    run = opened(args)
    config = prepare(args, run, program)
    if run is None:
        return config, new_path(config)
    if config.task.check is not None:
        remark(f"--dry-run runs no code that a run names: {config.task.check} was not asked about the data")
    check_code(config, run, allowed=args.allow_changed_code, remark=remark)
    return config, run.path


def opened(args: argparse.Namespace) -> Run | None:
    """The run that goes on."""
    if args.resume is None:
        return None
    from tuner.store.run import Run

    return Run.open(args.resume)


def prepare(args: argparse.Namespace, run: Run | None, program: Program = NO_PROGRAM) -> Config:
    """The resolved configuration, of a run that goes on or of a new one. Neither torch nor Ray is imported.

    Raises:
        UserError: bad input.
    """
    from tuner.config.changes import extend, keep_seeds
    from tuner.config.classes import check_dataset
    from tuner.config.layers import resolve
    from tuner.machine.resources import Machine, settle, this_machine
    from tuner.trackers.tracker import check

    check_together(args, run, program)
    flags = given(args, FLAG_KEYS)
    if args.data_dir is not None:
        if not os.path.exists(args.data_dir):  # unlike Path's, false for a name that no file can have
            raise UserError(f"--data-dir {args.data_dir}: no such folder or file")
        flags["task.data_dir"] = str(Path(args.data_dir).absolute())  # workers may run elsewhere
    if args.dataset is not None and args.dataset.endswith(".npz"):
        flags["task.dataset"] = str(Path(args.dataset).absolute())
    if run is None:
        if program.python_path:
            flags["python_path"] = program.python_path
        config = one_at_a_time(resolve(flags, args.set, args.configs, program.given))
    else:
        config = keep_seeds(extend(run.config(), flags, args.set), run.retrained_seeds())
    if run is None or not args.dry_run:
        check_dataset(config)
    if config.tracker is not None:
        check(config.tracker)
    if config.resources.address is not None:
        return config
    if inside := program.inside:
        return settle(config, Machine(inside.cpus, inside.gpus), owner="what is free in the Ray that is initialised")
    return settle(config, this_machine())


def check_together(args: argparse.Namespace, run: Run | None, program: Program) -> None:
    """
    Raises:
        UserError: flags are missing, or do not go together.
    """
    if run is None and args.task is None:
        raise UserError("--task is missing: the training problem (or --resume RUN, to go on with an earlier run)")
    if run is None and args.allow_changed_code:
        raise UserError(f"{CHANGED_CODE}: only a run that goes on (--resume RUN) has code of before")
    if run is not None and args.configs is not None:
        raise UserError("--configs: a run that goes on has its own config.yaml; leave it out with --resume")
    if run is not None and any(program.given.values()):
        raise UserError("resume: a run that goes on has its own classes and contents; give names alone, or nothing")


def one_at_a_time(config: Config) -> Config:
    """With --max-concurrent 1 a search is repeatable, so the size of cohorts is not left to what is fastest today."""
    if config.resources.max_concurrent != 1 or config.resources.cohort != "auto":
        return config
    return config.model_copy(update={"resources": config.resources.model_copy(update={"cohort": 1})})


def new_path(config: Config) -> Path:
    """The run directory to make.

    Raises:
        UserError: it cannot be made.
    """
    from tuner.store.folders import check_creatable, numbered

    path = Path(config.out) / (config.name or f"{config.task.name}-{datetime.now():%Y%m%d-%H%M%S}")
    if config.name is None:
        path = next(free for free in numbered(path) if not os.path.lexists(free))
    check_creatable(path)
    return path


make_callable(__name__)

if __name__ == "__main__":
    run_command(main)

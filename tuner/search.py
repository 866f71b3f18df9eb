"""`python -m tuner.search`: search each optimizer's hyperparameters, retrain the best over seeds, write it all down.

With --resume an earlier run goes on: what it has is kept, what it lacks is done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.callable import make_callable
from tuner.config.program import NO_PROGRAM, Program
from tuner.config.registry import available
from tuner.console import completion, plan_view
from tuner.console.completion import complete
from tuner.console.parsing import Parser, add_output_flags, add_retraining_flags, check_utf8, run_command
from tuner.console.plan_view import Planned
from tuner.prepare import lenders_of, new_path, opened, prepare, prepare_resumed_suite, prepare_suite

if TYPE_CHECKING:
    from tuner.config.schema import Config
    from tuner.events import Listener
    from tuner.execute import Executed
    from tuner.store.run import Run
    from tuner.suite import SuiteExecuted


def make_parser() -> Parser:
    parser = Parser(
        "tuner.search", "Search each optimizer's hyperparameters, retrain the best over seeds, write it all down."
    )
    add = parser.add_argument
    complete(add("--task", help=f"the training problem: {', '.join(available('tasks'))}"), completion.tasks)
    of_suite = f"several tasks: {', '.join(available('suites'))}, or a YAML file of your own"
    complete(add("--suite", metavar="NAME", help=of_suite), completion.suites)
    only = add("--only", nargs="+", metavar="TASK", help="of a suite's tasks these alone, this time")
    complete(only, completion.tasks)
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
    added = add("--add-optimizer", nargs="+", metavar="NAME", help="search these, too, in the run of --resume")
    complete(added, completion.optimizers)
    against = "a run or a suite: what it has under the same conditions is borrowed, and compared, not done again"
    add("--against", metavar="RUN", type=Path, help=against)
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
        plan_view.show(planned(args, partial(print, file=sys.stderr)), as_json=args.json)
        return 0
    from tuner.console.terminal import Terminal, conclude

    terminal = Terminal(quiet=args.quiet)
    return conclude(carry_out(args, terminal), terminal, as_json=args.json)


def carry_out(args: argparse.Namespace, tell: Listener, program: Program = NO_PROGRAM) -> Executed | SuiteExecuted:
    """Do what the flags, and a program that calls us, ask for.

    Args:
        tell: is told each ``events.Event``.

    Raises:
        UserError: bad input.
    """
    from tuner import execute, suite
    from tuner.store.suites import Suite
    from tuner.work import RaySetting

    going_on = opened(args)
    ray, report = RaySetting(program.inside, args.verbose), not args.no_report
    lenders = lenders_of(args)
    again: Any = {"changed_code": args.allow_changed_code, "report": report, "ray": ray}
    if isinstance(going_on, Suite):
        configs = prepare_resumed_suite(args, going_on, program)
        return suite.resume_suite(going_on, configs, tell, search=lambda config: True, **again)
    if args.suite is not None:
        file, configs = prepare_suite(args, program)
        path = new_path(next(iter(configs.values())), file.name)
        begin: Any = {"another": args.name is None, "only": args.only or (), "lenders": lenders, "report": report}
        return suite.new_suite(file, configs, path, tell, objects=program.objects, ray=ray, **begin)
    config = prepare(args, going_on, program)
    if going_on is None:
        begin = {"lenders": lenders, "report": report, "ray": ray}
        return execute.new_run(config, new_path(config), tell, objects=program.objects, **begin)
    return execute.resume(config, going_on, tell, search=True, **again)


def planned(args: argparse.Namespace, remark: Callable[[str], Any], program: Program = NO_PROGRAM) -> Planned:
    """What ``carry_out`` would do, and where; nothing is started.

    Args:
        remark: told, a line each, what cannot be known without doing it.

    Raises:
        UserError: bad input.
    """
    from tuner.store.suites import Suite

    going_on = opened(args)
    if lenders_of(args):
        remark("--against: what is borrowed is known once data is loaded; here all is counted as if nothing were")
    if isinstance(going_on, Suite):
        configs = prepare_resumed_suite(args, going_on, program)
        for entry, config in configs.items():
            check_again(config, going_on.runs[entry], args, remark)
        return Planned(configs, going_on.path, going_on.name)
    if args.suite is not None:
        file, configs = prepare_suite(args, program)
        path = new_path(next(iter(configs.values())), file.name)
        chosen = {entry: config for entry, config in configs.items() if not args.only or entry in args.only}
        return Planned(chosen, path, file.name)
    config = prepare(args, going_on, program)
    if going_on is None:
        return Planned({config.task.name: config}, new_path(config))
    check_again(config, going_on, args, remark)
    return Planned({config.task.name: config}, going_on.path)


def check_again(config: Config, run: Run, args: argparse.Namespace, remark: Callable[[str], Any]) -> None:
    """What can be known of a run that would go on, without running what it names.

    Raises:
        UserError: it was begun with other code.
    """
    from tuner.store.provenance import check_code

    if config.task.check is not None:
        remark(f"--dry-run runs no code that a run names: {config.task.check} was not asked about the data")
    check_code(config, run, allowed=args.allow_changed_code, remark=remark)


make_callable(__name__)

if __name__ == "__main__":
    run_command(main)

"""`python -m tuner.retrain RUN`: train a run's winners over more evaluation seeds, or those of more studies."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tuner.callable import make_callable
from tuner.config.program import NO_PROGRAM, Program
from tuner.console.parsing import (
    RETRAINING_KEYS,
    Parser,
    add_output_flags,
    add_retraining_flags,
    add_run,
    check_utf8,
    given,
    run_command,
)
from tuner.errors import UserError

if TYPE_CHECKING:
    from tuner.config.schema import Config
    from tuner.events import Listener
    from tuner.execute import Executed
    from tuner.store.run import Run
    from tuner.suite import SuiteExecuted


def make_parser() -> Parser:
    parser = Parser(
        "tuner.retrain", "Train a run's best hyperparameters over more evaluation seeds, or of more studies."
    )
    add_run(parser)
    add_retraining_flags(parser)
    add_output_flags(parser)
    return parser


def main(argv: list[str]) -> int:
    args = make_parser().parse(argv)
    check_utf8(argv)
    from tuner.console.terminal import Terminal, conclude

    terminal = Terminal(quiet=args.quiet)
    return conclude(carry_out(args, terminal), terminal, as_json=args.json)


def carry_out(args: argparse.Namespace, tell: Listener, program: Program = NO_PROGRAM) -> Executed | SuiteExecuted:
    """Do what the flags ask for.

    Args:
        tell: is told each ``events.Event``.

    Raises:
        UserError: bad input.
    """
    from tuner import execute, suite
    from tuner.store.run import Run
    from tuner.store.suites import Suite, is_suite
    from tuner.work import RaySetting

    ray = RaySetting(program.inside, args.verbose)
    again: Any = {"changed_code": args.allow_changed_code, "report": not args.no_report, "ray": ray}

    def search(config: Config) -> bool:
        """Whether there may be trials among what is missing: of studies that are not there yet."""
        return args.studies is not None or (config.unit == "study" and bool(config.looks))

    if is_suite(args.run):
        whole = Suite.open(args.run)
        configs = {entry: changed(args, run) for entry, run in whole.runs.items() if has_winner(run)}
        if not configs:
            raise UserError(f"{whole.path}: no task has a valid trial, so there is nothing to retrain")
        return suite.resume_suite(whole, configs, tell, search=search, **again)
    run = Run.open(args.run)
    config = changed(args, run)
    return execute.resume(config, run, tell, search=search(config), **again)


def has_winner(run: Run) -> bool:
    """Whether any trial of the run is valid."""
    return any(entry["hp"] is not None for entry in run.best_optimizers().values())


def changed(args: argparse.Namespace, run: Run) -> Config:
    """The run's configuration as the flags extend it.

    Raises:
        UserError: there is nothing to retrain, or not in this way.
    """
    from tuner.config.changes import extended, keep_seeds, revise

    before = run.config()
    if not has_winner(run):
        raise UserError(f"{run.path}: no valid trial, so there is nothing to retrain")
    changes = {"retrain.seeds": before.retrain.seeds} | given(args, RETRAINING_KEYS)
    config = keep_seeds(extended(before, revise(before, changes)), run.retrained_seeds())
    if config.report != before.report and (done := len(run.seed_rows())):
        raise UserError(
            f"--until: is declared before there is anything to look at; {run.path} has {done} retraining runs"
        )
    return config


make_callable(__name__)

if __name__ == "__main__":
    run_command(main)

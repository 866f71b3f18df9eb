"""`python -m tuner.retrain RUN`: train a run's winners over more evaluation seeds, or those of more studies."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

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
    from tuner.events import Listener
    from tuner.execute import Executed


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


def carry_out(args: argparse.Namespace, tell: Listener, program: Program = NO_PROGRAM) -> Executed:
    """Do what the flags ask for.

    Args:
        tell: is told each ``events.Event``.

    Raises:
        UserError: bad input.
    """
    from tuner import execute
    from tuner.config.changes import extended, keep_seeds, revise
    from tuner.store.run import Run
    from tuner.work import RaySetting

    run = Run.open(args.run)
    before = run.config()
    if all(entry["hp"] is None for entry in run.best()["optimizers"].values()):
        raise UserError(f"{run.path}: no valid trial, so there is nothing to retrain")
    changes = {"retrain.seeds": before.retrain.seeds} | given(args, RETRAINING_KEYS)
    config = keep_seeds(extended(before, revise(before, changes)), run.retrained_seeds())
    if config.report != before.report and (done := len(run.seed_rows())):
        raise UserError(
            f"--until: is declared before there is anything to look at; {run.path} has {done} retraining runs"
        )
    return execute.resume(
        config,
        run,
        tell,
        search=args.studies is not None or (config.unit == "study" and bool(config.looks)),
        changed_code=args.allow_changed_code,
        report=not args.no_report,
        ray=RaySetting(program.inside, args.verbose),
    )


make_callable(__name__)

if __name__ == "__main__":
    run_command(main)

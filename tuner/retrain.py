"""`python -m tuner.retrain RUN`: train a run's best hyperparameters over more evaluation seeds."""

from __future__ import annotations

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


def make_parser() -> Parser:
    parser = Parser("tuner.retrain", "Train a run's best hyperparameters over more evaluation seeds.")
    add_run(parser)
    add_retraining_flags(parser)
    add_output_flags(parser)
    return parser


def main(argv: list[str]) -> int:
    args = make_parser().parse(argv)
    check_utf8(argv)
    from tuner import execute
    from tuner.config.changes import keep_seeds, revise
    from tuner.console.terminal import Terminal, conclude
    from tuner.store.run import Run

    run = Run.open(args.run)
    config = run.config()
    if all(entry["hp"] is None for entry in run.best()["optimizers"].values()):
        raise UserError(f"{run.path}: no valid trial, so there is nothing to retrain")
    changes = {"retrain.seeds": config.retrain.seeds} | given(args, RETRAINING_KEYS)
    config = keep_seeds(revise(config, changes), run.retrained_seeds())
    terminal = Terminal(quiet=args.quiet)
    result = execute.resume(
        config, run, terminal, search=False, changed_code=args.allow_changed_code, verbose=args.verbose
    )
    return conclude(result, terminal, as_json=args.json)


if __name__ == "__main__":
    run_command(main)

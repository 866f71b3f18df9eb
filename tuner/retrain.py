"""`python -m tuner.retrain RUN`: train a run's best hyperparameters over more evaluation seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuner.console.parsing import (
    CHANGED_CODE,
    Parser,
    add_output_flags,
    analysis_period,
    check_utf8,
    cohort_size,
    parse_seeds,
    run_command,
)
from tuner.errors import UserError


def make_parser() -> Parser:
    parser = Parser("tuner.retrain", "Train a run's best hyperparameters over more evaluation seeds.")
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the run directory")
    add("--seeds", metavar="N|a,b,c", help="0 to N-1, or a list; seeds that the run has already are kept")
    add("--max-concurrent", type=int, metavar="K", help="training runs at once")
    add("--cohort", type=cohort_size, metavar="auto|M", help="seeds trained as one stacked model; 1: one at a time")
    add(
        "--analyze-curvature",
        type=analysis_period,
        metavar="every=K",
        help="of each new run: the loss's Hessian at evaluations 0, K, 2K, ... and the last",
    )
    add(CHANGED_CODE, action="store_true", help="go on though code has changed; rows made from now on are marked")
    add_output_flags(parser)
    return parser


def main(argv: list[str]) -> int:
    args = make_parser().parse(argv)
    check_utf8(argv)
    from tuner import execute
    from tuner.config.layers import keep_seeds, revise
    from tuner.store.run import Run

    run = Run.open(args.run)
    config = run.config()
    if all(entry["hp"] is None for entry in run.best()["optimizers"].values()):
        raise UserError(f"{run.path}: no valid trial, so there is nothing to retrain")
    asked = config.retrain.seeds if args.seeds is None else parse_seeds(args.seeds)
    changes: dict[str, Any] = {"retrain.seeds": asked}
    if args.max_concurrent is not None:
        changes["resources.max_concurrent"] = args.max_concurrent
    if args.cohort is not None:
        changes["resources.cohort"] = args.cohort
    if args.analyze_curvature is not None:
        changes["retrain.analyze_curvature"] = args.analyze_curvature
    config = keep_seeds(revise(config, changes), run)
    output = execute.Output(args.json, args.quiet, args.verbose)
    return execute.go_on(config, run, output, search=False, changed_code=args.allow_changed_code)


if __name__ == "__main__":
    run_command(main)

"""`python -m tuner.search`: search each optimizer's hyperparameters, retrain the best over seeds, write it all down."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.cli import Parser, add_output_flags, cohort_size, parse_seeds, run_command
from tuner.errors import UserError
from tuner.folders import available

if TYPE_CHECKING:
    from tuner.schema import Config

FLAG_KEYS = {
    "task": "task.name", "optimizers": "search.optimizers", "trials": "search.trials", "seeds": "retrain.seeds",
    "preset": "preset", "gpus_per_trial": "resources.gpus_per_trial", "cpus_per_trial": "resources.cpus_per_trial",
    "max_concurrent": "resources.max_concurrent", "cohort": "resources.cohort", "address": "resources.address",
    "sampler": "search.sampler", "scheduler": "search.scheduler", "data_dir": "task.data_dir",
    "dataset": "task.dataset", "out": "out", "name": "name",
}  # fmt: skip


def make_parser() -> Parser:
    parser = Parser(
        "tuner.search", "Search each optimizer's hyperparameters, retrain the best over seeds, write it all down."
    )
    add = parser.add_argument
    add("--task", required=True, help=f"the training problem: {', '.join(available('tasks'))}")
    add("--optimizers", nargs="+", metavar="NAME", help=", ".join(available("optimizers")))
    add("--trials", type=int, metavar="N", help="trials per optimizer")
    add("--seeds", metavar="N|a,b,c", help="evaluation seeds: 0 to N-1, or a list (a single seed: 'a,')")
    add("--preset", help="smoke, default or paper")
    add("--gpus-per-trial", type=float, metavar="G", help="a fraction shares a GPU; 0 trains on the CPU")
    add("--cpus-per-trial", type=float, metavar="C")
    add("--max-concurrent", type=int, metavar="K", help="trials at once; 1 makes a search repeatable")
    add("--cohort", type=cohort_size, metavar="auto|M", help="trials trained as one stacked model; 1: one at a time")
    add("--address", help="of a running Ray cluster, or auto; by default Ray starts on this machine")
    add("--sampler", help="tpe, gp, random or qmc")
    add("--scheduler", help="fifo or asha")
    add("--data-dir", metavar="DIR", help="the folder (or text file) where the task's data lies")
    add("--dataset", metavar="NAME", help="one of the task's data sets")
    add("--out", metavar="DIR", help="where the run directory is made (default: runs)")
    add("--name", help="the run directory's name (default: <task>-<date>-<time>)")
    add("--configs", metavar="DIR", type=Path, help="your own folder with optimizers/, tasks/ and defaults.yaml")
    add("--set", metavar="KEY=VALUE", nargs="+", action="extend", default=[], help="say train.epochs=3")
    add("--dry-run", action="store_true", help="print what would be done, and do nothing")
    add_output_flags(parser)
    return parser


def main(argv: list[str]) -> int:
    args = make_parser().parse(argv)
    config, path = prepare(args)
    if args.dry_run:
        from tuner import dry_run

        dry_run.show(config, path, as_json=args.json)
        return 0

    from tuner import execute

    return execute.new_run(config, path, execute.Output(args.json, args.quiet, args.verbose))


def prepare(args: argparse.Namespace) -> tuple[Config, Path]:
    """The resolved configuration and the run directory to make. Nothing is written, neither torch nor Ray imported.

    Raises:
        UserError: bad input.
    """
    from tuner.config import resolve
    from tuner.objects import check_dataset
    from tuner.resources import settle, this_machine
    from tuner.store import check_creatable

    flags: dict[str, Any] = {key: getattr(args, flag) for flag, key in FLAG_KEYS.items()}
    if args.data_dir is not None:
        if not Path(args.data_dir).exists():
            raise UserError(f"--data-dir {args.data_dir}: no such folder or file")
        flags["task.data_dir"] = str(Path(args.data_dir).resolve())  # workers may run elsewhere
    if args.dataset is not None and args.dataset.endswith(".npz"):
        flags["task.dataset"] = str(Path(args.dataset).resolve())
    flags["retrain.seeds"] = None if args.seeds is None else parse_seeds(args.seeds)
    config = resolve({key: value for key, value in flags.items() if value is not None}, args.set, args.configs)
    check_dataset(config)
    if config.resources.address is None:
        config = settle(config, this_machine())
    path = Path(config.out) / (config.name or f"{config.task.name}-{datetime.now():%Y%m%d-%H%M%S}")
    check_creatable(path)
    return config, path


if __name__ == "__main__":
    run_command(main)

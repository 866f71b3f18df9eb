"""`python -m tuner.curvature`: what estimators of the Hessian's diagonal are worth on a task's network in training."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.config.program import NO_PROGRAM
from tuner.config.registry import available
from tuner.console import completion
from tuner.console.completion import complete
from tuner.console.parsing import Parser, check_utf8, run_command
from tuner.errors import DONE, UserError
from tuner.prepare import FLAG_KEYS, data_folder, settled

if TYPE_CHECKING:
    from tuner.config.schema import Config
    from tuner.hessian.along import Seen

DESCRIPTION = """\
Estimators of the Hessian's diagonal at equal measured cost, against the exact diagonal, on a task's network: as it is
in a checkpoint, or along a training of so many epochs; and how much of the diagonal Gauss-Newton misses."""


def make_parser() -> Parser:
    parser = Parser("tuner.curvature", DESCRIPTION)
    add = parser.add_argument
    complete(add("--task", required=True, help=f"whose network: {', '.join(available('tasks'))}"), completion.tasks)
    of_what = parser.add_mutually_exclusive_group(required=True)
    weights = "weights of the task's network: a file of --keep-weights (safetensors), or a state_dict (torch.save)"
    of_what.add_argument("--checkpoint", type=Path, metavar="FILE", help=weights)
    of_what.add_argument("--epochs", type=int, metavar="N", help="train so long, with --optimizer as it comes")
    add("--looks", type=int, default=3, metavar="K", help="along the training, the first step's included (default: 3)")
    named = add("--optimizer", default="adam", metavar="NAME", help="that trains (default: adam)")
    complete(named, completion.optimizers)
    add("--seed", type=int, default=0, help="of weights, batches and draws (default: 0)")
    complete(add("--preset", help="smoke, default or paper"), completion.presets)
    add("--data-dir", metavar="DIR", help="the folder (or text file) where the task's data lies")
    add("--dataset", metavar="NAME", help="one of the task's data sets")
    add("--configs", metavar="DIR", type=Path, help="your own folder with optimizers/, tasks/ and defaults.yaml")
    add("--set", metavar="KEY=VALUE", nargs="+", action="extend", default=[], help="say train.batch_size=64")
    add("--out", type=Path, metavar="FILE", help="write the tables there, too (Markdown)")
    add("--json", action="store_true", help="print one JSON document instead")
    add("-v", "--verbose", action="store_true", help="tracebacks")
    return parser


def main(argv: list[str]) -> int:
    args = make_parser().parse(argv)
    check_utf8(argv)
    for flag, least in (("epochs", 1), ("looks", 2)):
        value = getattr(args, flag)
        if value is not None and value < least:
            raise UserError(f"--{flag} {value}: expected at least {least}")
    if args.checkpoint is not None and not args.checkpoint.is_file():
        raise UserError(f"--checkpoint {args.checkpoint}: no such file")
    if args.out is not None and not args.out.parent.is_dir():
        raise UserError(f"--out {args.out}: no such folder {args.out.parent}")
    seen = look(args, configuration(args))
    lines = page(args, seen)
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(json.dumps(document(args, seen), indent=2) if args.json else "\n".join(lines))
    return DONE


def configuration(args: Namespace) -> Config:
    """What a search of the task with the optimizer would be of.

    Raises:
        UserError: bad input.
    """
    from tuner.config.classes import check_dataset
    from tuner.config.layers import resolve

    flags: dict[str, Any] = {"search.optimizers": [args.optimizer], "train.epochs": args.epochs or 1}
    for flag in ("task", "preset", "dataset"):
        if (value := getattr(args, flag)) is not None:
            flags[FLAG_KEYS[flag]] = value
    if args.data_dir is not None:
        flags[FLAG_KEYS["data_dir"]] = data_folder(args.data_dir)
    config = resolve(flags, args.set, args.configs)
    check_dataset(config)
    return settled(config, NO_PROGRAM)


def look(args: Namespace, config: Config) -> list[Seen]:
    """At the checkpoint's network, or along the training.

    Raises:
        UserError: the data cannot be used, or the weights are of another network.
    """
    from tuner.hessian.along import load_weights, see, see_along
    from tuner.training import build

    task = build.make_task(config)
    build.set_up(task, config)
    seen: list[Seen] = []

    def tell(one: Seen) -> None:
        seen.append(one)
        print(f"{args.task}, {one.when}: compared", file=sys.stderr, flush=True)

    if args.checkpoint is not None:
        model = task.build(args.seed)
        load_weights(model, args.checkpoint)
        tell(see(task, model, f"with the weights of {args.checkpoint.name}", seed=args.seed))
        return seen
    spec = config.optimizers[args.optimizer]
    hp = (spec.enqueued() or [{}])[0]
    make, engine = build.optimizer_maker(args.optimizer, spec), build.make_engine(config)
    ended = see_along(task, make, hp, engine, args.epochs, args.looks, tell, args.seed)
    if ended != "complete":
        print(f"the training ended early: {ended}", file=sys.stderr)
    return seen


def page(args: Namespace, seen: list[Seen]) -> list[str]:
    """The tables, in Markdown."""
    lines = [f"# Estimators of the Hessian's diagonal on {args.task}"]
    for one in seen:
        lines += ["", f"## {one.when[0].upper()}{one.when[1:]}", "", *_about(one), ""]
        lines += [
            "| gradients at most | estimator | samples | gradients | relative error | cosine |",
            "| ---: | --- | ---: | ---: | ---: | ---: |",
        ]
        for row in one.rows:
            worst, angle = row.scores["Hessian"]
            budget = "any" if row.budget is None else f"{row.budget:g}"
            cells = [budget, row.name, str(row.samples or "-"), f"{row.measured:.2g}", f"{worst:.3g}", f"{angle:.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _about(one: Seen) -> list[str]:
    compared = "all" if one.entries == one.parameters else f"{one.entries} drawn at random"
    lines = [f"{one.parameters:,} parameters, {compared} compared; a gradient takes {one.gradient_ms:.3g} ms."]
    if one.missed is not None:
        how = "as the mean of draws, " if one.estimated else ""
        lines.append(
            f"Gauss-Newton misses {one.missed:.1%} of the diagonal ({how}the norm of the difference over that of the "
            f"Hessian's; cosine {one.cosine:.3f})."
        )
    else:
        lines.append(f"There is no Gauss-Newton matrix here: {one.why}.")
    return lines


def document(args: Namespace, seen: list[Seen]) -> dict[str, Any]:
    """The same for programs."""
    return {"schema_version": 1, "task": args.task, "looks": [asdict(one) for one in seen]}


if __name__ == "__main__":
    run_command(main)

"""`python -m tuner.list [NAME]`: which tasks, optimizers, estimators and suites there are, and what one of them is."""

from __future__ import annotations

import json
from pathlib import Path

from tuner.config.modules import check_configs
from tuner.console import catalogue, completion, listing
from tuner.console.completion import complete
from tuner.console.parsing import Parser, run_command
from tuner.errors import DONE


def make_parser() -> Parser:
    parser = Parser("tuner.list", "Which tasks, optimizers, estimators and suites there are, and what one of them is.")
    add = parser.add_argument
    kinds = ", ".join(catalogue.KINDS)
    what = add("what", nargs="?", metavar="NAME", help=f"{kinds}; or a task, an optimizer or a suite, shown whole")
    complete(what, completion.names)
    add("--preset", help="of tasks: the only one shown in the table, or whose values are shown")
    add("--configs", metavar="DIR", type=Path, help="your own folder with optimizers/, tasks/ and defaults.yaml")
    add("--json", action="store_true", help="print one JSON document instead")
    add("-v", "--verbose", action="store_true", help="tracebacks")
    return parser


def main(argv: list[str]) -> int:
    args = make_parser().parse(argv)
    if args.configs is not None:
        check_configs(args.configs)
    found = catalogue.document(args.what, args.configs, args.preset)
    if args.json:
        print(json.dumps(found, indent=2, allow_nan=False))
    else:
        listing.show(found)
    return DONE


if __name__ == "__main__":
    run_command(main)

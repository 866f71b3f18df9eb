"""`tuner COMMAND`: one command with all the others in it; `python -m tuner.COMMAND` is the same."""

# PYTHON_ARGCOMPLETE_OK: a shell in which argcomplete is activated for all commands looks for this.

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module

from tuner.console import completion
from tuner.console.parsing import Parser, run_command
from tuner.errors import UserError, nearest
from tuner.version import VERSION

COMMANDS = {
    "search": "search each optimizer's hyperparameters, retrain the best over seeds, write it all down",
    "retrain": "train a run's best hyperparameters over more evaluation seeds",
    "report": "compare the optimizers of one or several runs: one self-contained report.html",
    "status": "how a run is getting on, or what became of it",
    "list": "tasks, optimizers, estimators and suites that there are",
    "curvature": "what estimators of the Hessian's diagonal are worth on a task's network in training",
}
"""Modules of this package."""


def make_parser() -> Parser:
    """With the parsers of all commands, which the shell's completion looks into."""
    parser = overview()
    commands = parser.add_subparsers(dest="command", parser_class=argparse.ArgumentParser)
    for name in COMMANDS:
        of_command = import_module(f"tuner.{name}").make_parser()
        commands.add_parser(name, parents=[of_command], add_help=False)
    return parser


def overview() -> Parser:
    """The command without the others."""
    listed = "\n".join(f"  {name:9}  {what}" for name, what in COMMANDS.items())
    parser = Parser("tuner", f"Tunes and benchmarks neural-network optimizers.\n\n{listed}\n\n"
                    "`tuner COMMAND --help` says more of each.")  # fmt: skip
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = "tuner COMMAND ..."
    parser.add_argument("--version", action="version", version=f"tuner {VERSION}")
    return parser


def command(argv: list[str]) -> int:
    """Do what the first word says with the others.

    Raises:
        UserError: there is no such command.
    """
    name = argv[0] if argv else "--help"
    if name in COMMANDS:
        run: Callable[[list[str]], int] = import_module(f"tuner.{name}").main
        return run(argv[1:])
    if not name.startswith("-"):
        raise UserError(f"unknown command {name!r}{nearest(name, COMMANDS)}")
    overview().parse(argv or ["--help"])
    return 0


def main() -> None:
    """The installed command ``tuner``. Modules are found in the working directory, too, as ``python -m`` finds them."""
    completion.answer(make_parser)
    sys.path.insert(0, "")
    run_command(command)


if __name__ == "__main__":
    run_command(command)

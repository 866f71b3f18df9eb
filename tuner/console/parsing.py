"""Parsing is what the commands share: arguments, one-line errors, exit codes."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tuner import text
from tuner.config.modules import check_own_packages
from tuner.errors import CHANGED_CODE, DONE, INTERRUPTED, NOTHING, PARTLY, USAGE, MachineError, UserError, nearest
from tuner.machine import process_environment, streams
from tuner.machine.invocation import program
from tuner.machine.signals import interruption


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line that name the nearest valid flag."""

    def __init__(self, module: str, description: str) -> None:
        super().__init__(prog=program(module), description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(message)

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """
        Raises:
            UserError: in place of argparse's own exit.
        """
        flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        for word in argv:
            flag = word.partition("=")[0]
            if flag.startswith("--") and flag not in flags:
                raise UserError(f"unknown argument {word!r}{nearest(flag, flags)}")
        args, unknown = self.parse_known_args(argv)
        if unknown:
            raise UserError(f"unknown argument {unknown[0]!r}")
        for action in self._actions:
            if action.nargs is None and getattr(args, action.dest, None) == []:  # argparse drops it from --flag=--
                raise UserError(f"argument {action.option_strings[0]}: '--' is no value")
        return args


def add_run(parser: Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run directory")


def add_output_flags(parser: Parser) -> None:
    parser.add_argument("--no-report", action="store_true", help="write no report.html at the end")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    add_volume_flags(parser, verbose="logs of Ray and its workers; tracebacks")


def add_volume_flags(parser: Parser, *, verbose: str) -> None:
    """
    Args:
        verbose: what -v shows.
    """
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-q", "--quiet", action="store_true", help="no progress")
    volume.add_argument("-v", "--verbose", action="store_true", help=verbose)


RETRAINING_KEYS = {
    "studies": "search.studies", "max_concurrent": "resources.max_concurrent", "cohort": "resources.cohort",
    "analyze_curvature": "retrain.analyze_curvature", "keep_weights": "retrain.keep_weights",
    "until": "report.until",
}  # fmt: skip
"""Flags that a search and a retraining have in common -> the keys of the configuration that they set."""


def given(args: argparse.Namespace, keys: Mapping[str, str]) -> dict[str, Any]:
    """Keys of the configuration, by the flags that set them, with the values that were given; and the seeds'."""
    flags = {key: value for flag, key in keys.items() if (value := getattr(args, flag)) is not None}
    return flags | ({} if args.seeds is None else {"retrain.seeds": parse_seeds(args.seeds)})


def add_retraining_flags(parser: Parser) -> None:
    """Those with which a search and a retraining alike say how, and on what, winners are retrained."""
    add = parser.add_argument
    add(
        "--seeds",
        metavar="N|a,b,c",
        help="evaluation seeds of each study: 0 to N-1, or a list (a single seed: 'a,'); those of a run stay",
    )
    add(
        "--studies",
        type=int,
        metavar="R",
        help="independent searches of each optimizer, each with a winner of its own; a verdict on optimizers wants 3 "
        "or more",
    )
    add(
        "--until",
        metavar="decided",
        help="look at the comparison now and then (report.looks), and end what is decided; --studies, or with one "
        "study --seeds, is the most that there may be",
    )
    add("--max-concurrent", type=int, metavar="K", help="training runs at once; 1 makes a search repeatable")
    add("--cohort", type=cohort_size, metavar="auto|M", help="runs trained as one stacked model; 1: one at a time")
    add(
        "--analyze-curvature",
        type=analysis_period,
        metavar="every=K",
        help="of each retraining run: the loss's Hessian at evaluations 0, K, 2K, ... and the last",
    )
    add("--keep-weights", action="store_true", default=None, help="of each retraining run, in weights/ (safetensors)")
    add(CHANGED_CODE, action="store_true", help="go on though code has changed; rows made from now on are marked")


def parse_seeds(text: str) -> int | list[int]:
    """``N``, a number of seeds, or ``a,b,c``, the seeds themselves."""
    try:
        return [int(seed) for seed in text.split(",") if seed.strip()] if "," in text else int(text)
    except ValueError:
        raise UserError(f"--seeds {text}: expected a number N, or a list a,b,c") from None


def cohort_size(text: str) -> int | str:
    """``auto``, or a number of runs."""
    if text == "auto" or (text.isdecimal() and int(text) >= 1):
        return text if text == "auto" else int(text)
    raise argparse.ArgumentTypeError(f"expected auto, or a whole number of at least 1, got {text!r}")


def analysis_period(text: str) -> int:
    """K of ``every=K``."""
    key, _, number = text.partition("=")
    if key == "every" and number.isascii() and number.isdecimal() and 1 <= int(number[:20]) < 2**63:
        return int(number[:20])
    raise argparse.ArgumentTypeError(f"expected every=K, K a whole number of at least 1, got {text!r}")


def prepare_process() -> None:
    """Give this process what libraries expect.

    Raises:
        UserError: it has no working directory, or something hides our packages.
    """
    check_working_directory()
    check_own_packages()
    process_environment.prepare()


def check_working_directory() -> None:
    """
    Raises:
        UserError: it has been deleted.
    """
    try:
        os.getcwd()  # noqa: PTH109
    except OSError:
        raise UserError("the working directory does not exist any more; change to another one") from None


def check_utf8(argv: Sequence[str]) -> None:
    """Refuse an argument or a working directory that is not UTF-8, as what Ray tells its workers must be.

    Raises:
        UserError: with the remedy.
    """
    for what, name in [*(("argument", word) for word in argv), ("working directory", os.getcwd())]:  # noqa: PTH109
        if name.isascii() or name.encode(errors="ignore").decode() == name:
            continue
        encoding = sys.getfilesystemencoding()
        locale = "" if encoding == "utf-8" else f", or Python takes it for {encoding}: set PYTHONUTF8=1"
        raise UserError(f"{what} {name!r}: is not UTF-8{locale}")


def run_command(main: Callable[[list[str]], int], argv: list[str] | None = None) -> NoReturn:
    """Call ``main``, turn its errors into one line and an exit code, and leave."""
    argv = sys.argv[1:] if argv is None else argv
    streams.prepare()
    interruption.install()
    code = _code(main, argv)
    sys.stdout.flush()
    interruption.leave(code)
    sys.exit(_shown(code))


def _code(main: Callable[[list[str]], int], argv: list[str]) -> int:
    try:
        prepare_process()
        return main(argv)
    except UserError as error:
        return _complain(str(error), argv, USAGE)
    except MachineError as error:
        return _complain(str(error), argv, NOTHING)
    except OSError as error:
        return _complain(text.refusal(error), argv, NOTHING)
    except KeyboardInterrupt:
        interruption.say()
        return INTERRUPTED
    except SystemExit as leave:  # of argparse, after --help
        return leave.code if isinstance(leave.code, int) else DONE
    except Exception as error:
        return _complain(f"{text.fault(error)} (a fault of the program; -v shows where)", argv, NOTHING)


def _shown(code: int) -> int:
    """The exit code, where perhaps not all could be printed."""
    lost = streams.lost_stdout()
    if lost is None:
        return code
    if lost.errno == errno.EBADF:
        print("stdout is closed: what would stand there is not shown", file=sys.stderr)
        return code
    print(f"error: stdout: {lost.strerror}: not all that should stand there does", file=sys.stderr)
    return PARTLY if code == DONE else code


def _complain(message: str, argv: list[str], code: int) -> int:
    if "-v" in argv or "--verbose" in argv:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return code

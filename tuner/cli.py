"""What the commands share: arguments, one-line errors, exit codes."""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from tuner.errors import UserError, nearest

DONE, NOTHING, USAGE, PARTLY, INTERRUPTED = 0, 1, 2, 3, 130


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line that name the nearest valid flag."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=f"python -m {prog}", description=description, allow_abbrev=False)

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
        return args


def add_output_flags(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-q", "--quiet", action="store_true", help="no progress")
    volume.add_argument("-v", "--verbose", action="store_true", help="logs of Ray and its workers; tracebacks")


def hp_text(hp: Mapping[str, Any]) -> str:
    """Hyperparameters for a person: lr=0.001, square=9."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in hp.items()
    )


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


def run_command(main: Callable[[list[str]], int], argv: list[str] | None = None) -> NoReturn:
    """Call ``main``, turn its errors into one line and an exit code, and leave."""
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    try:
        code = main(argv)
        sys.stdout.flush()
    except UserError as error:
        code = _complain(str(error), argv, USAGE)
    except BrokenPipeError:
        # The reader of stdout left; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = DONE
    except OSError as error:
        code = _complain(f"{error.filename or 'a file'}: {error.strerror or error}", argv, NOTHING)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        code = _complain(f"{message} (a fault of the program; -v shows where)", argv, NOTHING)
    sys.exit(code)


def _complain(message: str, argv: list[str], code: int) -> int:
    if "-v" in argv or "--verbose" in argv:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return code

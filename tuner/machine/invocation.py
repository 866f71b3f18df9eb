"""An invocation is the line with which a person calls one of our commands from here."""

from __future__ import annotations

import shlex
import sys
from itertools import pairwise
from pathlib import Path


def command_line(module: str, *words: object) -> str:
    """``python -m module words`` for the shell, with the interpreter as it was named to start this command."""
    return shlex.join([_interpreter(), "-m", module, *map(str, words)])


def _interpreter() -> str:
    if not any(flag == "-m" and name.startswith("tuner.") for flag, name in pairwise(sys.orig_argv)):
        return "python"
    named = sys.orig_argv[0]
    plain = Path(named).with_name("python")  # of python3 beside it
    return str(plain) if "/" in named and plain.exists() and plain.samefile(named) else named

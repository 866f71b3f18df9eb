"""An invocation is the line with which a person calls one of our commands from here."""

from __future__ import annotations

import shlex
import shutil
import sys
from itertools import pairwise
from pathlib import Path


def command_line(module: str, *words: object) -> str:
    """``python -m module words`` for the shell, with the interpreter as it was named to start this command; ``tuner
    COMMAND words`` where that was."""
    script = _script()
    begin = [script, module.rpartition(".")[2]] if script else [_interpreter(), "-m", module]
    return shlex.join([*begin, *map(str, words)])


def program(module: str) -> str:
    """The same without its words, and without folders, for a line of help."""
    return f"tuner {module.rpartition('.')[2]}" if _script() else f"python -m {module}"


def _script() -> str | None:
    """The installed command ``tuner`` as it is to be named, where it was used to start this process."""
    named = sys.orig_argv[1] if len(sys.orig_argv) > 1 else ""
    if Path(named).name != "tuner":
        return None
    on_path = shutil.which("tuner")
    return "tuner" if on_path and Path(on_path).exists() and Path(on_path).samefile(named) else named


def _interpreter() -> str:
    if not any(flag == "-m" and name.partition(".")[0] == "tuner" for flag, name in pairwise(sys.orig_argv)):
        return "python"
    named = sys.orig_argv[0]
    plain = Path(named).with_name("python")  # of python3 beside it
    return str(plain) if "/" in named and plain.exists() and plain.samefile(named) else named

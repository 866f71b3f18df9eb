"""The environment of a process gets what libraries expect where it lacks it: in containers, for users whom the system
does not know, without a home that can be written."""

from __future__ import annotations

import getpass
import os

from tuner.config.modules import INSTALLED
from tuner.config.registry import ROOT


def prepare() -> None:
    """Set what is missing, for this process and those that it starts: a home, a user's name, folders to write in."""
    from tasks.user_folders import home, is_writable, scratch_directory  # once it is known to be ours

    if not os.environ.get("HOME"):
        os.environ.pop("HOME", None)
        os.environ["HOME"] = str(home() or scratch_directory())  # Ray cannot be imported without
    if not is_writable(home() or scratch_directory()):
        os.environ.setdefault("MPLCONFIGDIR", str(scratch_directory() / "matplotlib"))  # it would warn
    try:
        getpass.getuser()
    except (KeyError, OSError):  # PyTorch's compiler asks for it
        os.environ["USER"] = f"uid{os.getuid()}"


def module_path() -> str | None:
    """``PYTHONPATH`` with which a process that this one starts finds us where this one has; ``None`` if unset."""
    before = os.environ.get("PYTHONPATH")
    if any(folder == ROOT for folder in INSTALLED):
        return before
    return os.pathsep.join([str(ROOT), *([before] if before else [])])

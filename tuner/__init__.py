"""Tunes and benchmarks neural-network optimizers: ``search``, ``retrain``, and ``open`` what is there.

The functions are those of ``tuner.api``. They are imported when they are first asked for, and neither PyTorch nor Ray
with them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.api import best, open, retrain, search
    from tuner.errors import MachineError, UserError
    from tuner.result import Result
    from tuner.version import VERSION as __version__  # noqa: N811

__all__ = ["MachineError", "Result", "UserError", "__version__", "best", "open", "retrain", "search"]

_COMMANDS = ("search", "retrain")
"""Modules of these names are functions, too: see ``tuner.callable``."""
_PLACES = {
    "best": "api", "open": "api", "MachineError": "errors", "UserError": "errors", "Result": "result",
    "__version__": "version",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _COMMANDS:
        return import_module(f"tuner.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module 'tuner' has no attribute {name!r}")
    return getattr(import_module(f"tuner.{_PLACES[name]}"), "VERSION" if name == "__version__" else name)


def __dir__() -> list[str]:
    return __all__

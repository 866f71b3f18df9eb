"""A command's module can be called, so that ``tuner.search`` is the function, whoever has imported the module."""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A module that stands for the function of its name in ``tuner.api``."""

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return self._function()(*args, **keywords)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (self.__name__,)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return inspect.getdoc(self._function())

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())

    def _function(self) -> Any:
        api = import_module("tuner.api")  # which stands above the commands
        return getattr(api, self.__name__.rpartition(".")[2])


def make_callable(module: str) -> None:
    """Let ``tuner.api``'s function of this name be called by calling the module."""
    sys.modules[module].__class__ = CallableModule

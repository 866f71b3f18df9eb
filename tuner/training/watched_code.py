"""Code is watched: has a training run put other functions in the places of PyTorch's, ours or its task's?"""

from __future__ import annotations

import os
import sys
from itertools import chain
from operator import attrgetter, methodcaller
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch

from optimizers.stacking.joined import STEP_WRAPPER

OURS = ("tuner", "optimizers", "tasks")
WATCHED = (
    torch, torch.nn, torch.nn.functional, torch.nn.init, torch.nn.utils, torch.nn.utils.clip_grad, torch.autograd,
    torch.func, torch.linalg, torch.random, torch.optim, torch.optim.lr_scheduler,
)  # fmt: skip
NAMED = 3
"""So many changes are named, the others counted."""
DYNAMO = (f"torch{os.sep}_dynamo{os.sep}", f"torch{os.sep}_compile.py")
HEAP_TYPE, IMMUTABLE_TYPE = 1 << 9, 1 << 8
"""Flags of CPython's types: which are made by Python code, and which of all cannot be changed."""
ABSENT = object()
CODE, VALUES = attrgetter("__code__"), methodcaller("values")


class Code:
    """The functions of PyTorch, of this project and of a task, looked at for others put in their places.

    Args:
        task: a class; its module and those of its bases belong to them.
    """

    def __init__(self, task: type) -> None:
        names = [name for name in sys.modules if name.partition(".")[0] in OURS or name.startswith("torch.optim.")]
        names += [base.__module__ for base in task.__mro__[:-1]]
        modules = dict.fromkeys([*WATCHED, *(sys.modules[name] for name in names)])
        values = chain.from_iterable(vars(module).values() for module in modules)
        classes = dict.fromkeys(value for value in values if isinstance(value, type) and _mutable(value))
        self.owners = [*map(Owner, modules), *map(Owner, classes)]
        self._note()

    def _note(self) -> None:
        self.live = [vars(owner.owner) for owner in self.owners]
        self.functions = [function for owner in self.owners for function in owner.functions.values()]
        self.seen = self._look()

    def _look(self) -> tuple[list[int], list[CodeType]]:
        """All at once, in under a millisecond."""
        return list(map(id, chain.from_iterable(map(VALUES, self.live)))), list(map(CODE, self.functions))

    def changed(self) -> list[str]:
        """By their dotted names, those that are not what they were at the last look."""
        if self._look() == self.seen:
            return []
        names = [name for owner in self.owners for name in owner.changed()]
        self._note()
        return names


class Owner:
    """A module or a class with its functions."""

    def __init__(self, owner: ModuleType | type) -> None:
        self.owner = owner
        self._note()

    def _note(self) -> None:
        self.values = dict(vars(self.owner))  # holds them, so that an id remains theirs
        self.functions = {name: value for name, value in self.values.items() if isinstance(value, FunctionType)}
        self.codes = {name: function.__code__ for name, function in self.functions.items()}

    def changed(self) -> list[str]:
        """As ``Code.changed``."""
        names = self.values.keys() | vars(self.owner).keys()
        changed = sorted(name for name in names if self._rewritten(name) or self._replaced(name))
        self._note()
        return [f"{_path(self.owner)}.{name}" for name in changed]

    def _rewritten(self, name: str) -> bool:
        return name in self.functions and self.functions[name].__code__ is not self.codes[name]

    def _replaced(self, name: str) -> bool:
        before, now = self.values.get(name, ABSENT), vars(self.owner).get(name, ABSENT)
        if before is now:
            return False
        if before is ABSENT:
            if isinstance(self.owner, ModuleType):
                return False
            before = next((vars(base)[name] for base in self.owner.__mro__[1:] if name in vars(base)), ABSENT)
        before, now = _innermost(before), _innermost(now)
        return before is not now and not _of_dynamo(now) and any(map(_acts, (before, now)))


def _mutable(cls: type) -> bool:
    return bool(cls.__flags__ & HEAP_TYPE) and not cls.__flags__ & IMMUTABLE_TYPE


def _path(owner: ModuleType | type) -> str:
    return owner.__name__ if isinstance(owner, ModuleType) else f"{owner.__module__}.{owner.__qualname__}"


def _acts(value: Any) -> bool:
    return callable(value) or hasattr(value, "__get__")


def _of_dynamo(value: Any) -> bool:
    return isinstance(value, FunctionType) and any(part in value.__code__.co_filename for part in DYNAMO)


def _innermost(value: Any) -> Any:
    """A function without what PyTorch itself wraps around it."""
    while isinstance(value, FunctionType) and (value.__code__ is STEP_WRAPPER or _of_dynamo(value)):
        if not hasattr(value, "__wrapped__"):
            break
        value = value.__wrapped__
    return value


def listed(changes: list[str]) -> str:
    """The first few of them, and how many more there are."""
    more = len(changes) - NAMED
    return ", ".join(changes[:NAMED]) + (f" and {more} more" if more > 0 else "")

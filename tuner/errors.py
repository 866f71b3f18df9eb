"""Errors that a person can act on."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from tuner.text import line


class OneLineError(Exception):
    """An error whose message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(line(message))


class UserError(OneLineError):
    """Bad usage or configuration: one line that names what is wrong and what was expected. Exit code 2."""


class MachineError(OneLineError):
    """What this machine does not allow: one line that names the remedy. Exit code 1."""


def nearest(name: object, valid: Iterable[object]) -> str:
    """The end of a sentence about an unknown name: the nearest valid one, and all of them."""
    names = [str(v) for v in valid]
    if not names:
        return "; none are known"
    lowered = {n.lower(): n for n in reversed(names)}
    wrong = str(name).lower()
    swapped = [n for n in lowered if sorted(n) == sorted(wrong)]  # adma is adam, though adan is as close
    best = lowered[get_close_matches(wrong, swapped or lowered, n=1, cutoff=0.0)[0]]
    return f"; did you mean {best!r}? (valid: {', '.join(names)})"

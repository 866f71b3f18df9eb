"""Errors are one line that a person can act on; commands end with these exit codes."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from tuner.text import line

DONE, NOTHING, USAGE, PARTLY, INTERRUPTED = 0, 1, 2, 3, 130
CHANGED_CODE = "--allow-changed-code"
"""The flag with which a run goes on by other code than it was begun with."""
PLAUSIBLE = 0.5
"""The share of characters that two names have in common, in their order, from which one may be meant by the other."""


class OneLineError(Exception):
    """An error whose message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(line(message))


class UserError(OneLineError):
    """Bad usage or configuration: one line that names what is wrong and what was expected. Exit code 2."""


class MachineError(OneLineError):
    """What this machine does not allow: one line that names the remedy. Exit code 1."""


def nearest(name: object, valid: Iterable[object]) -> str:
    """The end of a sentence about an unknown name: the nearest valid one, where one is near, and all of them."""
    names = [str(v) for v in valid]
    if not names:
        return "; none are known"
    lowered = {n.lower(): n for n in reversed(names)}
    wrong = str(name).lower()
    swapped = [n for n in lowered if sorted(n) == sorted(wrong)]  # adma is adam, though adan is as close
    close = get_close_matches(wrong, swapped, n=1, cutoff=0.0) or get_close_matches(
        wrong, lowered, n=1, cutoff=PLAUSIBLE
    )
    meant = f"; did you mean {lowered[close[0]]!r}? (" if close else " ("
    return f"{meant}valid: {', '.join(names)})"

"""Warnings that a task or an optimizer raises in the preflight become lines for a person."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from tuner.text import line

FOR_A_PERSON = (UserWarning, RuntimeWarning)
"""Others are for those who write the code: what is deprecated, or not closed."""
LENGTH = 300


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """The list has, after the block, each distinct warning once, as a line of at most ``LENGTH`` characters."""
    lines: list[str] = []
    with warnings.catch_warnings(record=True) as raised:
        for category in FOR_A_PERSON:
            warnings.simplefilter("default", category)
        yield lines
    lines += dict.fromkeys(line(each.message, LENGTH) for each in raised if issubclass(each.category, FOR_A_PERSON))

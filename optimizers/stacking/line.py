"""A recorded operation, as a line of Python."""

from __future__ import annotations

from typing import Any, NamedTuple


class Line(NamedTuple):
    """One operation.

    Attributes:
        call: what is called with what.
        results, sources: names of tensors.
        several: whether it returns a sequence.
        lasting: whether it has an effect beside its results.
        storages: numbers of those that it reads or makes.
        constants: its results, where they depend on no input.
        same: whether the result has the entries of the first source.
        over: what is called to write the result over a source; empty where it cannot be.
        under: that source.
    """

    call: str
    results: list[str]
    sources: list[str]
    several: bool
    lasting: bool
    storages: set[int]
    constants: list[Any] | None
    same: bool
    over: str
    under: str

"""A program that calls us adds to the flags of a command what flags cannot say: contents and objects, its own Ray."""

from __future__ import annotations

from dataclasses import dataclass, field

from tuner.config.registry import Given


@dataclass(frozen=True)
class Inside:
    """A Ray on this machine that the program has initialised, to work inside of.

    Attributes:
        address: where its GCS listens.
        cpus, gpus: how many are free in it.
    """

    address: str
    cpus: int
    gpus: int


@dataclass(frozen=True)
class Program:
    """What a program adds.

    Attributes:
        given: contents in place of YAML files.
        objects: what they name and carry by value: see ``tuner.config.carried``.
        python_path: folders where the modules of what was given are found.
        remarks: what was assumed of it, a line each.
        inside: the Ray that is joined where the flags name none.
    """

    given: Given = field(default_factory=dict)
    objects: bytes = b""
    python_path: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    inside: Inside | None = None


NO_PROGRAM = Program()
"""Of a command that a person types."""

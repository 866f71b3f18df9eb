"""Kept weights are the networks of complete retraining runs, a file each, as bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tuner.store.byte_folder import ByteFolder


class KeptWeights:
    """
    Args:
        path: of the folder, which is there while it has any.
    """

    def __init__(self, path: Path) -> None:
        self._files = ByteFolder(path, ".safetensors")

    def write(self, optimizer: str, seed: int, content: bytes | None) -> None:
        """Those of a run that is about to be recorded; if it has none, drop what one that was cut off has left."""
        if content is None:
            self._files.drop([_name(optimizer, seed)])
        else:
            self._files.write(_name(optimizer, seed), content)

    def read(self, optimizer: str, seed: int) -> bytes | None:
        """``None`` where they were not kept."""
        return next(iter(self._files.read([_name(optimizer, seed)]).values()), None)

    def file(self, optimizer: str, seed: int) -> Path:
        return self._files.file(_name(optimizer, seed))

    def forget(self, optimizer: str, seeds: Iterable[int]) -> None:
        """Drop those of some runs of an optimizer."""
        self._files.drop(_name(optimizer, seed) for seed in seeds)

    def lacking(self, rows: Iterable[Mapping[str, str]]) -> int:
        """How many complete runs, of these rows of seeds.csv, have none."""
        names = set(self._files.names())
        complete = (row for row in rows if row["status"] == "complete")
        return sum(_name(row["optimizer"], int(row["seed"])) not in names for row in complete)


def _name(optimizer: str, seed: int) -> str:
    return f"{optimizer}-{seed}"

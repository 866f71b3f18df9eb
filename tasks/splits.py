"""Which rows of a data set train, validate and test: fixed by the task, not by the seed."""

from __future__ import annotations

import numpy as np


def hold_out(labels: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to keep and to hold out: of each class the last ``share`` in the data's own order, at least one
    but never all.

    The same rows whatever the seed, and every class in the same proportion whether or not the rows are sorted by class.

    Raises:
        ValueError: no class has two rows.
    """
    held: list[np.ndarray] = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        held.append(rows[len(rows) - count :])
    out = np.sort(np.concatenate(held)) if held else np.array([], np.int64)
    if not len(out):
        raise ValueError(f"{len(labels)} rows are too few to split: no class has two")
    return np.setdiff1d(np.arange(len(labels)), out), out


def first_of_each_class(labels: np.ndarray, rows: int | None) -> np.ndarray:
    """Numbers of the first ``rows`` rows, taken from the classes in turn; of all where that is ``None`` or more."""
    if rows is None or rows >= len(labels):
        return np.arange(len(labels))
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        rank[own] = np.arange(len(own))
    return np.sort(np.lexsort((labels, rank))[:rows])


def in_turn(rows: int) -> dict[str, np.ndarray]:
    """Row numbers of each split: of every five rows three train, the fourth validates, the fifth tests."""
    place = np.arange(rows) % 5
    return {
        "train": np.flatnonzero(place < 3),
        "val": np.flatnonzero(place == 3),
        "test": np.flatnonzero(place == 4),
    }

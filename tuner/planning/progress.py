"""Progress says how far each optimizer is in each phase of a run, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.jobs import Phase

Key = tuple[str, str]
"""Phase and optimizer."""


@dataclass(frozen=True)
class Progress:
    """How far one optimizer is in one phase."""

    optimizer: str
    phase: Phase
    done: int
    total: int
    running: int
    diverged: int
    failed: int
    best: float | None = None


class Pace:
    """The time left, reckoned from the runs after the first that this command saw end, which waited for a worker."""

    def __init__(self, progress: Sequence[Progress]) -> None:
        self.before = {(p.phase, p.optimizer): p.done for p in progress}
        self.first: dict[Key, tuple[int, float]] = {}  # how many had ended, and when, at the first look that saw one

    def left_s(self, p: Progress) -> float | None:
        """To be called often; ``None`` as long as nothing can be said."""
        key = (p.phase, p.optimizer)
        if p.done == self.before.get(key, 0):
            return None
        done, since = self.first.setdefault(key, (p.done, time.monotonic()))
        return (time.monotonic() - since) / (p.done - done) * (p.total - p.done) if p.done > done else None

"""Progress says how far each optimizer is in each phase of a run, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.jobs import Phase

Key = tuple[str, str, str]
"""Run, phase and optimizer."""


@dataclass(frozen=True)
class Progress:
    """How far one optimizer is in one phase.

    Attributes:
        run_s: seconds that a training run is expected to take, or what stands for them: only its ratio to others
            counts.
        run: the run's name where a command works on several.
    """

    optimizer: str
    phase: Phase
    done: int
    total: int
    running: int
    diverged: int
    failed: int
    best: float | None = None
    run_s: float = 1.0
    run: str = ""

    @property
    def key(self) -> Key:
        return self.run, self.phase, self.optimizer


class Pace:
    """The time left, reckoned from the runs after the first that this command saw end, which waited for a worker."""

    def __init__(self, progress: Sequence[Progress]) -> None:
        self.before = {p.key: p.done for p in progress}
        self.first: dict[Key, tuple[int, float]] = {}  # how many had ended, and when, at the first look that saw one

    def left_s(self, p: Progress) -> float | None:
        """To be called often; ``None`` as long as nothing can be said."""
        if p.done == self.before.get(p.key, 0):
            return None
        done, since = self.first.setdefault(p.key, (p.done, time.monotonic()))
        return (time.monotonic() - since) / (p.done - done) * (p.total - p.done) if p.done > done else None


class WholePace:
    """The time left of all that a command does: what is done of the expected work, against the time that it took."""

    def __init__(self, progress: Sequence[Progress]) -> None:
        self.done_before = _work(progress, done=True)
        self.since = time.monotonic()

    def left_s(self, progress: Sequence[Progress]) -> float | None:
        """``None`` as long as nothing can be said."""
        done = _work(progress, done=True) - self.done_before
        left = _work(progress, done=False) - self.done_before - done
        return (time.monotonic() - self.since) / done * left if done > 0 else None


def _work(progress: Sequence[Progress], *, done: bool) -> float:
    """Expected seconds of what is done, or of all there is."""
    return sum(p.run_s * (p.done if done else p.total) for p in progress)

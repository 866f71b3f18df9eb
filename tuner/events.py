"""Events are what a command tells whoever listens while it works: a terminal, or a program that calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tuner.errors import INTERRUPTED, NOTHING, PARTLY
from tuner.planning.progress import Progress

EndState = Literal["ended", "interrupted", "halted", "lost"]


@dataclass(frozen=True)
class Event:
    """Anything that is told."""


@dataclass(frozen=True)
class WaitBegan(Event):
    """Nothing but trouble with Ray is to be told until ``WaitEnded``; ``what`` says what takes so long."""

    what: str


@dataclass(frozen=True)
class WaitEnded(Event):
    """What was waited for is there."""


@dataclass(frozen=True)
class Remark(Event):
    """A line about the command, of one of the kinds below."""

    text: str


class CodeRemark(Remark):
    """What is known, or not, of the code that a run was made by."""


class TaskWarning(Remark):
    """What the preflight has seen of the task or an optimizer, or was warned of."""


@dataclass(frozen=True)
class Expected(Event):
    """What is known of a run before it begins: how long it takes, how large cohorts are, what goes unsaved."""

    sentences: Sequence[str]


class LoanRemark(Remark):
    """Why something is not borrowed from another run, or how it differs."""


class TaskFailed(Remark):
    """A task of a suite cannot be trained; the others are."""


class ResourceWarning(Remark):
    """Training will be elsewhere, or take much longer, than was perhaps meant."""


class WeightsRemark(Remark):
    """Which of the weights that are to be kept there are not."""


class PreflightRemark(Remark):
    """What the preflight found before is taken as it was."""


class RayRemark(Remark):
    """How Ray's start is going."""


class RayLost(Remark):
    """Ray was lost before any work began."""


@dataclass(frozen=True)
class TrainingBegan(Event):
    """Jobs are given out from now on.

    Attributes:
        metric: the task's.
        progress: says how far each optimizer is, whenever it is asked.
        run: the run directory.
    """

    metric: str
    progress: Callable[[], Sequence[Progress]]
    run: Path


@dataclass(frozen=True)
class Progressed(Event):
    """A job has begun or ended, or a moment has passed."""


@dataclass(frozen=True)
class TrainingEnded(Event):
    """No job is given out any more."""


@dataclass(frozen=True)
class SearchAbandoned(Event):
    """All trials of an optimizer failed."""

    optimizer: str


@dataclass(frozen=True)
class WorkerReplaced(Event):
    """A worker's process could do no other job, as ``reason`` says."""

    reason: str


@dataclass(frozen=True)
class RunsFailed(Event):
    """Training runs failed, or their curvature could not be analysed.

    Attributes:
        first: the first of them.
        logs: where the others are.
    """

    what: Literal["training", "analysis of the curvature"]
    count: int
    first: str
    error: str
    logs: Path


class LookRemark(Remark):
    """What a look at the comparison has decided."""


class TrackerFailed(Remark):
    """A tracker is told no more; the run directory has everything. Told perhaps by another thread."""


class NotRecorded(Remark):
    """Something that trials.csv has could not be written elsewhere."""


class NotWritten(Remark):
    """A table or the report could not be written; a report can be made of the run at any time."""


@dataclass(frozen=True)
class Ended(Event):
    """How the work on a run ended.

    Attributes:
        state: by itself ("ended"), by a person or the system ("interrupted"), since something cannot be written
            ("halted"), or without Ray ("lost").
        reason: of the last two.
        run: the run directory.
        finished, total: training runs.
        some_valid: whether one of them did not fail.
    """

    state: EndState
    reason: str
    run: Path
    finished: int
    total: int
    some_valid: bool

    @property
    def exit_code(self) -> int:
        """Of a command whose work did not end by itself."""
        return INTERRUPTED if self.state == "interrupted" else PARTLY if self.some_valid else NOTHING


Listener = Callable[[Event], Any]

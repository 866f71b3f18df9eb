"""Messages travel between the driver and its workers: a request for jobs, and the reports on them. No Ray, no torch.

Tune carries dicts: ``to_dict`` and ``from_dict`` are the one place where these are made and read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tuner.jobs import Job, Outcome

EVALUATIONS = "evaluations"
"""The key of Tune's results that says how many evaluations after the first a run has had."""


@dataclass(frozen=True)
class Request:
    """What a worker is asked to do.

    Attributes:
        jobs: a cohort, of one optimizer.
        alone: whether they may have all of the device's memory, since nothing else runs meanwhile.
        checkpoints: states to go on from, by their names, or references to them; ``None`` where none are to be made.
        run: whose jobs they are: see ``Plan.key``.
    """

    jobs: Sequence[Job]
    alone: bool = False
    checkpoints: Mapping[str, Any] | None = field(default_factory=dict)
    run: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The configuration of a trial of Tune."""
        jobs = [job.to_dict() for job in self.jobs]
        return {"jobs": jobs, "alone": self.alone, "checkpoints": self.checkpoints, "run": self.run}

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Request:
        """The request that a trial's configuration is."""
        return cls([Job(**job) for job in config["jobs"]], config["alone"], config["checkpoints"], config["run"])


@dataclass(frozen=True)
class TaskSummary:
    """What env.json says of the data and the network, the same in every worker, and of what it is on.

    Attributes:
        gpu: its model, empty where it is on a CPU.
    """

    data: dict[str, Any]
    parameters: int
    device: str
    gpu: str = ""


@dataclass(frozen=True)
class Report:
    """What a worker says of the jobs of a request, by their index among these.

    Attributes:
        outcomes: of the jobs that have ended since the report before.
        if_stopped: the outcome that a single job would have if it was stopped now.
        checkpoint: the indices of jobs that train as one, and the state from which they can go on.
        value: the task's metric of the ``latest`` outcome.
        task: what the worker trains on, once it has loaded it.
        worker_unusable: why the process may do no other job; empty while it may.
        begins: whether the time limit counts from now.
        retires: whether another worker is to do the jobs that are left.
        singly: whether it is then to do each for itself, since one of them may be at fault.
        done: whether all jobs have ended.
    """

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    if_stopped: dict[int, Outcome] = field(default_factory=dict)
    checkpoint: tuple[list[int], bytes] | None = None
    value: float | None = None
    task: TaskSummary | None = None
    worker_unusable: str = ""
    begins: bool = False
    retires: bool = False
    singly: bool = False
    done: bool = False

    def at(self, indices: list[int]) -> Report:
        """The same report, of jobs that have these indices among more."""
        return replace(
            self,
            outcomes={indices[member]: outcome for member, outcome in self.outcomes.items()},
            if_stopped={indices[member]: outcome for member, outcome in self.if_stopped.items()},
            checkpoint=self.checkpoint and (indices, self.checkpoint[1]),
        )

    @property
    def latest(self) -> Outcome | None:
        """The outcome that a scheduler compares: of the first job that has ended, or of one that could be stopped."""
        return next(iter([*self.outcomes.values(), *self.if_stopped.values()]), None)

    @property
    def ended(self) -> dict[int, Outcome]:
        """The outcomes, with those of a job that a scheduler stopped."""
        return self.outcomes or (self.if_stopped if self.done else {})

    def to_dict(self) -> dict[str, Any]:
        """A result for Tune, with what its schedulers read."""
        evaluations = len(self.latest.evaluations) - 1 if self.latest else None  # the first is before training
        return {"report": self, "value": self.value, EVALUATIONS: evaluations, "done": self.done}

    @classmethod
    def taken_from(cls, result: dict[str, Any]) -> Report:
        """Take the report out of a result, so that Tune does not keep it. A scheduler's decision may be ``done``."""
        return replace(result.pop("report"), done=bool(result.get("done")))

"""A backend is one kind of tracker; this is what it is told of a training run that has ended. No torch.

Another tracker is another ``Backend``, in a module beside this one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tuner.jobs import EvaluationRecord, Job, Outcome
from tuner.store.tables import hp_columns


@dataclass(frozen=True)
class Point:
    """What is known of a step. ``at`` is in seconds since the epoch."""

    step: int
    at: float
    values: dict[str, float]


@dataclass(frozen=True)
class Ended:
    """A training run that has ended.

    Attributes:
        label: for a directory; a job that is done again has the same.
        settings: task, optimizer, study, phase, trial and seed, then the hyperparameters as ``hp.<name>``.
        tags: state and error.
        points: evaluations, as ``<split>/<metric>``, what the optimizer says of itself as ``train/<name>``, and
            ``clock/<name>``; then, once more at the last step, how it ended: the metrics, those of a diverged run the
            task's worst, and the clocks as ``final/<name>``. Numbers that are not finite are left out.
    """

    name: str
    label: str
    failed: bool
    began: float
    ended: float
    settings: dict[str, Any]
    tags: dict[str, str]
    points: list[Point]


def describe(task: str, job: Job, outcome: Outcome, ended: float) -> Ended:
    """What backends are told of a job that ended then."""
    last = outcome.evaluations[-1] if outcome.evaluations else EvaluationRecord(0, 0.0, 0.0, 0.0, {})
    began = ended - outcome.clocks.get("seconds", last.seconds)
    points = [Point(e.step, began + e.seconds, _finite(_named(e))) for e in outcome.evaluations]
    final = {f"final/{name}": value for name, value in (outcome.metrics | outcome.clocks).items()}
    identity = {"task": task, "optimizer": job.optimizer, "study": job.study, "phase": job.phase, "trial": job.trial}
    identity |= {"seed": job.seed}
    of_study = f"study-{job.study}-" if job.study else ""
    number = f"{of_study}{job.trial}" if job.phase == "search" else job.seed
    return Ended(
        str(job), f"{job.phase}-{job.optimizer}-{number}",
        outcome.state == "failed", began, ended,
        settings=identity | hp_columns(job.hp),
        tags={"state": outcome.state, "error": outcome.error[:1000]},
        points=[*points, Point(last.step, ended, _finite(final))],
    )  # fmt: skip


def _named(evaluation: EvaluationRecord) -> dict[str, float]:
    metrics = {name.replace("_", "/", 1): value for name, value in evaluation.metrics.items()}
    diagnostics = {f"train/{name}": value for name, value in evaluation.diagnostics.items()}
    clocks = {"epoch": evaluation.epoch, "seconds": evaluation.seconds, "grad_equivalents": evaluation.grad_equivalents}
    return metrics | diagnostics | {f"clock/{name}": value for name, value in clocks.items()}


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


class Backend(ABC):
    """One kind of tracker. One thread makes and calls it; it may be slow, and what it raises ends it.

    A training run that is recorded again, by a later process too, must not be mixed with the earlier record.
    """

    package: ClassVar[str]

    @abstractmethod
    def __init__(self, directory: Path) -> None: ...

    @abstractmethod
    def record(self, run: Ended) -> None: ...

"""A job is one training run to do, an outcome what became of it: driver, workers and trackers speak of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from tuner import text

Phase = Literal["search", "retrain"]
State = Literal["complete", "diverged", "failed", "stopped"]


@dataclass(frozen=True)
class Job:
    """One training run to do.

    Attributes:
        trial: the Optuna number within the study; in a retrain that of the best trial.
        study: which of the optimizer's independent searches it belongs to, from 0.
    """

    phase: Phase
    optimizer: str
    trial: int
    seed: int
    hp: dict[str, Any]
    study: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if self.phase == "retrain":
            return f"{self.optimizer} seed {self.seed}"
        return f"{self.optimizer} {trial_text(self.study, self.trial)}"


def trial_text(study: int, trial: int) -> str:
    """Which of an optimizer's trials it is, for a person and for files; those of study 0 go without its number."""
    return f"study {study} trial {trial}" if study else f"trial {trial}"


@dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation of a training run, as it travels and is written down.

    Attributes:
        epoch: the passes over the training rows until then, a fraction in between.
        metrics: ``<split>_<name>`` -> value.
        diagnostics: what the optimizer says of itself.
        curvature: quantity, index, value, and its place on the horizontal axis, of what was analysed.
        unanalyzed: why that is not all, in a line.
    """

    step: int
    epoch: float
    seconds: float
    grad_equivalents: float
    metrics: dict[str, float]
    diagnostics: dict[str, float] = field(default_factory=dict)
    curvature: Sequence[tuple[str, int, float, float | None]] = ()
    unanalyzed: str = ""

    def cleaned(self) -> EvaluationRecord:
        """The same evaluation with names and lines that can be written down."""
        return replace(
            self,
            metrics=text.named(self.metrics),
            diagnostics=text.named(self.diagnostics),
            unanalyzed=text.line(self.unanalyzed),
        )


@dataclass
class Outcome:
    """What became of a job. What its code has said, in errors or as names, is clean from here on.

    Attributes:
        state: "complete"; "diverged", with the task's worst values as metrics; "failed", with an error and no
            metrics; or "stopped" by the scheduler before its budget was spent.
        metrics: ``<split>_<name>`` -> value at the end.
        clocks: steps, grad_equivalents (counted, and nominal_), seconds and peak_mem_mb; empty where the worker was
            lost.
        evaluations: in the order of their steps.
        error: one line, of a failed run, and of a diverged one, what was not finite or beyond the bound.
        traceback: the worker's.
        cohort: how many jobs trained as one stack with it, itself included.
        out_of_memory: whether that is why it failed.
        weights: of a complete retraining run, where they are kept: the bytes of a safetensors file.
    """

    state: State
    metrics: dict[str, float] = field(default_factory=dict)
    clocks: dict[str, float] = field(default_factory=dict)
    evaluations: list[EvaluationRecord] = field(default_factory=list)
    error: str = ""
    traceback: str = ""
    cohort: int = 1
    out_of_memory: bool = False
    weights: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.error, self.traceback = text.line(self.error), text.log(self.traceback)
        self.metrics = text.named(self.metrics)
        self.evaluations = [evaluation.cleaned() for evaluation in self.evaluations]


Done = Sequence[tuple[Job, Outcome]]
"""Jobs that ended together, with what became of them."""


def checkpoint_name(jobs: Sequence[Job]) -> str:
    """Of the file that holds the state of jobs that train as one, or of a single one: the first one's."""
    return str(jobs[0]).replace(" ", "-")

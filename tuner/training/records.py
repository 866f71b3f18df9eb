"""Records of training say how long and how often, what an evaluation found, how a run ended, and its state on the
way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from tasks.base import Task

Status = Literal["complete", "diverged"]

Finding = tuple[str, int, float, float | None]
"""A quantity of the curvature, which of several, its value, and where that lies on an axis, if it does."""

Analyze = Callable[[Task, nn.Module, Any], tuple[list[Finding], str]]
"""What is known of the curvature of a network in training, with its optimizer; and why not all, in a line."""


@dataclass(frozen=True)
class Budget:
    """How long to train and how often to evaluate.

    Attributes:
        epochs: passes over the training rows.
        evaluations: evaluations after the first step's, equally spaced, the last one at the end.
        test: whether to evaluate the test split, once, at the end.
        analyze_every: K, to analyse the loss's curvature at evaluations 0, K, 2K, ... and the last; ``None`` for never.
        analyze: what then does so.
        keep_weights: whether a complete run's result has its weights.
    """

    epochs: int
    evaluations: int = 10
    test: bool = False
    analyze_every: int | None = None
    analyze: Analyze | None = None
    keep_weights: bool = False

    def analysis_at(self, evaluation: int, last: int) -> Analyze | None:
        """What analyses the curvature at an evaluation, of 0 to ``last``; ``None`` where it is not analysed."""
        if self.analyze_every is None or (evaluation % self.analyze_every and evaluation != last):
            return None
        return self.analyze


@dataclass(frozen=True)
class Evaluation:
    """A run at one step: the clocks, the metrics, named ``<split>_<metric>``, and what the optimizer says of itself.

    Attributes:
        curvature: what an analysis found, see ``Finding``.
        unanalyzed: why it did not find all, in a line.
    """

    step: int
    epoch: float
    seconds: float
    grad_equivalents: float
    metrics: dict[str, float]
    diagnostics: dict[str, float]
    curvature: list[Finding] = field(default_factory=list)
    unanalyzed: str = ""


@dataclass
class Clocks:
    """Steps; gradient-equivalents, by counted FLOPs and by nominal costs; seconds of training (evaluation not counted,
    the device synchronised); and the peak memory in MB."""

    steps: int = 0
    grad_equivalents: float = 0.0
    nominal_grad_equivalents: float = 0.0
    seconds: float = 0.0
    peak_mem_mb: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """All that a run, or a stack, needs to go on later to the same numbers.

    Attributes:
        state: plain values and tensors, some of them the run's own: to be written down before the run goes on.
    """

    state: dict[str, Any]


@dataclass(frozen=True)
class Saving:
    """Where a run begins and how often it pauses for a ``Snapshot``.

    Attributes:
        state: a snapshot's; ``None`` for the beginning.
        every_s: seconds between snapshots; ``None`` for none.
    """

    state: dict[str, Any] | None = None
    every_s: float | None = None


NEVER = Saving()


class NotRestoredError(Exception):
    """A run cannot go on from this state: it is of something else."""


@dataclass(frozen=True)
class Result:
    """How a run ended. A diverged run has the task's worst values as its metrics.

    Attributes:
        cohort: how many members trained in lockstep with it, itself included.
        why: of a diverged run: what was not finite, or beyond the bound, its value, and the step.
        weights: of a complete run, where they are kept: those that its last evaluation saw; see ``weights.weights_of``.
    """

    status: Status
    metrics: dict[str, float]
    clocks: Clocks = field(default_factory=Clocks)
    cohort: int = 1
    why: str = ""
    weights: dict[str, Tensor] | None = None

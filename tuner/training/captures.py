"""What a task's runs and stacks capture as CUDA graphs, and what was found not to be captured."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from optimizers.stacking.capture import COMPARED, WARM, Captures
from tasks.base import Task
from tuner.training.engine import Engine

WHY_NOT: WeakKeyDictionary[Task, dict[str, str]] = WeakKeyDictionary()
"""For the next runs of a task."""

RECHECKED_EVALUATIONS = {1, 2, 5, 10, 20, 50, 100}
"""Evaluations after which replays are compared with what they stand for: a loss may come to depend on the epoch."""

UNSETTLED_RUN = WARM + COMPARED + 3
UNSETTLED_STACK = UNSETTLED_RUN + 3
"""Steps of a kind before those that are replayed and not compared: a stack's are recorded first, and an optimizer has
all its states after two or three."""


def captures_of(task: Task, engine: Engine) -> Captures | None:
    """Those of a new run or stack; ``None`` where nothing is captured."""
    if engine.capture == "off" or engine.compile or task.device.type != "cuda":
        return None
    return Captures(type(task).__name__, task.device, WHY_NOT.setdefault(task, {}))

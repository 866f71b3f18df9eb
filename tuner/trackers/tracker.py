"""A tracker tells TensorBoard, MLflow or Weights & Biases, chosen by name, of training runs that have ended. No torch.

The run directory is the record, a tracker a view of it whose faults stop nobody.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from concurrent.futures import wait
from typing import Any

from tuner import text
from tuner.config.schema import Config
from tuner.errors import UserError
from tuner.jobs import Job, Outcome
from tuner.store.background import BackgroundThread
from tuner.store.run import Run
from tuner.trackers.backend import Backend, describe
from tuner.trackers.mlflow import MLflow
from tuner.trackers.tensorboard import TensorBoard
from tuner.trackers.wandb import WandB

PATIENCE_S = 30.0
"""How long the end of a run waits for a tracker."""
BACKENDS: dict[str, type[Backend]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}
TRACKERS = tuple(BACKENDS)


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


class Tracker:
    """Tells a backend, made by ``make``, of training runs that have ended, in a thread; its first fault is its end.

    Args:
        on_fault: is given a line on what goes wrong, at most one, perhaps in that thread.
    """

    def __init__(
        self, name: str, task: str, make: Callable[[], Backend], on_fault: Callable[[str], object] = to_stderr
    ) -> None:
        self.name, self.task, self.on_fault = name, task, on_fault
        self._submitted = self._recorded = 0
        self._ended = False  # by a fault, or closed
        self._background = BackgroundThread()
        self._latest = self._background.submit(self._until_fault, self._open, make)

    def record(self, job: Job, outcome: Outcome) -> None:
        """Tell of one training run. Returns at once."""
        if not self._ended:
            self._submitted += 1
            self._latest = self._background.submit(self._until_fault, self._record, job, outcome, time.time())

    def close(self) -> None:
        """Wait until all is told, or say how much is not."""
        self._background.shutdown()
        wait([self._latest], 0 if self._ended else PATIENCE_S)
        if not self._latest.done() and not self._ended:
            untold = f"{self._submitted - self._recorded} of {self._submitted} training runs"
            self._say(f"{untold} not told after {PATIENCE_S:g} s")
        self._ended = True

    def _open(self, make: Callable[[], Backend]) -> None:
        self._backend = make()

    def _record(self, job: Job, outcome: Outcome, ended: float) -> None:
        self._backend.record(describe(self.task, job, outcome, ended))
        self._recorded += 1

    def _until_fault(self, do: Callable[..., None], *args: Any) -> None:
        try:
            if not self._ended:
                do(*args)
        except BaseException as fault:  # whatever a library raises in a thread
            if not self._ended:
                self._say(text.line(text.fault(fault), 300))
                self._ended = True

    def _say(self, what: str) -> None:
        self.on_fault(f"tracker {self.name}: {what}; the run directory has everything")


def check(name: str) -> None:
    """Refuse a tracker whose package is not installed. Imports nothing.

    Raises:
        UserError: so it is.
    """
    package = BACKENDS[name].package
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:  # a mere folder of that name, as wandb leaves behind, has no origin
        raise UserError(f"--tracker {name}: {package} is not installed; pip install {package}")


def make_tracker(name: str, run: Run, config: Config, on_fault: Callable[[str], object] = to_stderr) -> Tracker:
    """A tracker that ``check`` lets pass."""
    directory = run.path.resolve()
    return Tracker(name, config.task.name, lambda: BACKENDS[name](directory), on_fault)

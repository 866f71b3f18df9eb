"""Trackers: training runs that have ended, told to TensorBoard, MLflow or Weights & Biases too. No torch.

The run directory is the record, a tracker a view of it whose faults stop nobody. Another one is another ``Backend``.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import re
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar

from tuner import text
from tuner.config.schema import Config
from tuner.errors import UserError
from tuner.jobs import EvaluationRecord, Job, Outcome
from tuner.store.run import Run
from tuner.store.tables import hp_columns

PATIENCE_S = 30.0
"""How long the end of a run waits for a tracker."""


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
        settings: task, optimizer, phase, trial and seed, then the hyperparameters as ``hp.<name>``.
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
    identity = {"task": task, "optimizer": job.optimizer, "phase": job.phase, "trial": job.trial, "seed": job.seed}
    return Ended(
        str(job), f"{job.phase}-{job.optimizer}-{job.trial if job.phase == 'search' else job.seed}",
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


class TensorBoard(Backend):
    """Event files, a directory per training run and attempt: ``tensorboard --logdir RUN/tensorboard``."""

    package = "tensorboardX"

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "tensorboard"
        with _without_torch():
            # Its SummaryWriter keeps a thread, a queue and an exit handler for each training run.
            self.writer = importlib.import_module("tensorboardX.event_file_writer").EventsWriter
        self.event = importlib.import_module("tensorboardX.proto.event_pb2").Event
        self.proto = importlib.import_module("tensorboardX.proto.summary_pb2")
        self.hparams = importlib.import_module("tensorboardX.proto.plugin_hparams_pb2")
        self.status = importlib.import_module("tensorboardX.proto.api_pb2").Status

    def record(self, run: Ended) -> None:
        value = self.proto.Summary.Value
        events = [
            (point.step, point.at, [value(tag=name, simple_value=v) for name, v in point.values.items()])
            for point in run.points
        ]
        writer = self.writer(str(self._new_directory(run.label) / "events"))
        try:
            for step, at, values in [(0, run.began, self._for_hparams(run)), *events]:
                writer.write_event(self.event(wall_time=at, step=step, summary=self.proto.Summary(value=values)))
        finally:
            writer.close()

    def _for_hparams(self, run: Ended) -> list[Any]:
        """For the HPARAMS tab, which finds the columns itself as long as no file declares an experiment."""
        start = self.hparams.SessionStartInfo(start_time_secs=run.began)
        for name, value in (run.settings | run.tags).items():
            kind = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
            setattr(start.hparams[name], kind, value)
        status = self.status.Value("STATUS_FAILURE" if run.failed else "STATUS_SUCCESS")
        end = self.hparams.SessionEndInfo(status=status, end_time_secs=run.ended)
        return [self._metadata("session_start_info", start), self._metadata("session_end_info", end)]

    def _metadata(self, part: str, info: Any) -> Any:
        content = self.hparams.HParamsPluginData(**{part: info}).SerializeToString()
        plugin = {"plugin_name": "hparams", "content": content}
        return self.proto.Summary.Value(tag=f"_hparams_/{part}", metadata={"plugin_data": plugin})

    def _new_directory(self, label: str) -> Path:
        names = (label if attempt == 1 else f"{label}-again-{attempt}" for attempt in count(1))
        path = next(path for name in names if not os.path.lexists(path := self.directory / name))
        path.mkdir(parents=True)
        return path


@contextmanager
def _without_torch() -> Iterator[None]:
    """Hide torch from this thread's imports: tensorboardX imports it only to know its tensors, for seconds."""
    here = threading.get_ident()

    class Hidden:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "torch" and threading.get_ident() == here:
                raise ModuleNotFoundError("torch is not for the driver", name=name)

    sys.meta_path.insert(0, Hidden)
    try:
        yield
    finally:
        sys.meta_path.remove(Hidden)


class MLflow(Backend):
    """An MLflow run per training run and attempt, at MLFLOW_TRACKING_URI or in RUN/mlflow.db."""

    package = "mlflow"
    most = 1000  # metrics that log_batch takes

    def __init__(self, directory: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read by the import, as is the next
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        self.entities = importlib.import_module("mlflow.entities")
        uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
        if not uri:
            path = str(directory / "mlflow.db").replace("%", "%25").replace("?", "%3F")  # more it makes folders of
            uri, artifacts = f"sqlite:///{path}", (directory / "mlartifacts").as_uri()
        self.client = importlib.import_module("mlflow").MlflowClient(tracking_uri=uri)
        known = self.client.get_experiment_by_name(directory.name)
        self.experiment = known.experiment_id if known else self.client.create_experiment(directory.name, artifacts)

    def record(self, run: Ended) -> None:
        began, ended = int(1000 * run.began), int(1000 * run.ended)
        created = self.client.create_run(self.experiment, start_time=began, tags=run.tags, run_name=run.name)
        own = created.info.run_id
        metrics = [
            self.entities.Metric(re.sub(r"[^\w/.: -]", "_", name), value, int(1000 * point.at), point.step)
            for point in run.points
            for name, value in point.values.items()
        ]
        self.client.log_batch(own, params=[self.entities.Param(key, str(v)) for key, v in run.settings.items()])
        for start in range(0, len(metrics), self.most):
            self.client.log_batch(own, metrics=metrics[start : start + self.most])
        self.client.set_terminated(own, "FAILED" if run.failed else "FINISHED", end_time=ended)


class WandB(Backend):
    """A Weights & Biases run per training run and attempt; WANDB_MODE=offline keeps them in RUN/wandb."""

    package = "wandb"
    patience_s = 20  # its own, which holds up the end of the process too, is 90 s and for ever

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.project = os.environ.get("WANDB_PROJECT") or "tuner"
        self.wandb = importlib.import_module("wandb")
        self.settings = self.wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True,
            init_timeout=self.patience_s, finish_timeout=self.patience_s, finish_timeout_raises=True,
        )  # fmt: skip
        mode = self.wandb.setup(settings=self.wandb.Settings(silent=True)).settings.mode
        if mode not in ("offline", "dryrun", "disabled") and not self.wandb.login(prompt=False):
            raise RuntimeError("no API key: wandb login, or WANDB_MODE=offline")  # init would ask, on the terminal

    def record(self, run: Ended) -> None:
        own = self.wandb.init(
            project=self.project, group=self.directory.name, name=run.name, config=run.settings | run.tags,
            dir=str(self.directory), reinit="create_new", settings=self.settings,
        )  # fmt: skip
        for point in run.points:
            own.log(point.values, step=point.step)
        own.finish(exit_code=int(run.failed))


BACKENDS: dict[str, type[Backend]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}
TRACKERS = tuple(BACKENDS)


class Tracker:
    """Tells a backend, made by ``make``, of training runs that have ended, in a thread; its first fault is its end."""

    def __init__(self, name: str, task: str, make: Callable[[], Backend]) -> None:
        self.name, self.task = name, task
        self._told = self._recorded = 0
        self._left_alone = False
        self._queue: SimpleQueue[tuple[Job, Outcome, float] | None] = SimpleQueue()
        # No executor: its threads are waited for when the process ends, however long they take.
        self._thread = threading.Thread(target=self._work, args=[make], daemon=True)
        self._thread.start()

    def record(self, job: Job, outcome: Outcome) -> None:
        """Tell of one training run. Returns at once."""
        if self._thread.is_alive():
            self._told += 1
            self._queue.put((job, outcome, time.time()))

    def close(self) -> None:
        """Wait until all is told, or say how much is not."""
        self._queue.put(None)
        self._thread.join(0 if self._left_alone else PATIENCE_S)
        if self._thread.is_alive() and not self._left_alone:
            self._left_alone = True
            self._say(f"{self._told - self._recorded} of {self._told} training runs not told after {PATIENCE_S:g} s")

    def _work(self, make: Callable[[], Backend]) -> None:
        try:
            backend = make()
            while (told := self._queue.get()) and not self._left_alone:
                backend.record(describe(self.task, *told))
                self._recorded += 1
        except BaseException as fault:  # whatever a library raises in a thread
            if not self._left_alone:
                self._say(text.line(text.fault(fault), 300))

    def _say(self, what: str) -> None:
        print(f"tracker {self.name}: {what}; the run directory has everything", file=sys.stderr)


def check(name: str) -> None:
    """Refuse a tracker whose package is not installed. Imports nothing.

    Raises:
        UserError: so it is.
    """
    package = BACKENDS[name].package
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:  # a mere folder of that name, as wandb leaves behind, has no origin
        raise UserError(f"--tracker {name}: {package} is not installed; pip install {package}")


def make_tracker(name: str, run: Run, config: Config) -> Tracker:
    """A tracker that ``check`` lets pass. What it cannot do it says on stderr, once."""
    directory = run.path.resolve()
    return Tracker(name, config.task.name, lambda: BACKENDS[name](directory))

"""TensorBoard is told of training runs in event files, written with tensorboardX. No torch."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from tuner.trackers.backend import Backend, Ended


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

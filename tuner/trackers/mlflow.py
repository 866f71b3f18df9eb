"""MLflow is told of training runs by its client, at a server or in a file of the run directory. No torch."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

from tuner.trackers.backend import Backend, Ended


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
        run_id = created.info.run_id
        metrics = [
            self.entities.Metric(re.sub(r"[^\w/.: -]", "_", name), value, int(1000 * point.at), point.step)
            for point in run.points
            for name, value in point.values.items()
        ]
        self.client.log_batch(run_id, params=[self.entities.Param(key, str(v)) for key, v in run.settings.items()])
        for start in range(0, len(metrics), self.most):
            self.client.log_batch(run_id, metrics=metrics[start : start + self.most])
        self.client.set_terminated(run_id, "FAILED" if run.failed else "FINISHED", end_time=ended)

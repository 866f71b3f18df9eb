"""MLflow: a stand-in that is as strict as the package, and the package itself where it is installed."""

from __future__ import annotations

import re
import sqlite3
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.support.tracked import (
    ALL_WELL,
    COMPLETE,
    CURVE,
    FAILED,
    RETRAINED,
    SEARCHED,
    TELL,
    in_a_process,
    tell,
)
from tuner.jobs import EvaluationRecord, Outcome


class FakeMlflow:
    """A tracking server that refuses what a real one does."""

    def __init__(self) -> None:
        self.experiments: dict[str, Any] = {}
        self.runs: list[SimpleNamespace] = []
        self.uris: list[str] = []

    def install(self, patch: pytest.MonkeyPatch) -> None:
        entities: Any = ModuleType("mlflow.entities")
        entities.Metric = lambda key, value, timestamp, step: (key, value, timestamp, step)
        entities.Param = lambda key, value: (key, value)
        module: Any = ModuleType("mlflow")
        module.entities = entities
        module.MlflowClient = self.client
        patch.setitem(sys.modules, "mlflow", module)
        patch.setitem(sys.modules, "mlflow.entities", entities)

    def client(self, tracking_uri: str) -> FakeMlflow:
        self.uris.append(tracking_uri)
        return self

    def get_experiment_by_name(self, name: str) -> Any:
        return self.experiments.get(name)

    def create_experiment(self, name: str, artifact_location: str | None = None) -> str:
        assert name not in self.experiments
        self.experiments[name] = SimpleNamespace(experiment_id=f"id of {name}", artifacts=artifact_location)
        return f"id of {name}"

    def create_run(self, experiment_id: str, start_time: int, tags: dict[str, str], run_name: str) -> Any:
        run = SimpleNamespace(experiment=experiment_id, name=run_name, tags=tags, began=start_time, status="RUNNING")
        run.metrics, run.params = [], {}
        self.runs.append(run)
        return SimpleNamespace(info=SimpleNamespace(run_id=len(self.runs) - 1))

    def log_batch(self, run_id: int, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        assert len(metrics) <= 1000 and len(params) <= 100 and not tags
        assert all(type(value) is str for _, value in params)
        assert all(re.fullmatch(r"[/\w.\- :]+", name) for name, *_ in metrics)
        self.runs[run_id].metrics += metrics
        self.runs[run_id].params |= dict(params)

    def set_terminated(self, run_id: int, status: str, end_time: int) -> None:
        assert status in ("FINISHED", "FAILED")
        self.runs[run_id].status, self.runs[run_id].ended = status, end_time


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMlflow:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "")
    fake = FakeMlflow()
    fake.install(monkeypatch)
    return fake


PARAMS = {"task": "blobs", "optimizer": "adam", "study": "0", "phase": "search", "trial": "3", "seed": "1000",
          "hp.lr": "0.25", "hp.nesterov": "True", "hp.kind": "x"}  # fmt: skip


def test_mlflow_gets_a_run_for_each_training_run(
    tmp_path: Path, mlflow: FakeMlflow, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "my 100% run?"
    tell("mlflow", directory, (SEARCHED, COMPLETE))
    tell("mlflow", directory, (RETRAINED, FAILED), (RETRAINED, COMPLETE))
    assert capsys.readouterr().err == ALL_WELL
    assert mlflow.uris == [f"sqlite:///{tmp_path}/my 100%25 run%3F/mlflow.db"] * 2
    assert list(mlflow.experiments) == ["my 100% run?"]
    assert mlflow.experiments["my 100% run?"].artifacts == (directory / "mlartifacts").as_uri()
    first, second, third = mlflow.runs
    assert (first.experiment, first.name, first.status) == ("id of my 100% run?", "adam trial 3", "FINISHED")
    assert first.tags == {"state": "complete", "error": ""}
    assert first.params == PARAMS
    assert {(name, step): value for name, value, _, step in first.metrics} == CURVE
    assert len(first.metrics) == len(CURVE)
    assert first.ended - first.began == pytest.approx(4000, abs=1)
    assert {time - first.began for _, _, time, step in first.metrics if step == 0} == {0}
    assert (second.name, second.status, second.metrics) == ("adam seed 7", "FAILED", [])
    assert second.tags == {"state": "failed", "error": "ValueError: no such thing"}
    assert (third.name, third.status) == ("adam seed 7", "FINISHED")


def test_mlflow_goes_to_the_server_that_is_set(
    tmp_path: Path, mlflow: FakeMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    tell("mlflow", tmp_path / "r", (SEARCHED, COMPLETE))
    assert mlflow.uris == ["http://tracking:5000"]
    assert mlflow.experiments["r"].artifacts is None  # the server's own


def test_mlflow_gets_a_long_curve_with_odd_names_whole(tmp_path: Path, mlflow: FakeMlflow) -> None:
    evaluations = [EvaluationRecord(s, 0.0, 0.0, 0.0, {"val_acc@5": s / 2}) for s in range(700)]
    tell("mlflow", tmp_path / "r", (SEARCHED, Outcome("complete", evaluations=evaluations)))
    values = {step: value for name, value, _, step in mlflow.runs[0].metrics if name == "val/acc_5"}
    assert values == {step: step / 2 for step in range(700)}


def test_the_real_mlflow(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    directory = tmp_path / "a run, the #1 für alle"
    directory.mkdir()
    done = in_a_process(TELL + "print('torch' in sys.modules)", "mlflow", directory)
    assert (done.stdout, done.stderr) == ("False\n", ALL_WELL)
    assert list(tmp_path.iterdir()) == [directory]
    database = sqlite3.connect(directory / "mlflow.db")
    runs = dict(database.execute("select name, run_uuid from runs"))
    statuses = dict(database.execute("select name, status from runs"))
    assert statuses == {"adam trial 3": "FINISHED", "adam seed 7": "FAILED"}
    own = [runs["adam trial 3"]]
    rows = database.execute("select key, step, value from metrics where run_uuid = ?", own)
    assert {(key, step): value for key, step, value in rows} == CURVE
    assert dict(database.execute("select key, value from params where run_uuid = ?", own)) == PARAMS
    assert ("error", "ValueError: no such thing") in list(database.execute("select key, value from tags"))
    database.close()

"""Trackers: what they are told, and that nothing of theirs disturbs a run.

TensorBoard's files are read by a reader of their format written here; MLflow and Weights & Biases are stand-ins that
are as strict as the packages, and the packages themselves where they are installed.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tuner.errors import UserError
from tuner.jobs import EvaluationRecord, Job, Outcome
from tuner.store.run import Run
from tuner.trackers import backend, tensorboard
from tuner.trackers import tracker as trackers

CONFIG: Any = SimpleNamespace(task=SimpleNamespace(name="blobs"))
SEARCHED = Job("search", "adam", 3, 1000, {"lr": 0.25, "nesterov": True, "kind": "x"})
RETRAINED = Job("retrain", "adam", 3, 7, {"lr": 0.5})
SETTINGS = {"task": "blobs", "optimizer": "adam", "phase": "search", "trial": 3, "seed": 1000, "hp.lr": 0.25,
            "hp.nesterov": True, "hp.kind": "x"}  # fmt: skip
COMPLETE = Outcome(
    "complete",
    {"train_loss": 0.5, "val_top_5": 0.75},
    {"steps": 8, "seconds": 4.0},
    [
        EvaluationRecord(0, 0.0, 0.0, 0.0, {"train_loss": 2.0}),
        EvaluationRecord(8, 2.0, 4.0, 12.0, {"train_loss": 0.5, "val_top_5": 0.75, "val_loss": math.inf},
                         {"clipped_fraction": 0.125, "damping": math.nan}),
    ],
)  # fmt: skip
CURVE = {
    ("train/loss", 0): 2.0, ("clock/epoch", 0): 0.0, ("clock/seconds", 0): 0.0, ("clock/grad_equivalents", 0): 0.0,
    ("train/loss", 8): 0.5, ("clock/epoch", 8): 2.0, ("clock/seconds", 8): 4.0, ("clock/grad_equivalents", 8): 12.0,
    ("val/top_5", 8): 0.75, ("train/clipped_fraction", 8): 0.125,
    ("final/train_loss", 8): 0.5, ("final/val_top_5", 8): 0.75, ("final/steps", 8): 8.0, ("final/seconds", 8): 4.0,
}  # fmt: skip
FAILED = Outcome("failed", error="ValueError: no such thing")
ALL_WELL = ""


def tell(name: str, directory: Path, *done: tuple[Job, Outcome]) -> None:
    tracker = trackers.make_tracker(name, Run(directory), CONFIG)
    for job, outcome in done:
        tracker.record(job, outcome)
    tracker.close()


# TensorBoard.


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def records(file: Path) -> Iterator[bytes]:
    """The records of a TFRecord file: length, its checksum, data, its checksum."""

    def check(data: bytes, checksum: bytes) -> bytes:
        crc = crc32c(data)
        assert struct.unpack("<I", checksum)[0] == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
        return data

    content = file.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", check(content[:8], content[8:12]))
        yield check(content[12 : 12 + length], content[12 + length : 16 + length])
        content = content[16 + length :]


def read_events(directory: Path) -> tuple[dict[tuple[str, int], float], dict[str, Any], list[float]]:
    """Scalars by name and step, what the HPARAMS tab gets, and the times of the events."""
    event = importlib.import_module("tensorboardX.proto.event_pb2").Event
    hparams = importlib.import_module("tensorboardX.proto.plugin_hparams_pb2").HParamsPluginData
    (file,) = directory.iterdir()
    assert re.match(r"events\.out\.tfevents\.\d+\.", file.name)  # TensorBoard looks for that
    events = [event.FromString(record) for record in records(file)]
    assert events[0].file_version == "brain.Event:2"
    scalars: dict[tuple[str, int], float] = {}
    about: dict[str, Any] = {}
    for each in events[1:]:
        for value in each.summary.value:
            plugin = value.metadata.plugin_data
            if plugin.plugin_name == "hparams":
                about[value.tag] = hparams.FromString(plugin.content)
            else:
                assert (value.tag, each.step) not in scalars
                scalars[value.tag, each.step] = value.simple_value
    return scalars, about, [each.wall_time for each in events[1:]]


def test_the_reader_of_event_files_has_the_checksum_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_tensorboard_has_every_value_at_its_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = time.time()
    tell("tensorboard", tmp_path, (SEARCHED, COMPLETE), (RETRAINED, FAILED))
    after = time.time()
    assert sorted(p.name for p in (tmp_path / "tensorboard").iterdir()) == ["retrain-adam-7", "search-adam-3"]
    scalars, about, times = read_events(tmp_path / "tensorboard" / "search-adam-3")
    assert scalars == CURVE  # all of them are float32 numbers
    start = about["_hparams_/session_start_info"].session_start_info
    settings = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert settings == SETTINGS | {"state": "complete", "error": ""}
    assert about["_hparams_/session_end_info"].session_end_info.status == 1  # success
    assert times[-1] - times[0] == pytest.approx(4.0)
    assert before <= times[-1] <= after

    scalars, about, _ = read_events(tmp_path / "tensorboard" / "retrain-adam-7")
    assert scalars == {}
    start = about["_hparams_/session_start_info"].session_start_info
    assert start.hparams["error"].string_value == "ValueError: no such thing"
    assert about["_hparams_/session_end_info"].session_end_info.status == 2  # failure
    assert capsys.readouterr().err == ALL_WELL


def test_a_training_run_recorded_again_has_files_of_its_own(tmp_path: Path) -> None:
    tell("tensorboard", tmp_path, (RETRAINED, FAILED))
    first = read_events(tmp_path / "tensorboard" / "retrain-adam-7")
    tell("tensorboard", tmp_path, (RETRAINED, COMPLETE), (RETRAINED, COMPLETE))
    names = ["retrain-adam-7", "retrain-adam-7-again-2", "retrain-adam-7-again-3"]
    assert sorted(p.name for p in (tmp_path / "tensorboard").iterdir()) == names
    assert read_events(tmp_path / "tensorboard" / names[0]) == first
    assert read_events(tmp_path / "tensorboard" / names[1])[0] == CURVE


def in_a_process(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in this module's words, alone and without what the user has set for trackers."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "WANDB_"))}
    setup = f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]; from test_trackers import *; "
    command = [sys.executable, "-c", setup + code, *map(str, arguments)]
    root = Path(trackers.__file__).parents[2]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env=ours | environment, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


TELL = "tell(sys.argv[1], Path(sys.argv[2]), (SEARCHED, COMPLETE), (RETRAINED, FAILED)); "


def test_tensorboard_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        TELL
        + "print('torch' in sys.modules, importlib.util.find_spec('torch') is not None, 'tensorboardX' in sys.modules)"
    )
    done = in_a_process("import importlib.util; " + code, "tensorboard", tmp_path)
    assert (done.stdout, done.stderr) == ("False True True\n", ALL_WELL)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_torch_is_hidden_from_one_thread_only() -> None:
    found: list[object] = []
    with tensorboard._without_torch():
        finder: Any = sys.meta_path[0]
        with pytest.raises(ImportError):
            finder.find_spec("torch")
        assert finder.find_spec("torchvision") is None  # for the next finder
        thread = threading.Thread(target=lambda: found.append(finder.find_spec("torch")))
        thread.start()
        thread.join()
    assert found == [None]
    assert finder not in sys.meta_path


# MLflow.


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


PARAMS = {"task": "blobs", "optimizer": "adam", "phase": "search", "trial": "3", "seed": "1000", "hp.lr": "0.25",
          "hp.nesterov": "True", "hp.kind": "x"}  # fmt: skip


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


# Weights & Biases.


class FakeWandb(ModuleType):
    def __init__(self, mode: str = "offline", key: bool = False) -> None:
        super().__init__("wandb")
        self.mode, self.key = mode, key
        self.runs: list[dict[str, Any]] = []

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def setup(self, settings: dict[str, Any]) -> Any:
        return SimpleNamespace(settings=SimpleNamespace(mode=self.mode))

    def login(self, *, prompt: bool) -> bool:
        assert not prompt  # it would wait for an answer on the terminal
        return self.key

    def init(self, **arguments: Any) -> Any:
        rows: dict[int, dict[str, float]] = {}
        run = arguments | {"rows": rows, "exit_code": None}
        self.runs.append(run)

        def log(values: dict[str, float], step: int) -> None:
            assert step >= max(rows, default=0)  # earlier steps are dropped
            rows.setdefault(step, {}).update(values)

        return SimpleNamespace(log=log, finish=lambda exit_code: run.update(exit_code=exit_code))


@pytest.mark.parametrize("project", [None, "mine"])
def test_wandb_gets_a_run_for_each_training_run(
    tmp_path: Path, project: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb())
    monkeypatch.setenv("WANDB_PROJECT", project or "")
    tell("wandb", tmp_path / "my 100% run?", (SEARCHED, COMPLETE), (RETRAINED, FAILED))
    assert capsys.readouterr().err == ALL_WELL
    first, second = fake.runs
    rows = {(name, step): value for step, row in first["rows"].items() for name, value in row.items()}
    assert rows == CURVE
    assert first["config"] == SETTINGS | {"state": "complete", "error": ""}
    assert (first["project"], first["group"], first["name"]) == (project or "tuner", "my 100% run?", "adam trial 3")
    assert (first["dir"], first["reinit"], first["exit_code"]) == (str(tmp_path / "my 100% run?"), "create_new", 0)
    assert first["settings"]["silent"]
    assert (second["name"], second["exit_code"]) == ("adam seed 7", 1)
    assert second["config"]["error"] == "ValueError: no such thing"


@pytest.mark.parametrize(("mode", "key", "runs"), [("online", True, 1), ("online", False, 0), ("disabled", False, 1)])
def test_wandb_without_a_key_does_not_ask(
    tmp_path: Path, mode: str, key: bool, runs: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb(mode, key))
    tell("wandb", tmp_path, (SEARCHED, COMPLETE))
    assert len(fake.runs) == runs
    line = (
        "tracker wandb: RuntimeError: no API key: wandb login, or WANDB_MODE=offline; the run directory has everything"
    )
    assert capsys.readouterr().err == (ALL_WELL if runs else line + "\n")


# Faults.


class Backend(backend.Backend):
    """Fails at the nth training run, or when it is made; or waits until it is let go."""

    package = "json"
    seen: list[str]

    def __init__(self, directory: Path | None, fault: BaseException, at: int = -1) -> None:
        self.seen, self.fault, self.at = [], fault, at
        if at < 0:
            raise fault

    def record(self, run: backend.Ended) -> None:
        if len(self.seen) == self.at:
            raise self.fault
        self.seen.append(run.name)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (RuntimeError("two\n lines"), "RuntimeError: two lines"),
        (SystemExit(2), "SystemExit: 2"),
    ],
)
@pytest.mark.parametrize("at", [-1, 0, 2])
def test_the_first_fault_is_one_line_and_the_end(
    fault: BaseException, reason: str, at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Backend] = []

    def make() -> Backend:
        made.append(Backend(None, fault, at))
        return made[0]

    tracker = trackers.Tracker("mlflow", "blobs", make)
    for _ in range(5):
        tracker.record(SEARCHED, COMPLETE)
    tracker.close()
    tracker.record(SEARCHED, COMPLETE)
    tracker.close()
    assert [backend.seen for backend in made] == ([["adam trial 3"] * at] if at >= 0 else [])
    assert capsys.readouterr().err == f"tracker mlflow: {reason}; the run directory has everything\n"


class Untold(dict[str, float]):
    def get(self, *_: Any) -> Any:
        raise KeyError("seconds")


def test_a_record_that_cannot_be_told_is_the_trackers_fault_too(capsys: pytest.CaptureFixture[str]) -> None:
    tracker = trackers.Tracker("mlflow", "blobs", lambda: Backend(None, OSError(), at=9))
    outcome = Outcome("complete")
    outcome.clocks = Untold()
    tracker.record(SEARCHED, outcome)
    tracker.close()
    assert capsys.readouterr().err.startswith("tracker mlflow: KeyError: ")


@pytest.mark.parametrize("late_fault", [False, True])
def test_a_slow_tracker_is_waited_for_but_not_for_long(
    late_fault: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trackers, "PATIENCE_S", 0.1)
    busy, go = threading.Event(), threading.Event()

    class Slow(Backend):
        def record(self, run: backend.Ended) -> None:
            super().record(run)
            if len(self.seen) == 2:
                busy.set()
                assert go.wait(10)
                if late_fault:
                    raise self.fault

    backend = Slow(None, OSError("late"), at=9)
    tracker = trackers.Tracker("wandb", "blobs", lambda: backend)
    for _ in range(4):
        tracker.record(SEARCHED, COMPLETE)
    assert busy.wait(10)
    began = time.monotonic()
    tracker.close()
    assert time.monotonic() - began >= 0.1
    monkeypatch.setattr(trackers, "PATIENCE_S", 60.0)
    tracker.close()
    assert time.monotonic() - began < 8
    assert tracker._background.thread.daemon  # the process can end
    go.set()
    tracker._background.thread.join(10)
    assert len(backend.seen) == 2
    line = "tracker wandb: 3 of 4 training runs not told after 0.1 s; the run directory has everything\n"
    assert capsys.readouterr().err == line  # and none for what went wrong afterwards


# What is installed.


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, package in [("tensorboard", "tensorboardX"), ("mlflow", "mlflow"), ("wandb", "wandb")]:
        assert trackers.BACKENDS[name].package == package
        monkeypatch.setattr(trackers.BACKENDS[name], "package", f"no_such_{package}")
        (tmp_path / f"no_such_{package}").mkdir()
        line = f"--tracker {name}: no_such_{package} is not installed; pip install no_such_{package}"
        with pytest.raises(UserError, match=f"^{line}$"):
            trackers.check(name)
    monkeypatch.syspath_prepend(tmp_path)  # what wandb leaves behind in the working directory is no package
    with pytest.raises(UserError, match=r"pip install no_such_wandb$"):
        trackers.check("wandb")
    (tmp_path / "no_such_wandb" / "__init__.py").write_text("raise AssertionError('imported')")
    importlib.invalidate_caches()
    trackers.check("wandb")


def test_tensorboard_needs_nothing_optional() -> None:
    trackers.check("tensorboard")
    assert trackers.TRACKERS == ("tensorboard", "mlflow", "wandb")


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


def wandb_file(file: Path) -> dict[str, Any]:
    """What an offline run keeps, in the blocks and records of a LevelDB log."""
    message = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    content, at, data = file.read_bytes(), 7, b""  # after the header
    found: dict[str, Any] = {"rows": []}
    while at < len(content):
        if (left := 32768 - at % 32768) < 7:  # the end of a block is padded
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        data += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind not in (1, 4):  # whole, or the last part
            continue
        record, data = message.FromString(data), b""
        if record.HasField("run"):
            config = {
                item.key: json.loads(item.value_json) for item in record.run.config.update if item.key != "_wandb"
            }
            found |= {"name": record.run.display_name, "group": record.run.run_group, "config": config}
        elif record.HasField("history"):
            items = record.history.item
            found["rows"].append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
        elif record.HasField("exit"):
            found["exit"] = record.exit.exit_code
    return found


def test_the_real_wandb_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    done = in_a_process(TELL + "print('torch' in sys.modules)", "wandb", tmp_path, WANDB_MODE="offline")
    assert (done.stdout, done.stderr) == ("False\n", ALL_WELL)
    found = {each["name"]: each for each in map(wandb_file, tmp_path.glob("wandb/offline-run-*/run-*.wandb"))}
    assert {name: each["exit"] for name, each in found.items()} == {"adam trial 3": 0, "adam seed 7": 1}
    first = found["adam trial 3"]
    assert (first["config"], first["group"]) == (SETTINGS | {"state": "complete", "error": ""}, tmp_path.name)
    rows = {(name, row["_step"]): v for row in first["rows"] for name, v in row.items() if not name.startswith("_")}
    assert rows == CURVE

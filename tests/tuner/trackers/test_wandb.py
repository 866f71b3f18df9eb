"""Weights & Biases: a stand-in that is as strict as the package, and the package itself where it is installed."""

from __future__ import annotations

import importlib
import json
import struct
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
    SETTINGS,
    TELL,
    in_a_process,
    tell,
)


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

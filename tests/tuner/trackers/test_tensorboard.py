"""TensorBoard: its files are read by a reader of their format written here."""

from __future__ import annotations

import importlib
import re
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
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
from tuner.trackers import tensorboard
from tuner.trackers import tracker as trackers


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


def test_tensorboard_needs_nothing_optional() -> None:
    trackers.check("tensorboard")
    assert trackers.TRACKERS == ("tensorboard", "mlflow", "wandb")

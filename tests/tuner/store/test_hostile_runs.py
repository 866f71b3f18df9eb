"""Run directories that somebody has prepared: refused at once, in one line, and none of their code is run."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import environment
from tests.support.commands import run as command
from tests.support.edited_runs import copied, edit_config
from tests.support.made_runs import make_run
from tuner import report, retrain, search, status
from tuner.config.bounded_yaml import LONGEST, MOST_VALUES, bounded
from tuner.config.layers import from_yaml, resolve
from tuner.console.parsing import run_command
from tuner.errors import UserError
from tuner.store.run import Run

STATUS: dict[str, Any] = {
    "schema_version": 1, "state": "running", "updated": "2026-01-01T00:00:00+00:00", "host": "node7", "pid": 4321,
    "progress": [{"phase": "search", "optimizer": "adam", "running": 1, "left_s": None}],
}  # fmt: skip
COMMANDS = [
    (status.main, []), (report.main, ["--json"]), (retrain.main, []), (search.main, ["--dry-run", "--resume"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs") / "made", effects={"adam": 0.0}, seeds=2, trials=2)


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    return copied(made, tmp_path / "run")


@contextmanager
def soon() -> Iterator[None]:
    """Within seconds, however a test would hang."""

    def late(*_: object) -> None:
        raise TimeoutError("it hangs")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def said(main: Any, argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line, of exit code 2."""
    with soon(), pytest.raises(SystemExit) as left:
        run_command(main, argv)
    out, err = capsys.readouterr()
    assert (left.value.code, out, err.count("\n")) == (2, "", 1)
    return err


# status.json.


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([1, 2], "must be a mapping"),
        (5, "must be a mapping"),
        ({}, "schema_version None, expected 1"),
        ({"schema_version": 1}, "state: Field required"),
        (STATUS | {"state": 5}, "state: Input should be 'starting'"),
        (STATUS | {"state": "paused"}, "state: Input should be 'starting'"),
        (STATUS | {"state": ["running"]}, "state: Input should be 'starting'"),
        (STATUS | {"updated": 17}, "updated: Input should be a valid string, got 17"),
        (STATUS | {"updated": "yesterday"}, "updated: Value error, Invalid isoformat"),
        (STATUS | {"updated": "2026-01-01T00:00:00"}, "updated: Value error, must say its time zone"),
        (STATUS | {"progress": {"adam": 1}}, "progress: Input should be a valid list"),
        (STATUS | {"progress": [5]}, "progress.0: Input should be a valid dictionary"),
        (STATUS | {"progress": [{}]}, "progress.0.phase: Field required"),
        (STATUS | {"progress": [{"phase": "search", "optimizer": "adam", "running": "1", "left_s": 1}]},
         "progress.0.running: Input should be a valid integer"),
        (STATUS | {"progress": [{"phase": "search", "optimizer": "adam", "running": 1, "left_s": 1e999}]},
         "progress.0.left_s: Input should be less than"),
        (STATUS | {"pid": "x"}, "pid: Input should be a valid integer"),
        (STATUS | {"host": "\ud800"}, "host: must be a text of whole characters"),
    ],
)  # fmt: skip
def test_a_status_of_another_shape_is_one_line(
    run: Run, content: Any, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.path / "status.json").write_text(json.dumps(content))
    line = said(status.main, [str(run.path)], capsys)
    assert line.startswith(f"error: {run.path}/status.json: {expected}")


def test_a_status_that_commands_write_is_taken_and_shown_clean(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for state in ("starting", "running", "ended", "interrupted", "halted", "lost", "failed"):
        (run.path / "status.json").write_text(json.dumps(STATUS | {"state": state, "host": "a\x1b[2Jb"}))
        assert status.main([str(run.path)]) == 0
        assert "\x1b" not in capsys.readouterr().out


# YAML.

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""10^9 values in nine lines."""
MAPPINGS = "a: &a {x: 1, y: 1}\n" + "".join(
    f"{name}: &{name} {{p: *{before}, q: *{before}, <<: *{before}}}\n"
    for before, name in zip("abcdefghijklmnopq", "bcdefghijklmnopqr", strict=True)
)


@pytest.mark.parametrize("text", [BOMB, MAPPINGS, "a: &a [*a]", "a: &a {b: [1, *a]}", "a: &a\n  <<: *a\n"])
def test_what_few_lines_stand_for_is_bounded(text: str, tmp_path: Path) -> None:
    with soon(), pytest.raises(UserError, match="written out it has more than 20,000 values"):
        from_yaml(text)
    (tmp_path / "defaults.yaml").write_text(text)
    with soon(), pytest.raises(UserError, match=r"defaults\.yaml: cannot be read as YAML: with its aliases"):
        resolve({"task.name": "mnist1d"}, [], tmp_path)


def test_a_setting_is_bounded_too() -> None:
    inner = "[" + ", ".join(["&a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]", "&b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]",
                             "&c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]",
                             "&d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]", "[*d, *d, *d]"]) + "]"  # fmt: skip
    with soon(), pytest.raises(UserError, match="more than 20,000 values"):
        resolve({"task.name": "mnist1d"}, [f"task.args={inner}"])


def test_aliases_as_people_use_them_are_read() -> None:
    text = "x: &x {lr: 1}\ny: *x\nz: {<<: *x, b: 2}\nw: &s 5\nv: *s\n"
    assert bounded(text) == text
    flat = "a: &a 1\nb: [" + ", ".join(["*a"] * (MOST_VALUES - 8)) + "]\n"
    assert bounded(flat) == flat
    with pytest.raises(ValueError, match="more than"):
        bounded(flat.replace("[", "[*a, *a, *a, *a, *a, *a, *a, *a, *a, "))
    with pytest.raises(ValueError, match="at most 1,048,576"):
        bounded("x" * (LONGEST + 1))


@pytest.mark.parametrize(("main", "argv"), COMMANDS)
def test_a_configuration_of_aliases_is_refused_at_once(
    run: Run, main: Any, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    edit_config(
        run, "preset: default\n", f"preset: default\nbomb:\n{'  ' + BOMB.rstrip().replace(chr(10), chr(10) + '  ')}\n"
    )
    assert "written out" in said(main, [*argv, str(run.path)], capsys)


# Pipes and devices.


def replace(path: Path, what: str) -> None:
    path.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as own:
            own.bind(os.path.relpath(path))  # a socket's path is short


@pytest.mark.parametrize("what", ["pipe", "device", "socket"])
@pytest.mark.parametrize("name", ["trials.csv", "seeds.csv", "best.json", "env.json", "status.json", "curves.parquet",
                                  "study.db", "logs/asked.jsonl", "logs/curves.csv", "trials.csv.partial"])  # fmt: skip
def test_only_files_are_read(
    run: Run, name: str, what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.path)
    replace(run.path / name, what)
    for main, argv in COMMANDS:
        line = said(main, [*argv, str(run.path)], capsys)
        assert line == f"error: {run.path / name}: is neither a file nor a folder, but a pipe, a socket or a device\n"


def test_a_configuration_that_is_a_pipe_is_none(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    replace(run.path / "config.yaml", "pipe")
    for main, argv in COMMANDS:
        assert "not a run directory" in said(main, [*argv, str(run.path)], capsys)


# Code that a run names.


def test_a_dry_run_of_an_earlier_run_imports_nothing_that_it_names(run: Run, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("import pathlib; pathlib.Path('touched').touch()\n")
    path = run.path / "config.yaml"
    text = re.sub(r"class: \S+", "class: evil.Class", path.read_text())
    path.write_text(re.sub(r"check: \S+", "check: evil.check", text))
    assert path.read_text().count("evil.") == 3
    done = command(tmp_path, "tuner.search", "--resume", run.path, "--dry-run", env=environment(tmp_path))
    assert (done.code, (tmp_path / "touched").exists()) == (0, False), done.err
    assert done.err == "--dry-run runs no code that a run names: evil.check was not asked about the data\n"

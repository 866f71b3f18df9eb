"""A file is written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.table_rows import CONFIG, contents, failing, full_run, seed_row
from tuner.errors import UserError
from tuner.store.files import write_whole
from tuner.store.run import Run

WRITERS: dict[str, tuple[str, Callable[[Run], object]]] = {
    "config": ("config.yaml", lambda run: run.write_config(CONFIG.model_copy(update={"out": "elsewhere"}))),
    "env": ("env.json", lambda run: run.write_env({"new": 1})),
    "best": ("best.json", lambda run: run.write_best({"new": 1})),
    "seeds": ("seeds.csv", lambda run: run.write_seeds([seed_row(1), seed_row(2)], [])),
    "curves": ("curves.parquet", lambda run: run.finish_curves()),
    "log": ("logs/a.log", lambda run: run.write_log("a", "new")),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_rename_that_fails_leaves_the_old_content(run: Run, monkeypatch: pytest.MonkeyPatch, writer: str) -> None:
    name, write = WRITERS[writer]
    before = contents(full_run(run).path)
    monkeypatch.setattr(Path, "replace", failing)
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="disk full"):
        write(run)
    after = contents(run.path)
    assert {key: after[key] for key in before} == before
    monkeypatch.undo()
    write(run)
    assert contents(run.path)[name] != before[name]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_write_that_fails_leaves_the_old_content(run: Run, monkeypatch: pytest.MonkeyPatch, writer: str) -> None:
    before = contents(full_run(run).path)
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="disk full"):
        WRITERS[writer][1](run)
    after = contents(run.path)
    assert {key: after[key] for key in before} == before


def test_leftovers_of_a_write_that_failed_are_no_content(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="disk full"):
            run.write_best({})
    with pytest.raises(UserError, match=r"best\.json: no such file"):
        run.best()
    assert run.files() == ["config.yaml", "logs/"]


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "ä\r\n\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa4\r\n\n"

"""Several configurations are checked one after the other, whatever becomes of one of them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.errors import UserError
from tuner.events import Event, WaitBegan
from tuner.planning.estimate import Timings
from tuner.work import preflight
from tuner.workers import remembered
from tuner.workers.preflight import OBJECTS_FOLLOW, Preflight, PreflightResult
from tuner.workers.starting import CommandRay

FOUND = PreflightResult(Timings({"adam": 0.5}, 0.25, 3, {}), {"name": "a", "sha256": "5f"}, "cpu")


class NoRay(CommandRay):
    """That of a command which never gets as far."""

    def start(self, config: Config) -> None:
        """Nothing."""


def small(task: str = "tabular_mlp", **flags: Any) -> Config:
    return resolve({"task.name": task, "search.optimizers": ["adam"], "resources.gpus_per_trial": 0.0} | flags)


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shell script in the interpreter's place: its n-th start reads all, keeps that in ``asked-n`` and runs the file
    ``answer-n``, whose ``say`` writes a line where answers are expected. The folder of all these."""
    script = 'n=$(ls asked-* 2>/dev/null | wc -l)\ncat > asked-$n\nsay() { echo "$1" >&$pipe; }\n. ./answer-$n'
    program = tmp_path / "python"
    program.write_text(f"#!/bin/bash\ncd {tmp_path}\npipe=$3\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv(remembered.SWITCH, "0")
    return tmp_path


def answers(folder: Path, *scripts: str) -> None:
    for number, script in enumerate(scripts):
        (folder / f"answer-{number}").write_text(script.replace("FOUND", json.dumps({"found": asdict(FOUND)})) + "\n")


def checked(*configs: Config, objects: bytes = b"") -> tuple[list[PreflightResult | str | None], list[str]]:
    """What is found of each, or is said against it; what is waited for meanwhile."""
    waited: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, WaitBegan):
            waited.append(event.what)

    found = list(preflight(configs, objects, note, NoRay(note)))
    return [str(each) if isinstance(each, UserError) else each for each in found], waited


def asked(folder: Path) -> list[list[str]]:
    """The data sets of the configurations that each process was given."""
    texts = [path.read_bytes().partition(OBJECTS_FOLLOW)[0] for path in sorted(folder.glob("asked-*"))]
    return [
        [line[11:] for line in text.decode().replace("\0", "\n").splitlines() if line.startswith("  dataset: ")]
        for text in texts
    ]


def three() -> list[Config]:
    return [small(**{"task.dataset": name}) for name in ("iris", "wine", "digits")]


def test_all_are_checked_by_one_process(process: Path) -> None:
    answers(process, "say 'FOUND'; say '{\"found\": null}'; say 'FOUND'")
    found, waited = checked(*three())
    assert found == [FOUND, None, FOUND]
    assert asked(process) == [["iris", "wine", "digits"]]
    assert waited == [f"loading the data, timing a few steps (tabular_mlp, {n} of 3) ..." for n in (1, 2, 3)]


def test_one_that_is_wrong_does_not_end_the_others(process: Path) -> None:
    answers(process, "say 'FOUND'; say '{\"error\": \"no such file\"}'; say 'FOUND'")
    assert checked(*three())[0] == [FOUND, "no such file", FOUND]
    assert len(asked(process)) == 1


@pytest.mark.parametrize(
    ("end", "said"),
    [("exit 3", "ended with code 3"), ("kill -9 $$", "was ended by signal 9, perhaps for want of memory")],
)
def test_a_process_that_dies_in_one_is_begun_anew_for_the_rest(process: Path, end: str, said: str) -> None:
    answers(process, f"say 'FOUND'; {end}", "say 'FOUND'")
    assert checked(*three())[0] == [FOUND, f"the check of the task {said}; -v shows why", FOUND]
    assert asked(process) == [["iris", "wine", "digits"], ["digits"]]


def test_a_process_may_die_in_each(process: Path) -> None:
    answers(process, "exit 1", "exit 2", "exit 3")
    assert checked(*three())[0] == [f"the check of the task ended with code {n}; -v shows why" for n in (1, 2, 3)]
    assert asked(process) == [["iris", "wine", "digits"], ["wine", "digits"], ["digits"]]


def test_half_an_answer_is_none(process: Path) -> None:
    answers(process, "say 'FOUND'; printf '{\"found\": ' >&$pipe; exit 1", "say 'FOUND'")
    assert checked(*three())[0] == [FOUND, "the check of the task ended with code 1; -v shows why", FOUND]


def test_what_they_carry_goes_to_every_process(process: Path) -> None:
    carried = b"\0packed\0\0twice\0"
    answers(process, "exit 1", "say 'FOUND'; say 'FOUND'")
    checked(*three(), objects=carried)
    contents = [path.read_bytes() for path in sorted(process.glob("asked-*"))]
    assert len(contents) == 2 and all(content.endswith(OBJECTS_FOLLOW + carried) for content in contents)


def test_a_single_one_is_waited_for_without_a_number(process: Path) -> None:
    answers(process, "say 'FOUND'")
    assert checked(small())[1] == ["loading the data, timing a few steps ..."]


def test_nothing_to_check_starts_no_process(process: Path) -> None:
    assert checked() == ([], [])
    assert asked(process) == []


# The process itself.


def test_the_process_answers_a_line_for_each_whatever_is_wrong_with_one() -> None:
    good, bad = small(), small()
    bad = bad.model_copy(update={"task": bad.task.model_copy(update={"class_": "tasks.tabular_mlp.NoSuchTask"})})
    with Preflight(bad, good, bad) as process:
        found = [process.next_result() for _ in range(3)]
        assert [type(each) for each in found] == [UserError, PreflightResult, UserError]
        assert not process.has_ended
        over = process.next_result()
        assert isinstance(over, UserError) and process.has_ended
    assert isinstance(found[1], PreflightResult) and found[1].data["rows"]["train"] > 0
    assert "NoSuchTask" in str(found[0]) and str(found[0]) == str(found[2])

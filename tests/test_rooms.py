"""The rooms of the source as docs/architecture.md says: files and functions that can be read in one sitting, each with
its subject. Which room may import which is import-linter's affair, in pyproject.toml."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.commands import ROOT

LONGEST_FILE, LONGEST_FUNCTION = 350, 50
ROOMS = sorted(path.parent for name in ("tuner", "optimizers") for path in (ROOT / name).glob("*/__init__.py"))
FILES = sorted(path for name in ("tuner", "optimizers", "tasks") for path in (ROOT / name).rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_says_its_subject_and_can_be_read_in_one_sitting(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert ast.get_docstring(tree)
    assert len(source.splitlines()) <= LONGEST_FILE
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    longest = {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions}
    assert {name: lines for name, lines in longest.items() if lines > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("room", ROOMS, ids=name)
def test_a_room_is_one_sentence_and_has_tests(room: Path) -> None:
    """Nothing is imported by the way, where a room is entered for one of its modules."""
    (sentence,) = ast.parse((room / "__init__.py").read_text(encoding="utf-8")).body
    assert isinstance(sentence, ast.Expr) and isinstance(sentence.value, ast.Constant)
    assert str(sentence.value.value).count(".") == 1
    assert list((ROOT / "tests" / room.relative_to(ROOT)).glob("test_*.py"))


def test_no_file_of_the_rooms_lies_beside_them() -> None:
    """The Python API, commands, the order of events, and what all rooms share."""
    roots = {path.stem for path in (ROOT / "tuner").glob("*.py")}
    api = {"__init__", "__main__", "api", "callable", "call", "child", "result", "version"}
    commands = {"search", "retrain", "report", "status", "list", "curvature"}
    assert roots == api | commands | {"prepare", "suite", "execute", "work", "events", "jobs", "errors", "text"}

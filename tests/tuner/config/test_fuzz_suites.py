"""Odd files of suites and targets, and odd suite.yaml, at random: one line, or what they say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from tests.tuner.config.test_fuzz_yaml import NAMES, as_yaml, content_of, place
from tests.tuner.console.test_fuzz import (
    FEW,
    MANY,
    assert_one_line,
    leaves,
    no_constant,
    workplace,  # noqa: F401  (a fixture)
)
from tuner import search
from tuner.errors import UserError
from tuner.store.suites import Suite

SUITE = {
    "description": "two", "targets": "mine", "preset": "smoke",
    "search": {"optimizers": ["adam", "sgd"], "trials": 3, "draws": "shared"},
    "tasks": {"mnist1d": None, "wine": {"task": {"name": "tabular_mlp", "dataset": "wine"}, "train": {"epochs": 3}}},
}  # fmt: skip
TARGETS = {
    "version": 1, "made": {"by": "hand"},
    "tasks": {"mnist1d": {"target": 1.5, "metric": "val_loss", "dataset": "mnist1d"}},
}  # fmt: skip
FOLDER = {"schema_version": 1, "suite": "two", "targets": "mine", "tasks": ["mnist1d", "wine"]}


@FEW
@given(st.data())
def test_odd_suites(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    odd_suite(tmp_path_factory, data)


@pytest.mark.slow
@MANY
@given(st.data())
def test_many_odd_suites(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    odd_suite(tmp_path_factory, data)


def odd_suite(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "suites"
    shutil.rmtree(folder, ignore_errors=True)
    contents: dict[str, Any] = {"suites/mine": SUITE, "targets/mine": TARGETS}
    odd = data.draw(st.sampled_from([*contents]))
    for name, tree in contents.items():
        place(folder / f"{name}.yaml", data.draw(content_of(tree) if name == odd else st.just(as_yaml(tree))))
    suite = data.draw(st.just("mine") | NAMES)
    output = data.draw(st.sampled_from([[], ["--json"], ["--only", "wine"]]))
    argv = ["--suite", suite, "--configs", str(folder), "--dry-run", *output]
    before = sorted(Path.cwd().rglob("*"))
    code, out, err = leaves(search.main, argv)
    assert code in (0, 2), err
    if code == 2:
        assert_one_line(argv, out, err)
    elif "--json" in argv:
        plan = json.loads(out, parse_constant=no_constant)
        assert plan["total"] == sum(task["trials"] + task["retrain"] for task in plan["tasks"]) > 0
    assert sorted(Path.cwd().rglob("*")) == before
    event(f"exit code {code}")


@FEW
@given(content=content_of(FOLDER))
def test_an_odd_suite_yaml_is_refused_in_a_line_or_names_runs_within(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "suite"
    for entry in ("mnist1d", "wine"):
        place(folder / entry / "config.yaml", b"")
    place(folder / "suite.yaml", content)
    try:
        suite = Suite.open(folder)
    except UserError as error:
        assert_one_line([], "", f"error: {error}\n")
        return
    assert suite.runs and {run.path.parent for run in suite.runs.values()} == {folder}
    assert set(suite.runs) <= {"mnist1d", "wine"}

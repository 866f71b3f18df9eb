"""Warnings in the preflight reach the person, each once."""

from __future__ import annotations

import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import environment, run
from tuner.config.layers import resolve
from tuner.workers import preflight
from tuner.workers.raised_warnings import LENGTH, collect_warnings

TASK = """
    import torch

    from tasks.tabular_mlp import TabularMLP


    class Broadcast(TabularMLP):
        def criterion(self, outputs, targets):
            return torch.nn.functional.mse_loss(outputs[:, :1], targets.float())
"""


def test_each_warning_is_a_line_and_said_once() -> None:
    with collect_warnings() as lines:
        for _ in range(3):
            warnings.warn("two\nlines", stacklevel=1)
        warnings.warn("x" * 1000, RuntimeWarning, stacklevel=1)
        warnings.simplefilter("default", DeprecationWarning)  # in place of pytest's
        warnings.warn("to be renamed", DeprecationWarning, stacklevel=1)
    assert lines[0] == "two lines" and lines[1].startswith("xxx") and len(lines[1]) <= LENGTH and len(lines) == 2


def test_a_loss_that_broadcasts_is_warned_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broadcast_task.py").write_text(textwrap.dedent(TASK))
    monkeypatch.syspath_prepend(tmp_path)
    flags: dict[str, Any] = {
        "task.name": "tabular_mlp", "search.optimizers": ["adam", "rmsprop"], "resources.gpus_per_trial": 0.0,
    }  # fmt: skip
    ordinary, own = resolve(flags), resolve(flags, ["task.class=broadcast_task.Broadcast"])
    found = preflight.read_answer(preflight.run_checks(ordinary, here=True))
    assert found is not None and found.warnings == []
    found = preflight.read_answer(preflight.run_checks(own, here=True))
    assert found is not None
    said = [line for line in found.warnings if line.startswith("Using a target size (torch.Size([90])) that is diff")]
    assert len(said) == 1 and "input size (torch.Size([90, 1]))" in said[0]


@pytest.mark.slow
def test_a_person_sees_it(tmp_path: Path) -> None:
    (tmp_path / "broadcast_task.py").write_text(textwrap.dedent(TASK))
    args = ["--task", "tabular_mlp", "--optimizers", "adam", "--trials", "2", "--seeds", "1", "--out", ".", "--set"]
    done = run(
        tmp_path, "tuner.search", *args, "task.class=broadcast_task.Broadcast", "train.epochs=2", "retrain.epochs=2",
        env=environment(tmp_path),
    )  # fmt: skip
    assert done.err.count("warning: Using a target size (torch.Size([90]))") == 1, done.err

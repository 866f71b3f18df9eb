"""Kept weights: a file for each run, whatever its optimizer is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.table_rows import seed_row
from tuner.store.kept_weights import KeptWeights
from tuner.store.run import Run

NAMES = ["adam", "adam-1", "adam.b1", "Adam"]


@pytest.fixture
def weights(tmp_path: Path) -> KeptWeights:
    kept = KeptWeights(tmp_path / "weights")
    for name in NAMES:
        for seed in (0, 1, 10):
            kept.write(name, seed, f"{name} {seed}".encode())
    return kept


def test_each_run_has_its_own(weights: KeptWeights) -> None:
    assert weights.file("adam.b1", 10).name == "adam.b1-10.safetensors" and weights.file("adam.b1", 10).is_file()
    for name in NAMES:
        assert [weights.read(name, seed) for seed in (0, 1, 2)] == [f"{name} 0".encode(), f"{name} 1".encode(), None]


def test_those_of_some_runs_of_one_optimizer_are_forgotten_and_no_others(weights: KeptWeights) -> None:
    weights.forget("adam", [1, 10, 7])
    for name in NAMES:
        gone = [seed for seed in (0, 1, 10) if weights.read(name, seed) is None]
        assert gone == ([1, 10] if name == "adam" else [])


def test_a_run_that_has_none_has_not_those_of_one_before(weights: KeptWeights, tmp_path: Path) -> None:
    weights.write("adam", 1, b"new")
    assert weights.read("adam", 1) == b"new"
    weights.write("adam", 1, None)
    assert weights.read("adam", 1) is None and weights.read("adam", 10) == b"adam 10"
    none = KeptWeights(tmp_path / "none")
    none.write("adam", 1, None)
    assert none.read("adam", 1) is None and not (tmp_path / "none").exists()


def test_complete_runs_without_any_are_counted(run: Run) -> None:
    rows = [seed_row(0), seed_row(1), seed_row(2), seed_row(3, status="diverged"), seed_row(4, status="failed")]
    run.write_seeds(rows, [])
    assert run.weights.lacking(run.seed_rows()) == 3
    run.weights.write("adam", 1, b"x")
    assert run.weights.lacking(run.seed_rows()) == 2
    run.weights.write("adam", 0, b"x")
    run.weights.write("adam", 2, b"x")
    assert run.weights.lacking(run.seed_rows()) == 0


def test_weights_of_another_winner_go_with_its_curves(run: Run) -> None:
    for name, seed in (("adam", 0), ("adam", 10_000), ("sgd", 0)):
        run.weights.write(name, seed, b"x")
    run.forget_retrained("adam", 0, [0])
    assert run.weights.read("adam", 0) is None
    assert run.weights.read("adam", 10_000) == run.weights.read("sgd", 0) == b"x"

"""A search on a Ray cluster that is already there, here two nodes on one machine: steps are timed in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tuner.store import Run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


def search(folder: Path, address: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tuner.search", "--address", address, "--out", str(folder), "--name", "job", *args],
        cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=180,
    )  # fmt: skip


@pytest.mark.slow
def test_steps_are_timed_and_cohorts_chosen_in_the_cluster(tmp_path: Path, address: str) -> None:
    done = search(tmp_path, address, "--task", "rahimi_recht", "--optimizers", "adam", "--trials", "32", "--seeds", "6",
                  "--set", "train.epochs=10", "retrain.epochs=10")  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = Run.open(tmp_path / "job")
    measured = run.env()["cohorts"]["member_step_s"]["adam"]
    assert set(measured) == {"1", "4", "6"} and all(seconds > 0 for seconds in measured.values())
    assert run.env()["estimate"]["step_ms"]["adam"] == pytest.approx(1000 * measured["1"])
    assert len(run.trials()) == 32 and run.trials()["cohort"].max() == run.env()["cohorts"]["search"]["adam"] > 1
    assert run.seeds()["cohort"].tolist() == [6] * 6


@pytest.mark.slow
def test_data_that_is_not_there_costs_one_line(tmp_path: Path, address: str) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "train.txt").write_text("too short")
    for name in ("valid.txt", "test.txt"):
        (folder / name).write_text("too short")
    done = search(tmp_path, address, "--task", "transformer", "--data-dir", str(folder), "--optimizers", "adam")
    assert done.returncode == 2 and "too few for one window" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "job").exists()

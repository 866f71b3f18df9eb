"""Searches on Ray clusters that are already there, here several nodes on one machine."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import torch
from ray.cluster_utils import Cluster

from tests.support import commands
from tests.support.commands import ROOT, finish
from tuner.store.run import Run


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


def start(folder: Path, address: str, *args: str) -> subprocess.Popen[str]:
    return commands.start(ROOT, "tuner.search", "--address", address, "--out", folder, "--name", "job", *args)


@pytest.mark.slow
def test_steps_are_timed_and_cohorts_chosen_in_the_cluster(tmp_path: Path, address: str) -> None:
    args = ["--task", "rahimi_recht", "--optimizers", "adam", "--trials", "32", "--seeds", "6"]
    done = finish(start(tmp_path, address, *args, "--set", "train.epochs=10", "retrain.epochs=10"))
    assert done.code == 0, done.err
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
    args = ["--task", "transformer", "--data-dir", str(folder), "--optimizers", "adam"]
    done = finish(start(tmp_path, address, *args))
    assert done.code == 2 and "too few for one window" in done.err.splitlines()[-1]
    assert not (tmp_path / "job").exists()


@pytest.mark.slow
def test_every_trial_is_accounted_for_when_a_node_dies(tmp_path: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    _, doomed = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    run = Run(tmp_path / "job")
    try:
        args = ["--task", "mnist1d", "--optimizers", "adam", "sgd", "--trials", "60", "--seeds", "3", "--cohort", "1"]
        with start(tmp_path, cluster.address, *args, "--set", "train.epochs=8", "retrain.epochs=2") as process:
            deadline = time.monotonic() + 120
            while len(run.trials()) < 10 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            before = len(run.trials())
            cluster.remove_node(doomed, allow_graceful=False)
            _, err = process.communicate(timeout=240)
    finally:
        cluster.shutdown()
    assert process.returncode == 0, err
    assert run.config().resources.max_concurrent == 3 and 10 <= before < 110
    trials, seeds = run.trials(), run.seeds()
    assert sorted(zip(trials["optimizer"], trials["trial"], strict=True)) == [
        (name, number) for name in ("adam", "sgd") for number in range(60)
    ]
    assert set(trials["state"]) == {"complete"} and set(seeds["status"]) == {"complete"} and len(seeds) == 6
    for name in ("adam", "sgd"):
        stored = optuna.load_study(study_name=f"mnist1d/{name}", storage=run.study_url).trials
        assert [trial.state.name for trial in stored] == ["COMPLETE"] * 60


@pytest.mark.slow
def test_four_trials_share_a_gpu_that_a_node_declares(tmp_path: Path) -> None:
    """Scheduling alone: there is no such GPU, so training is on the CPU, which is said."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=8, num_gpus=1)
    run, most = Run(tmp_path / "job"), 0
    try:
        args = ["--task", "mnist1d", "--optimizers", "adam", "--trials", "40", "--seeds", "1", "--cohort", "1"]
        args += ["--gpus-per-trial", "0.25", "--set", "train.epochs=8", "retrain.epochs=1"]
        with start(tmp_path, cluster.address, *args) as process:
            while process.poll() is None:
                most = max([most, *(p["running"] for p in (run.status() or {"progress": []})["progress"])])
                time.sleep(0.1)
            _, err = process.communicate(timeout=60)
    finally:
        cluster.shutdown()
    assert process.returncode == 0, err
    assert most == 4 == run.config().resources.max_concurrent
    assert len(run.trials()) == 40 and set(run.trials()["state"]) == {"complete"}
    if not torch.cuda.is_available():
        assert "PyTorch there finds none: training is on CPUs" in err
        assert run.env()["device"] == "cpu"


@pytest.mark.slow
def test_a_cluster_whose_head_is_gone_costs_one_line(tmp_path: Path) -> None:
    """Ray itself would wait for a minute, and then end the driver without a word."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    run = Run(tmp_path / "job")
    try:
        args = ["--task", "mnist1d", "--optimizers", "adam", "--trials", "500", "--seeds", "1", "--cohort", "1", "-q"]
        with start(tmp_path, cluster.address, *args, "--set", "train.epochs=4") as process:
            deadline = time.monotonic() + 120
            while len(run.trials()) < 3 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            cluster.head_node.kill_gcs_server()
            out, err = process.communicate(timeout=120)
    finally:
        cluster.shutdown()
    assert (process.returncode, out) == (3, ""), err
    (line,) = err.splitlines()
    assert line.startswith("error: Ray was lost: its head at ") and "to go on: " in line
    assert len(run.trials()) >= 3 and (run.status() or {})["state"] == "lost"

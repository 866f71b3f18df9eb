"""A whole search through Ray on the null GPU: what fails on it, fails one run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.commands import environment, finish, start
from tests.support.faulty import BAD, write_faulty
from tuner.store.run import Run

pytestmark = pytest.mark.slow

FAULTS = f"""
    import sys

    import torch

    from optimizers.first_order import FirstOrderOptimizer
    from tests.null_gpu.counting import poison


    class Illegal(Faulty):
        def fault(self):
            poison()


    class Hungry(Faulty):
        def fault(self):
            torch.empty(40_000_000_000, dtype=torch.uint8, device="cuda")


    class Together(FirstOrderOptimizer):
        def __init__(self, params, lr):
            super().__init__(params, dict(lr=lr))

        @staticmethod
        def update(param, grad, curvature, state, hp):
            if "tuner.workers.trainable" in sys.modules and (isinstance(hp["lr"], torch.Tensor) or hp["lr"] == {BAD}):
                poison()
            return param - 0.01 * grad, state
"""
KINDS = {"illegal": "Illegal", "hungry": "Hungry", "together": "Together"}
GPU = ("NULL_GPU", "LD_PRELOAD", "LD_LIBRARY_PATH", "TORCH_CUDNN_V8_API_DISABLED")


@pytest.mark.parametrize("cohort", ["1", "3"])
def test_a_search_outlives_an_illegal_access_and_want_of_memory(tmp_path: Path, cohort: str) -> None:
    """40 GB are more than a quarter of the GPU, and less than all of it. A stack has the rates of all its members."""
    write_faulty(tmp_path, FAULTS, KINDS)
    flags = ["--configs", "mine", "--optimizers", *KINDS, "--gpus-per-trial", "0.25", "--cohort", cohort]
    asked = ["--task", "mnist1d", "--trials", "3", "--seeds", "1", "--out", ".", "--name", "job", *flags]
    settings = ["--set", "train.epochs=1", "train.evaluations=2", "retrain.epochs=1", "faults.checkpoint_s=0.001"]
    env = environment(tmp_path, **{name: os.environ[name] for name in GPU})
    done = finish(start(tmp_path, "tests.null_gpu.search", *asked, *settings, "--studies", "1", "--no-report", env=env))
    run = Run(tmp_path / "job")
    rows = {(row["optimizer"], row["trial"]): row for row in run.trial_rows()}
    failed = {key for key, row in rows.items() if row["state"] != "complete"}
    assert failed == {("illegal", "1"), ("together", "1")}, done
    for name in ("illegal", "together"):
        assert "CUDA error: an illegal memory access" in rows[name, "1"]["error"]
        assert f"{name} trial 1: the GPU failed it, and its worker was replaced" in done.err
    assert ("together: the GPU failed a cohort of 3, its worker was replaced" in done.err) == (cohort == "3")
    assert len(run.valid_seed_rows()) == len(KINDS)
    assert run.env()["hardware"]["gpus"] == ["NVIDIA H100 80GB HBM3 (null)"]

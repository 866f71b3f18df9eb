from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.gpus import driver
from tuner.config.schema import Config
from tuner.errors import UserError
from tuner.machine import resources
from tuner.machine.resources import Machine, settle, this_machine


def config(cpus: float = 1, gpus: float | None = None, concurrent: int | None = None) -> Config:
    return Config.model_validate({
        "preset": "default", "out": "runs", "name": None,
        "task": {"name": "blobs", "class": "pkg.Blobs", "args": {}, "metric": "val_loss", "mode": "min", "target": None,
                 "dataset": "d", "datasets": ["d"], "data_dir": None, "check": None},
        "optimizers": {"adam": {"class": "pkg.Adam", "space": {}}},
        "train": {"epochs": 1, "batch_size": 8, "evaluations": 2},
        "search": {"optimizers": ["adam"], "trials": 3, "seed": 1000, "sampler": "tpe", "scheduler": "fifo"},
        "retrain": {"seeds": 2, "epochs": None},
        "resources": {"cpus_per_trial": cpus, "gpus_per_trial": gpus, "max_concurrent": concurrent, "address": None},
    })  # fmt: skip


def settled(machine: tuple[int, int], **asked: Any) -> tuple[float | None, int | None]:
    resources = settle(config(**asked), Machine(*machine)).resources
    return resources.gpus_per_trial, resources.max_concurrent


@pytest.mark.parametrize(
    ("machine", "asked", "gpus", "concurrent"),
    [
        # CPUs only.
        ((2, 0), {}, 0, 2),
        ((8, 0), {"cpus": 3}, 0, 2),
        ((8, 0), {"cpus": 8}, 0, 1),
        ((2, 0), {"cpus": 0.5}, 0, 4),
        ((3, 0), {"cpus": 1.5}, 0, 2),
        ((4, 0), {"cpus": 0.1}, 0, 40),
        # By default one GPU for a run.
        ((16, 1), {}, 1, 1),
        ((16, 4), {}, 1, 4),
        ((2, 4), {}, 1, 2),
        # Shares of a GPU.
        ((16, 1), {"gpus": 0.25}, 0.25, 4),
        ((16, 1), {"gpus": 0.3}, 0.3, 3),
        ((16, 1), {"gpus": 0.1}, 0.1, 10),
        ((16, 1), {"gpus": 0.6}, 0.6, 1),
        ((16, 2), {"gpus": 0.6}, 0.6, 2),  # the two halves that are left are no GPU
        ((16, 3), {"gpus": 0.4}, 0.4, 6),
        ((3, 1), {"gpus": 0.25}, 0.25, 3),
        ((16, 1), {"gpus": 0.25, "cpus": 8}, 0.25, 2),
        # No GPU where there is one.
        ((16, 4), {"gpus": 0}, 0, 16),
        # A cap.
        ((8, 0), {"concurrent": 3}, 0, 3),
        ((2, 0), {"concurrent": 3}, 0, 2),
        ((16, 2), {"gpus": 0.5, "concurrent": 1}, 0.5, 1),
    ],
)
def test_runs_at_once(machine: tuple[int, int], asked: dict[str, Any], gpus: float, concurrent: int) -> None:
    assert settled(machine, **asked) == (gpus, concurrent)


@examples(100)
@given(
    cpus=st.integers(1, 64), gpus=st.integers(0, 8), per_cpu=st.sampled_from([0.25, 0.5, 1, 2, 3.5, 7]),
    per_gpu=st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0]), cap=st.none() | st.integers(1, 9),
)  # fmt: skip
def test_runs_at_once_fit_and_one_more_would_not(
    cpus: int, gpus: int, per_cpu: float, per_gpu: float, cap: int | None
) -> None:
    assume(per_cpu <= cpus and per_gpu <= gpus)
    _, runs = settled((cpus, gpus), cpus=per_cpu, gpus=per_gpu, concurrent=cap)
    assert runs is not None and runs >= 1

    def fits(count: int) -> bool:
        on_gpus = not per_gpu or count * Fraction(per_gpu) <= gpus
        return count * Fraction(per_cpu) <= cpus and on_gpus and (cap is None or count <= cap)

    assert fits(runs) and not fits(runs + 1)


@pytest.mark.parametrize(
    ("machine", "asked", "said"),
    [
        ((2, 0), {"cpus": 3}, "resources.cpus_per_trial: 3 asked, but this machine has 2"),
        ((1, 0), {"cpus": 1.5}, "resources.cpus_per_trial: 1.5 asked, but this machine has 1"),
        *(
            ((8, gpus), {"gpus": 2}, "resources.gpus_per_trial: 2 asked, but a training run uses one device: 1 at most")
            for gpus in (0, 1, 4)
        ),
        ((8, 0), {"gpus": 1}, "resources.gpus_per_trial: 1 asked, but this machine has 0; use --gpus-per-trial 0"),
        ((8, 0), {"gpus": 0.5}, "resources.gpus_per_trial: 0.5 asked, but this machine has 0; use --gpus-per-trial 0"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(machine: tuple[int, int], asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        settle(config(**asked), Machine(*machine))
    assert str(caught.value) == said


def test_the_owner_of_what_there_is_is_named() -> None:
    with pytest.raises(UserError, match="but the cluster has 4"):
        settle(config(cpus=8), Machine(4, 0), Machine(2, 1), owner="the cluster")


def test_settling_changes_nothing_else_and_settles_once() -> None:
    before = config(cpus=2)
    once = settle(before, Machine(8, 2))
    assert settle(once, Machine(8, 2)) == once
    dumped, expected = once.model_dump(), before.model_dump()
    expected["resources"] |= {"gpus_per_trial": 1.0, "max_concurrent": 2}
    assert dumped == expected
    assert before == config(cpus=2)


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [(None, 2), ("", 0), ("-1", 0), ("0", 1), ("1", 1), ("0,1", 2), ("0, 1", 2), ("0,1,2,3", 2), ("GPU-abc", 1)],
)
def test_cuda_visible_devices_hides_gpus(monkeypatch: pytest.MonkeyPatch, visible: str | None, gpus: int) -> None:
    monkeypatch.setattr(resources, "pynvml", driver("NVIDIA H200", "NVIDIA H200"))
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert this_machine().gpus == gpus


def test_a_machine_without_devices_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "pynvml", driver())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert this_machine().gpus == 0


def test_cpus_are_those_that_this_process_may_use() -> None:
    assert this_machine().cpus >= 1

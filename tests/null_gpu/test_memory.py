"""Memory of a GPU: what a run that failed held is free again, a run's peak is its own, shares leave room for others."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

from tests.null_gpu.failing_workers import request
from tests.null_gpu.runs import maker, task_on
from tuner.config.layers import resolve
from tuner.machine import memory
from tuner.planning.messages import Report
from tuner.training.records import Budget
from tuner.training.single import train
from tuner.training.stack import together_or_singly
from tuner.workers.trainable import Worker

DEVICE = torch.device("cuda")
MB = 2**20


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    torch.zeros(4, 4, device=DEVICE) @ torch.zeros(4, 4, device=DEVICE)  # cuBLAS keeps its workspace
    gc.collect()
    torch.cuda.empty_cache()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def held() -> tuple[int, int]:
    return torch.cuda.memory_allocated(DEVICE), torch.cuda.memory_reserved(DEVICE)


def test_what_a_stack_that_failed_held_is_free_before_its_members_train_alone() -> None:
    before = held()
    seen = []

    def run(indices: list[int]) -> Iterator[str]:
        if len(indices) == 1:
            seen.append(held())
            return
        stack = torch.empty(400 * MB, dtype=torch.uint8, device=DEVICE)
        yield "begun"
        torch.cat([stack, torch.empty(85_000_000_000, dtype=torch.uint8, device=DEVICE)])

    assert list(together_or_singly([0, 1], run, DEVICE)) == [([0, 1], "begun")]
    assert all(own <= limit for now in seen for own, limit in zip(now, before, strict=True))


def worker(number: int, gpus: float) -> Worker:
    flags = {"task.name": "tabular_mlp", "search.optimizers": ["adam"], "resources.gpus_per_trial": gpus}
    made: Worker = object.__new__(Worker)
    made.setup(request(number), {"": resolve(flags, ["train.epochs=2", "train.evaluations=2"]).to_yaml()})
    return made


def next_report(of: Worker) -> Report:
    return Report.taken_from(of.step())


@pytest.fixture
def hungry(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps of Adam want so many bytes."""
    step, wanted = torch.optim.Adam.step, [0]

    def hungry(self: torch.optim.Adam) -> None:
        step(self)
        own = torch.empty(400 * MB, dtype=torch.uint8, device=DEVICE)
        torch.cat([own, torch.empty(wanted[0], dtype=torch.uint8, device=DEVICE)])

    monkeypatch.setattr(torch.optim.Adam, "step", hungry)
    return wanted


def test_so_is_what_a_single_run_held_whose_worker_is_fit_for_the_next(hungry: list[int]) -> None:
    one = worker(1, 0.25)
    assert next_report(one).outcomes[0].state == "complete"
    before = held()
    hungry[0] = 85_000_000_000
    one.reset_config(request(1))
    failed = next_report(one)
    assert (failed.outcomes[0].state, failed.outcomes[0].out_of_memory) == ("failed", True)
    assert not failed.worker_unusable and held() == before
    hungry[0] = 0
    one.reset_config(request(1))
    assert next_report(one).outcomes[0].state == "complete"


@pytest.mark.parametrize(("gpus", "kept"), [(0.25, False), (1.0, True)])
def test_only_a_worker_that_shares_its_gpu_gives_back_what_it_keeps_for_later(
    hungry: list[int], gpus: float, kept: bool
) -> None:
    assert next_report(worker(1, gpus)).done
    assert (held()[1] >= 800 * MB) == kept


def test_shares_and_contexts_of_all_processes_fit_on_the_gpu() -> None:
    total = 85_000_000_000 / MB
    memory.limit(DEVICE, 0.25, alone=False)
    allowed = (total - 4 * memory.CONTEXT_MB) / 4
    torch.empty(int((allowed - 200) * MB) - torch.cuda.memory_reserved(DEVICE), dtype=torch.uint8, device=DEVICE)
    torch.cuda.empty_cache()
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(int((allowed + 10) * MB), dtype=torch.uint8, device=DEVICE)
    memory.limit(DEVICE, 0.25, alone=True)
    torch.empty(int(2 * allowed * MB), dtype=torch.uint8, device=DEVICE)


def test_a_runs_peak_is_its_own_whatever_was_held_before() -> None:
    task = task_on("mnist1d")
    make, hp = maker("adam", {})

    def peak_mb() -> float:
        return train(task, make, hp, 0, Budget(1, 1)).clocks.peak_mem_mb

    peak_mb()
    expected = peak_mb()
    others = torch.empty(300 * MB, dtype=torch.uint8, device=DEVICE)
    assert peak_mb() == pytest.approx(expected, abs=1) and 0 < expected < 100
    del others


def test_the_analysis_of_the_curvature_leaves_peak_and_base_as_they_were() -> None:
    memory.reset_peak(DEVICE)
    own = torch.empty(100 * MB, dtype=torch.uint8, device=DEVICE)
    torch.empty(500 * MB, dtype=torch.uint8, device=DEVICE)
    memory.forget_peak(DEVICE)
    assert memory.peak_mb(DEVICE) == pytest.approx(100, abs=1)
    del own

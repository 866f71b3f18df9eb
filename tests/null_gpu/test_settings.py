"""Settings of a run on a GPU: what they cost in launches, and what recurrent networks need for a second derivative."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers import Sophia
from optimizers.curvature.interface import twice_differentiable
from tests.null_gpu.failing_workers import request
from tests.null_gpu.runs import steps_of, task_on
from tests.null_gpu.test_memory import next_report, worker
from tuner.config.layers import resolve
from tuner.hessian.hessian import Hessian, undisturbed
from tuner.training.engine import Engine
from tuner.workers.timing import measure


def test_a_deterministic_step_launches_no_more_kernels() -> None:
    plain, deterministic = (
        steps_of("mnist1d", "sophia", engine=Engine(deterministic=on, capture="off")) for on in (False, True)
    )
    assert deterministic.plain.launches == plain.plain.launches
    assert deterministic.refresh.launches == plain.refresh.launches


def test_kernels_are_loaded_by_steps_that_no_clock_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    step, steps = torch.optim.Adam.step, []

    def noted(self: torch.optim.Adam) -> None:
        steps.append(self)
        step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    one = worker(1, 1.0)
    for expected in (4, 2):
        steps.clear()
        assert next_report(one).outcomes[0].clocks["steps"] == 2 and len(steps) == expected
        one.reset_config(request(1))


def test_time_of_the_gpu_is_measured_beside_that_of_the_step() -> None:
    """The null GPU takes none."""
    flags = {"task.name": "mnist1d", "search.optimizers": ["adam", "sophia"], "resources.gpus_per_trial": 1.0}
    settled = resolve(flags)
    found = measure(settled, task_on("mnist1d"))
    assert set(found.device_s) == {"adam", "sophia"} and found.step_s["adam"] > 0
    assert all(set(found.device_s[name]) == set(found.member_s[name]) for name in found.device_s)
    assert {seconds for of in found.device_s.values() for seconds in of.values()} == {0.0}


@pytest.mark.parametrize("cell", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_networks_are_differentiated_twice_without_cudnn(cell: type[nn.RNNBase]) -> None:
    with torch.backends.cudnn.flags(enabled=False):  # which the null GPU has nothing of for these
        network = cell(3, 4).cuda()
    inputs = torch.zeros(5, 2, 3, device="cuda")

    def loss() -> Tensor:
        return network(inputs)[0].square().mean()

    optimizer = Sophia(network.parameters(), lr=1e-3, estimator="hutchinson", update_period=1)
    optimizer.step(loss)
    with twice_differentiable():
        assert torch.backends.cudnn.enabled
        graph = torch.autograd.grad(loss(), list(network.parameters()), create_graph=True)
    task: Any = SimpleNamespace(loss=lambda model, batch: (model(batch[0])[0].square().mean(), None))
    with undisturbed(network, torch.device("cuda"), 0):
        hessian = Hessian(task, network, [name for name, _ in network.named_parameters()], [(inputs, inputs)], None)
        assert (hessian @ torch.ones(hessian.shape[0], device="cuda")).shape == hessian.shape[:1]
    assert "Cudnn" not in str(graph[0].grad_fn)
    assert torch.autograd.grad(sum(grad.sum() for grad in graph), list(network.parameters()))

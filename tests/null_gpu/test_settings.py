"""Settings of a run on a GPU: what they cost in launches, and what recurrent networks need for a second derivative."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from optimizers import Sophia
from optimizers.curvature.interface import twice_differentiable
from tests.null_gpu.runs import steps_of
from tuner.training.engine import Engine


def test_a_deterministic_step_launches_no_more_kernels() -> None:
    plain, deterministic = (steps_of("mnist1d", "sophia", engine=Engine(deterministic=on)) for on in (False, True))
    assert deterministic.plain.launches == plain.plain.launches
    assert deterministic.refresh.launches == plain.refresh.launches


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
    assert "Cudnn" not in str(graph[0].grad_fn)
    assert torch.autograd.grad(sum(grad.sum() for grad in graph), list(network.parameters()))

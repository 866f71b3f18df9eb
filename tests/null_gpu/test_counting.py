"""The null GPU counts what PyTorch asks of a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.null_gpu.counting import counting, memory_of

ROWS = 4


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).cuda()


def test_launches_are_counted_and_an_unnecessary_wait_is_named() -> None:
    a = torch.zeros(ROWS, device="cuda")
    with counting() as one:
        a + a
    with counting() as waited:
        a.sum().item()
    assert (one.launches, one.synchronisations, dict(one.waits)) == (1, 0, {})
    assert waited.synchronisations == 1
    assert list(waited.waits) == ["test_counting.py:23"]


def test_memory_ends_where_it_is_said() -> None:
    torch.cuda.empty_cache()
    with memory_of(10_000_000), pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        torch.empty(20_000_000, dtype=torch.uint8, device="cuda")


def test_a_captured_graph_is_one_launch_and_a_wait_in_it_an_error() -> None:
    model, inputs = network(), torch.zeros(ROWS, 3, device="cuda")
    model(inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(inputs)
    with counting() as replayed:
        graph.replay()
    assert (replayed.launches, replayed.graphs) == (1, 1)
    with pytest.raises(torch.AcceleratorError, match="CUDA error"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        model(inputs).sum().item()

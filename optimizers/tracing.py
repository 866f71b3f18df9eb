"""Functions of tensors as plain lists of operations: traced once per kind of inputs, then replayed.

What ``vmap`` and autograd do at every call, a replay has behind it: of small tensors they are most of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

Flat = Callable[..., Sequence[Tensor | None]]
"""Takes tensors, returns tensors (or ``None`` in place of some); what else it depends on must not change."""


def trace(function: Flat, example: Sequence[Tensor]) -> Flat:
    """The function's operations on inputs like the example, without gradients of their own.

    Operations that change an input in place do so at each replay, but not to the example; random ones draw anew.
    """
    copies = [tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in example]
    state = torch.random.get_rng_state()
    with torch.enable_grad():
        graph = make_fx(function)(*copies)
    torch.random.set_rng_state(state)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph.forward


def kind(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    """What a trace depends on of its inputs."""
    return tuple((tuple(t.shape), t.dtype, t.device, t.requires_grad) for t in tensors)

"""Functions of tensors as plain lists of operations: traced once per kind of inputs, then replayed.

What ``vmap`` and autograd do at every call, a replay has behind it: of small tensors they are most of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

Flat = Callable[..., Sequence[Tensor | None]]
"""Takes tensors, returns tensors (or ``None`` in place of some); what else it depends on must not change."""

ATEN = torch.ops.aten
SAME = {ATEN.alias.default, ATEN.detach.default}
RESHAPES = {ATEN.expand.default, ATEN.view.default, ATEN._unsafe_view.default}


class Traced:
    """A function that is run as it is the first time, which may be the only one, and replayed from the second on.

    Operations that change an input in place do so at each replay; random ones draw anew. What is replayed carries no
    gradients of its own.

    Args:
        function: to be called with inputs of one ``kind`` only.
    """

    def __init__(self, function: Flat) -> None:
        self.function = function
        self._called = False
        self._replay: Flat | None = None

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor | None]:
        if self._replay is not None:
            with torch.no_grad():
                return self._replay(*inputs)
        if self._called:
            self._replay = _trace(self.function, inputs)
            return self(*inputs)
        self._called = True
        with torch.enable_grad():
            return self.function(*inputs)


def _trace(function: Flat, example: Sequence[Tensor]) -> Flat:
    copies = [tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in example]
    state = torch.random.get_rng_state()
    with torch.enable_grad():
        graph = make_fx(function)(*copies)
    torch.random.set_rng_state(state)
    _simplify(graph)
    return graph.forward


def kind(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    """What a trace depends on of its inputs."""
    return tuple((tuple(t.shape), t.dtype, t.device, t.requires_grad) for t in tensors)


def _simplify(graph: GraphModule) -> None:
    """Leave out operations that do nothing, and do those that depend on no input now."""
    nodes = graph.graph
    nodes.eliminate_dead_code()
    for node in list(nodes.nodes):
        if node.op == "call_function" and _does_nothing(node):
            node.replace_all_uses_with(node.args[0])
            nodes.erase_node(node)
    for node in list(nodes.nodes):
        if node.op == "call_function" and _is_constant(node):
            name = f"constant_{node.name}"
            args, kwargs = map_arg((node.args, node.kwargs), lambda source: getattr(graph, source.target))
            graph.register_buffer(name, node.target(*args, **kwargs))
            with nodes.inserting_before(node):
                node.replace_all_uses_with(nodes.get_attr(name))
            nodes.erase_node(node)
    nodes.eliminate_dead_code()
    graph.recompile()


def _does_nothing(node: Node) -> bool:
    if node.target in SAME:
        return True
    source = node.args[0]
    return node.target in RESHAPES and isinstance(source, Node) and _shape(node) == _shape(source) is not None


def _shape(node: Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _is_constant(node: Node) -> bool:
    """Whether a tensor is made of nothing but numbers and other constants, and never changed."""
    if any(source.op != "get_attr" for source in node.all_input_nodes):
        return False
    touched = [node, *node.users]
    return not any(isinstance(n.target, torch._ops.OpOverload) and _changes(n.target) for n in touched)


def _changes(operation: torch._ops.OpOverload) -> bool:
    return operation._schema.is_mutable or torch.Tag.nondeterministic_seeded in operation.tags

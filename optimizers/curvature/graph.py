"""The graph that autograd recorded of a forward pass: its operations, and the parameters that each depends on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

LEAF = "torch::autograd::AccumulateGrad"


class Graph:
    """What lies between outputs and parameters.

    A set of parameters is a number here, whose bit i says whether the i-th parameter is in it.

    Args:
        outputs: with their graph.
        params: those of interest; ``None`` for none at a place.

    Attributes:
        nodes: from the parameters to the outputs.
        reach: for each node, the parameters that its outputs depend on.
    """

    def __init__(self, outputs: Tensor, params: Sequence[Tensor | None]) -> None:
        self.root = place_of(outputs)
        self._bits = {id(param): 1 << i for i, param in enumerate(params)}
        self.nodes: list[Node] = []
        self.reach: dict[Node, int] = {}
        for node in _in_order(self.root.node):
            if node.name() == LEAF:
                self.reach[node] = self._bits.get(id(node.variable), 0)
                continue
            reach = 0
            for below, _ in node.next_functions:
                reach |= self.reach[below] if below is not None else 0
            self.reach[node] = reach
            if reach:
                self.nodes.append(node)

    def of_input(self, node: Node, which: int) -> int:
        """The parameters that an input of an operation depends on."""
        below, _ = node.next_functions[which]
        return 0 if below is None else self.reach[below]

    def of_any_input(self, node: Node) -> int:
        """The parameters that any of its inputs depends on."""
        return self.reach[node]

    def beside(self, loss: Tensor) -> int:
        """The parameters that the loss depends on not only by the outputs."""
        found, seen = 0, set[Node]()
        start = place_of(loss)
        waiting = [] if start == self.root else [start.node]
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            if node.name() == LEAF:
                found |= self._bits.get(id(node.variable), 0)
            waiting += [edge.node for edge in edges(node) if edge is not None and edge != self.root]
        return found


def place_of(tensor: Tensor) -> GradientEdge:
    """Where the gradient of a tensor goes: what two such places have to be alike to be one, and no more."""
    edge = get_gradient_edge(tensor)
    return GradientEdge(edge.node, edge.output_nr)


def edges(node: Node) -> list[GradientEdge | None]:
    """Where the gradients of its inputs go; ``None`` for one that has none."""
    return [None if below is None else GradientEdge(below, number) for below, number in node.next_functions]


def shape_of(edge: GradientEdge) -> torch.Size:
    """Of the tensor that belongs to this place of the graph."""
    metadata: Any = edge.node._input_metadata
    return torch.Size(metadata[edge.output_nr].shape)


def add_at(found: dict[GradientEdge, Tensor], edge: GradientEdge, value: Tensor) -> None:
    """Add to what there is at a place of the graph."""
    found[edge] = found[edge] + value if edge in found else value


def names(listed: str) -> frozenset[str]:
    """Of operations, as ``operation.short_name`` gives them."""
    return frozenset(listed.split())


def set_of(places: Iterable[int]) -> int:
    """The set of the parameters at these places."""
    return sum(1 << place for place in set(places))


def _in_order(root: Node) -> Iterator[Node]:
    """Every node after those that it goes back to."""
    seen, stack = {root}, [(root, iter(root.next_functions))]
    while stack:
        node, following = stack[-1]
        for below, _ in following:
            if below is not None and below not in seen:
                seen.add(below)
                stack.append((below, iter(below.next_functions)))
                break
        else:
            stack.pop()
            yield node

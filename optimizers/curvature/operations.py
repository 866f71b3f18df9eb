"""What a forward pass did, with the gradients of its backward pass, from which second derivatives are found."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import Node

from optimizers.curvature.graph import Graph, edges, names
from optimizers.curvature.operation import (
    LINEAR,
    TOLERANCE,
    UNKNOWN,
    Curved,
    Elementwise,
    Kinds,
    Linear,
    Unknown,
    kind_of,
    short_name,
)
from optimizers.curvature.second_derivatives import OWN

PIECEWISE_LINEAR = names(
    "Relu LeakyRelu Abs Threshold Hardtanh Hardsigmoid Softshrink Hardshrink Clamp ClampMin ClampMax RreluWithNoise "
    "MaxPool2DWithIndices MaxPool3DWithIndices AdaptiveMaxPool2D AdaptiveMaxPool3D FractionalMaxPool2D "
    "FractionalMaxPool3D Max Min Amax Amin Maximum Minimum Fmax Fmin Median Kthvalue Cummax Cummin"
)
MULTILINEAR = names("Convolution CudnnConvolution MkldnnConvolution Mv Addmv Addbmm Dot Addr PreluKernel")
"""Linear in each of their inputs, or piecewise so; products of two that depend on one parameter are not drawn."""
PRODUCTS = names("Mul Div Mm Addmm Bmm Baddbmm")
BATCH_NORMS = names("NativeBatchNorm CudnnBatchNorm MiopenBatchNorm")

Heard = dict[int, tuple[Tensor | None, ...]]
"""The gradients that came to operations, by their numbers."""


class Operations:
    """The operations of a forward pass, which listen to the backward pass that comes next.

    Args:
        outputs, params: as of ``Graph``.
        kinds: what is known of operations; what is found out is added.

    Attributes:
        elementwise: those that were found to be functions of each entry.
        known: operations whose second derivative is known and not zero, in the order in which they were done.
        unknown: of others, by name, the parameters that they matter to.
    """

    def __init__(self, outputs: Tensor, params: Sequence[Tensor | None], kinds: Kinds) -> None:
        self.graph = Graph(outputs, params)
        self._kinds = kinds
        self._curved = curved_operations(self.graph, kinds)
        self._heard: Heard = {}
        self.elementwise: set[Node] = set()
        self.known: list[Curved] = []
        self.unknown: dict[str, int] = {}
        # The hooks know the gradients alone: nothing of the graph refers to itself.
        self._hooks = [
            each.node.register_prehook(partial(self._heard.__setitem__, each.number)) for each in self._curved
        ]

    def find_members(self, losses: Tensor, params: Sequence[Tensor], found: dict[int, int]) -> bool:
        """Find by two backward passes where the members of a stack are in operations' outputs; whether all are.

        Args:
            losses: (members,), with their graph.
            params: the stack's.
            found: which dimension they are of each operation; what is found out is added.
        """
        if all(each.number in found for each in self._curved if not isinstance(each, Unknown)):
            return True
        weights = 1 + torch.arange(len(losses), dtype=losses.dtype, device=losses.device) / len(losses)
        needed = [param for param in params if param.requires_grad]
        plain, weighted = (self._propagated(losses, needed, vector) for vector in (torch.ones_like(weights), weights))
        known, _ = self._classified(plain)
        for each in known:
            grads = plain[each.number][0], weighted[each.number][0]
            if grads[0] is None or grads[1] is None or not grads[0].any():
                continue
            wide = range(grads[0].dim()) if isinstance(each, Elementwise) else range(1)
            at = [dim for dim in wide if _led(*grads, weights, dim)]
            if not at:
                return False
            found[each.number] = at[0]
        return True

    def hear_no_more(self, members: dict[int, int] | None = None) -> None:
        """After the backward pass: find what there is to know.

        Args:
            members: as found by ``find_members``.
        """
        for hook in self._hooks:
            hook.remove()
        for each in self._curved:
            each.members_at = (members or {}).get(each.number, 0)
        self.known, self.unknown = self._classified(self._heard)

    def _propagated(self, losses: Tensor, params: Sequence[Tensor], vector: Tensor) -> Heard:
        self._heard.clear()
        torch.autograd.grad(losses, params, vector, retain_graph=True, allow_unused=True)
        return dict(self._heard)

    def _classified(self, heard: Heard) -> tuple[list[Curved], dict[str, int]]:
        known, unknown = list[Curved](), dict[str, int]()
        for each in self._curved:
            each.grads = heard.get(each.number, ())
            if not any(grad is not None for grad in each.grads):
                continue
            if isinstance(each, Elementwise | Linear):
                found = each.find(self._kinds)
                if not found:
                    self._kinds[kind_of(each.node)] = UNKNOWN
            else:
                found = not isinstance(each, Unknown)
            if not found:
                name = short_name(each.node)
                unknown[name] = unknown.get(name, 0) | each.reach
            elif isinstance(each, Elementwise):
                self.elementwise.add(each.node)
                known += [] if each.residual is None else [each]
            elif not isinstance(each, Linear):
                known.append(each)
        return known, unknown


def _led(plain: Tensor, weighted: Tensor, weights: Tensor, dim: int) -> bool:
    """Whether members are this dimension, or the first factor of the first."""
    if plain.dim() == 0 or plain.shape[dim] % len(weights) or (dim and plain.shape[dim] != len(weights)):
        return False
    rows, scaled = (t.movedim(dim, 0).reshape(len(weights), -1) for t in (plain, weighted))
    expected = rows * weights[:, None].to(rows)
    return bool((scaled - expected).norm() <= TOLERANCE / len(weights) * expected.norm())


def curved_operations(graph: Graph, kinds: Kinds) -> list[Curved]:
    """Those that have, or may have, a second derivative that matters, in the order in which they were done."""
    found = []
    for number, node in enumerate(graph.nodes):
        if (curved := _read(node, graph, kinds)) is not None:
            curved.number = number
            found.append(curved)
    return sorted(found, key=lambda curved: curved.node._sequence_nr())


def _read(node: Node, graph: Graph, kinds: Kinds) -> Curved | None:
    name = short_name(node)
    if name in PIECEWISE_LINEAR or kinds.get(kind_of(node)) == LINEAR:
        return None
    if name in BATCH_NORMS:
        return None  # in training mode it is left out
    reaches = [graph.of_input(node, i) for i in range(len(node.next_functions))]
    if name in PRODUCTS or name in MULTILINEAR:
        shared, before = 0, 0
        for reach in reaches[-2:] if name in OWN else reaches:
            shared, before = shared | (before & reach), before | reach
        if name == "Div":
            shared = reaches[1]
        return OWN.get(name, Unknown)(node, shared) if shared else None
    if name in OWN:
        return OWN[name](node, reaches[0]) if reaches[0] else None
    if kinds.get(kind_of(node)) == UNKNOWN:
        return Unknown(node, graph.of_any_input(node))
    several = sum(edge is not None for edge in edges(node)) > 1
    return (Linear if several else Elementwise)(node, graph.of_any_input(node))

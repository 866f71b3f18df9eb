"""A diagonal of second derivatives is carried back through the network, operation by operation.

Where J is an operation's Jacobian and r the diagonal of its own second derivative (see ``second_derivatives``), the
diagonal h of its outputs becomes that of J^T diag(h) J, and r. What two entries of an input have together is lost.

Source: Becker, LeCun, "Improving the convergence of back-propagation learning with second order methods", 1988; with
the residuals as in Elsayed, Farrahi, Dangel, Mahmood, "Revisiting scalable Hessian diagonal approximations for
applications in reinforcement learning", 2024 (HesScale).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from optimizers.curvature.graph import LEAF, Graph, add_at, edges, names, place_of, set_of, shape_of
from optimizers.curvature.interface import Refresh
from optimizers.curvature.operation import Curved, of_inputs, short_name
from optimizers.curvature.operations import BATCH_NORMS, PIECEWISE_LINEAR, Operations
from optimizers.curvature.per_sample import PerSample
from optimizers.curvature.second_derivatives import rows_of, saved_dim, signed

SAID = "said what nothing is carried through"
Carry = Callable[[Node, Tensor], Sequence[Tensor | None] | None]
"""The diagonal for each input of an operation, given that of its output; ``None`` if that is not known."""

CHOOSING = names(
    "View UnsafeView ReshapeAlias Alias T Transpose Permute Expand Squeeze Unsqueeze Select Slice Split SplitWithSizes "
    "UnsafeSplit UnsafeSplitWithSizes Unbind Cat Stack Sum Clone ToCopy Index IndexSelect Gather Embedding "
    "ConstantPadNd Flip Roll AsStrided Unfold MaskedFill Where Tril Triu Diagonal Repeat MaxPool2DWithIndices "
    "MaxPool3DWithIndices AdaptiveMaxPool2D AdaptiveMaxPool3D UpsampleNearest1D UpsampleNearest2D UpsampleNearest3D"
)
"""Their Jacobians are of zeros and ones: outputs are entries of inputs, or sums of some."""


def carried(refresh: Refresh, per_sample: PerSample, start: Tensor | None, name: str) -> list[Tensor]:
    """A diagonal per parameter.

    Args:
        refresh: whose operations were heard.
        per_sample: the layers' uses of parameters.
        start: the diagonal at the outputs, ``None`` for zero.
        name: the estimator's, for a warning.
    """
    operations: Operations = refresh.record.operations
    ends = set_of(i for place, i in enumerate(refresh.indices) if place in per_sample.uses)
    diagonals = Carried(operations.graph, operations.known, operations.elementwise, ends)
    with torch.no_grad():
        diagonals.carry(start)
        at = diagonals.at
        weights = {edge: at[edge][None] for edge in per_sample.edges if edge in at}
        found = per_sample.weighted(weights)
        for place, param in per_sample.others.items():
            found[place] = at.get(place_of(param), found[place])
    left_out = sorted(diagonals.stopped | operations.unknown.keys())
    if left_out and SAID not in refresh.memory:
        refresh.memory[SAID] = True
        warnings.warn(f"{name} carries nothing through {', '.join(left_out)}", stacklevel=3)
    return found


class Carried:
    """Diagonals of second derivatives at places of a graph.

    Args:
        graph: to go back through.
        own: operations that have second derivatives of their own.
        elementwise: the operations that are functions of each entry.
        ends: the parameters that layers explain, into which nothing is carried.

    Attributes:
        at: the diagonals.
        stopped: names of the operations through which nothing could be carried.
    """

    def __init__(self, graph: Graph, own: Sequence[Curved], elementwise: set[Node], ends: int) -> None:
        self._graph = graph
        self._own = {each.node: each for each in own}
        self._elementwise = elementwise
        self._ends = ends
        self.at: dict[GradientEdge, Tensor] = {}
        self.stopped: set[str] = set()

    def carry(self, start: Tensor | None) -> None:
        """From the outputs to the parameters.

        Args:
            start: the diagonal at the outputs, ``None`` for zero.
        """
        if start is not None:
            add_at(self.at, self._graph.root, start)
        for node in reversed(self._graph.nodes):
            outputs = range(len(node._input_metadata))
            given = [self.at.get(GradientEdge(node, i)) for i in outputs]
            if any(diagonal is not None for diagonal in given):
                self._through(node, given)
            if node in self._own:
                for edge, diagonal in self._own[node].diagonals():
                    add_at(self.at, edge, diagonal)

    def _through(self, node: Node, given: Sequence[Tensor | None]) -> None:
        found = self._carried(node, given)
        if found is None:
            self.stopped.add(short_name(node))
            return
        for edge, diagonal in zip(edges(node), found, strict=True):
            if edge is not None and diagonal is not None and not self._is_end(edge.node):
                add_at(self.at, edge, diagonal)

    def _carried(self, node: Node, given: Sequence[Tensor | None]) -> Sequence[Tensor | None] | None:
        """The diagonal for each input; ``None`` if that is not known."""
        name = short_name(node)
        if name in CHOOSING:
            return of_inputs(node, given)
        (only,) = given if len(given) == 1 else given[:1]
        if only is None:
            return None
        if name in CARRIES:
            return CARRIES[name](node, only)
        if name in PIECEWISE_LINEAR or name == "NativeDropout" or node in self._elementwise:
            slopes = of_inputs(node, [torch.ones_like(only), *[None] * (len(given) - 1)])
            return [None if slope is None else only * slope.square() for slope in slopes]
        return None

    def _is_end(self, node: Node) -> bool:
        """Whether this is a parameter that a layer explains, or a view of one."""
        while len(below := node.next_functions) == 1 and below[0][0] is not None:
            node = below[0][0]
        return node.name() == LEAF and not self._graph.reach[node] & ~self._ends


def _sum(node: Node, given: Tensor) -> list[Tensor | None]:
    """A sum or difference, of which one may be multiplied."""
    alpha = float(getattr(node, "_saved_alpha", 1)) ** 2
    factors = (alpha, 1.0) if short_name(node) == "Rsub" else (1.0, alpha)
    places = edges(node)
    return [
        None if edge is None else given.sum_to_size(shape_of(edge)) * factor
        for edge, factor in zip(places, factors[: len(places)], strict=True)
    ]


def _product(node: Node, given: Tensor) -> list[Tensor | None]:
    saved: Any = node
    places = edges(node)
    others = ("_saved_other", "_saved_self")[: len(places)]
    return [
        None if edge is None else (given * _value(getattr(saved, other)) ** 2).sum_to_size(shape_of(edge))
        for edge, other in zip(places, others, strict=True)
    ]


def _quotient(node: Node, given: Tensor) -> list[Tensor | None]:
    saved: Any = node
    divisor, places = _value(saved._saved_other), edges(node)
    found: list[Tensor | None] = [None] * len(places)
    if places[0] is not None:
        found[0] = (given / divisor**2).sum_to_size(shape_of(places[0]))
    if len(places) > 1 and places[1] is not None:
        slope = _value(saved._saved_self) / divisor**2
        found[1] = (given * slope**2).sum_to_size(shape_of(places[1]))
    return found


def _mean(node: Node, given: Tensor) -> list[Tensor | None]:
    (edge,) = edges(node)
    assert edge is not None
    (spread,) = of_inputs(node, [given])
    return [None if spread is None else spread * (given.numel() / shape_of(edge).numel())]


def _average_pool(node: Node, given: Tensor) -> list[Tensor | None] | None:
    saved: Any = node
    (edge,) = edges(node)
    assert edge is not None
    if short_name(node).startswith("Adaptive"):
        inputs, outputs = shape_of(edge)[2:], given.shape[2:]
        if any(size % to for size, to in zip(inputs, outputs, strict=True)):
            return None  # windows of several sizes
        window = prod(inputs) / prod(outputs)
    else:
        if not saved._saved_count_include_pad and any(saved._saved_padding):
            return None
        window = saved._saved_divisor_override or prod(saved._saved_kernel_size)
    (spread,) = of_inputs(node, [given])
    return [None if spread is None else spread / window]


def _matrix_product(node: Node, given: Tensor) -> list[Tensor | None]:
    left, right = (getattr(node, f"_saved_{name}", None) for name in MATRICES[short_name(node)])
    *added, first, second = edges(node)
    alpha, beta = (float(getattr(node, f"_saved_{name}", 1)) ** 2 for name in ("alpha", "beta"))
    return [
        *(None if edge is None else beta * given.sum_to_size(shape_of(edge)) for edge in added),
        None if first is None or right is None else alpha * given @ right.detach().square().mT,
        None if second is None or left is None else alpha * left.detach().square().mT @ given,
    ]


def _convolution(node: Node, given: Tensor) -> list[Tensor | None]:
    saved: Any = node
    numbers = [[signed(n) for n in getattr(saved, f"_saved_{name}")] for name in ("stride", "padding", "dilation")]
    output_padding = [signed(n) for n in saved._saved_output_padding]
    input, weight = saved._saved_input.detach(), saved._saved_weight.detach().square()
    wanted = [edge is not None for edge in edges(node)]
    found: Sequence[Tensor | None] = torch.ops.aten.convolution_backward(
        given, input.square(), weight, None, *numbers, saved._saved_transposed, output_padding, saved._saved_groups,
        [*wanted[:2], False],
    )  # fmt: skip
    of_bias = given.movedim(1, -1).flatten(0, -2).sum(0) if wanted[2] else None
    return [*found[:2], of_bias]


def _softmax(node: Node, given: Tensor) -> list[Tensor | None]:
    saved: Any = node
    p, dim = saved._saved_result.detach(), saved_dim(node)
    return [p.square() * (given * (1 - 2 * p) + (p.square() * given).sum(dim, keepdim=True))]


def _log_softmax(node: Node, given: Tensor) -> list[Tensor | None]:
    saved: Any = node
    p, dim = saved._saved_result.detach().exp(), saved_dim(node)
    return [given * (1 - 2 * p) + p.square() * given.sum(dim, keepdim=True)]


def _normalisation(node: Node, given: Tensor) -> list[Tensor | None]:
    """LayerNorm or GroupNorm: J = s (I - 1 1^T / D - n n^T / D)."""
    rows = rows_of(node)
    h = (given if rows.weight is None else given * rows.weight.square()).reshape(rows.normal.shape)
    n, size = rows.normal, rows.normal.shape[-1]
    total, first, second = (part.sum(-1, keepdim=True) for part in (h, h * n, h * n.square()))
    found = h * (1 - 2 * (1 + n.square()) / size) + (total + 2 * n * first + n.square() * second) / size**2
    carried_on = (rows.scale.square() * found).reshape(rows.shape)
    return [carried_on, *_to_affine(node, given, n.reshape(rows.shape), short_name(node) == "NativeGroupNorm")]


def _batch_norm(node: Node, given: Tensor) -> list[Tensor | None]:
    """As if the statistics were constants."""
    saved: Any = node
    channels = (-1, *[1] * (given.dim() - 2))
    if saved._saved_training:
        mean, scale = saved._saved_result1, saved._saved_result2
    else:
        mean, scale = saved._saved_running_mean, (saved._saved_running_var + saved._saved_eps).rsqrt()
    normal = (saved._saved_input.detach() - mean.view(channels)) * scale.view(channels)
    scale = scale if saved._saved_weight is None else scale * saved._saved_weight.detach()
    return [given * scale.square().view(channels), *_to_affine(node, given, normal, channels=True)]


def _to_affine(node: Node, given: Tensor, normal: Tensor, channels: bool) -> list[Tensor | None]:
    """What comes to a normalisation's weight and bias: of each channel, the second dimension, or of the last ones."""
    parts = (part.movedim(1, -1) if channels else part for part in (given * normal.square(), given))
    places = edges(node)[1:]
    return [None if e is None else part.sum_to_size(shape_of(e)) for e, part in zip(places, parts, strict=True)]


def _value(saved: Any) -> Any:
    return saved.detach() if isinstance(saved, Tensor) else saved


MATRICES = {
    "Mm": ("self", "mat2"),
    "Addmm": ("mat1", "mat2"),
    "Bmm": ("self", "mat2"),
    "Baddbmm": ("batch1", "batch2"),
}
"""What is saved of both factors, by their names."""
CARRIES: dict[str, Carry] = {
    **dict.fromkeys(("Add", "Sub", "Rsub"), _sum),
    "Neg": lambda node, given: [given],
    "Mul": _product,
    "Div": _quotient,
    "Mean": _mean,
    **dict.fromkeys(("AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D"), _average_pool),
    **dict.fromkeys(MATRICES, _matrix_product),
    "Convolution": _convolution,
    "Softmax": _softmax,
    "SafeSoftmax": _softmax,
    "LogSoftmax": _log_softmax,
    **dict.fromkeys(("NativeLayerNorm", "NativeGroupNorm"), _normalisation),
    **dict.fromkeys(BATCH_NORMS, _batch_norm),
}

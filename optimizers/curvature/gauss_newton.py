"""Gauss-Newton estimators give the diagonal of the generalised Gauss-Newton matrix (GGN), sum_n J_n^T H_n J_n.

J_n is the Jacobian of sample n's outputs and H_n the Hessian of the loss with respect to them. It equals the Hessian
where the network is piecewise linear in its parameters, is never negative, and takes no double backward: the forward
pass of the gradient serves, and every sample costs one more backward pass.

Source: Schraudolph, "Fast curvature matrix-vector products", 2002; Martens, "New insights and perspectives on the
natural gradient method", 2020; layer by layer as in Dangel, Kunstner, Hennig, "BackPACK", 2020.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from optimizers.curvature.carried import carried
from optimizers.curvature.interface import BACKWARD_COST, Estimator, Refresh, in_operations
from optimizers.curvature.layer_records import Recorder
from optimizers.curvature.layers_of_members import MembersRecorder, PerSampleOfMembers
from optimizers.curvature.operations import Operations
from optimizers.curvature.output_hessian import OutputHessian
from optimizers.curvature.per_sample import LOOK_PASSES, PerSample
from optimizers.curvature.probes import Streams, random_signs, rows_of_members

MEMBERS = "where members are"
COLUMN_ENTRIES = 2**22
"""Entries of the layers' output gradients that one batched backward pass may hold."""


class GNB(Estimator):
    """Gauss-Newton-Bartlett: the squared batch gradient at labels drawn from the predictions; unbiased for the GGN.

    One vector r with covariance blockdiag(H_n) is propagated back: ``(sum_n J_n^T r_n)^2``. For a mean cross-entropy
    over B samples that is B times the squared gradient at the sampled labels. Holds for parameters of any layer, and
    with batch normalisation too. Costs one backward pass per sample.

    Source: Liu et al., "Sophia", 2023 (Algorithm 2).

    Args:
        samples: number of draws to average, at least 1.
    """

    needs_outputs = True
    stacks = True
    costs = "2/3 per sample"

    def __init__(self, samples: int = 1) -> None:
        self.samples = _at_least_one(samples)

    def __call__(self, refresh: Refresh) -> list[Tensor]:
        head = OutputHessian(refresh)
        total: list[Tensor] = []
        for _ in range(self.samples):
            drawn = head.labels(refresh.generator)
            grads = torch.autograd.grad(head.outputs, refresh.params, drawn, retain_graph=True, materialize_grads=True)
            squares = list(torch._foreach_mul(grads, grads))
            total = list(torch._foreach_add(total, squares)) if total else squares
        return total if self.samples == 1 else list(torch._foreach_div(total, self.samples))

    def cost(self, refresh: Refresh) -> float:
        return BACKWARD_COST * self.samples


class Layerwise(Estimator):
    """Goes by what each layer was given, and perhaps by each operation of the graph."""

    needs_outputs = True
    listens = False
    """Whether it goes by operations, too."""
    instead = "gnb's estimate"
    """What a parameter gets that no layer explains."""

    @contextmanager
    def watch(self, params: Sequence[Tensor]) -> Iterator[Recorder]:
        with in_operations() if self.listens else nullcontext(), Recorder(params) as record:
            yield record

    @contextmanager
    def watch_stack(self, params: Sequence[Tensor]) -> Iterator[Recorder]:
        with in_operations() if self.listens else nullcontext(), MembersRecorder(params) as record:
            yield record

    def follow(self, record: Any, outputs: Any, params: Sequence[Tensor | None], memory: dict[str, Any]) -> None:
        if self.listens and isinstance(outputs, Tensor) and outputs.requires_grad:
            record.operations = Operations(outputs, params, memory.setdefault("operations", {}))

    def follow_stack(
        self, record: Any, losses: Tensor, outputs: Tensor, params: Sequence[Tensor], memory: dict[str, Any]
    ) -> None:
        self.follow(record, outputs, params, memory)

    def sees_apart(self, record: Any) -> bool:
        # Which sample a row belongs to may be another in each member.
        return bool(record.routed)

    def operations(self, refresh: Refresh) -> Operations:
        """Those of the forward pass, with what was heard of them."""
        record = refresh.record
        if record.operations is None:  # nobody followed: the gradient's backward pass is gone through once more
            params: list[Tensor | None] = [None] * (1 + max(refresh.indices))
            for i, param in zip(refresh.indices, refresh.params, strict=True):
                params[i] = param
            self.follow(record, refresh.outputs, params, refresh.memory)
            torch.autograd.grad(refresh.loss, refresh.params, retain_graph=True, allow_unused=True)
        record.operations.hear_no_more(refresh.memory.get(MEMBERS))
        return cast(Operations, record.operations)

    def layers(self, refresh: Refresh) -> PerSample:
        """Those that explain parameters."""
        kind = PerSampleOfMembers if isinstance(refresh.generator, Streams) else PerSample
        return kind(refresh, type(self).__name__, self.instead)

    def passes(self, refresh: Refresh) -> int:
        """How many backward passes a call takes, but for a look at the layers."""
        raise NotImplementedError

    def cost(self, refresh: Refresh) -> float:
        looks = LOOK_PASSES if refresh.record.routed else 0
        return BACKWARD_COST * (self.passes(refresh) + looks)


class _GaussNewton(Layerwise):
    """Propagates vectors back through the outputs and sums the squares of each sample's own gradients.

    Args:
        residual: "none", or "carried".
    """

    def __init__(self, residual: str) -> None:
        if residual not in ("none", "carried"):
            raise ValueError(f"residual must be 'none' or 'carried', got {residual!r}")
        self.residual = residual
        self.listens = residual == "carried"

    def vectors(self, head: OutputHessian, generator: torch.Generator | Streams, at_once: int) -> Iterator[Tensor]:
        """Batches of vectors to propagate, each ``(count, *outputs.shape)``; their squares are added up."""
        raise NotImplementedError

    def count(self, refresh: Refresh) -> int:
        """How many vectors there are."""
        raise NotImplementedError

    def passes(self, refresh: Refresh) -> int:
        return self.count(refresh) + (self.residual == "carried")

    def __call__(self, refresh: Refresh) -> list[Tensor]:
        head = OutputHessian(refresh)
        if self.residual == "carried":
            self.operations(refresh)
        per_sample = self.layers(refresh)
        at_once = max(1, COLUMN_ENTRIES // max(1, per_sample.entries))
        batches = self.vectors(head, refresh.generator, at_once)
        total = per_sample.squares({per_sample.root: next(batches)})
        for vectors in batches:
            squares = per_sample.squares({per_sample.root: vectors})
            total = [t + s for t, s in zip(total, squares, strict=True)]
        if self.residual == "carried":
            residuals = carried(refresh, per_sample, None, type(self).__name__)
            total = [t + r for t, r in zip(total, residuals, strict=True)]
        return total


class GGNMC(_GaussNewton):
    """Squares of each sample's own random gradient, layer by layer; unbiased for the GGN.

    As ``GNB``, but ``sum_n (J_n^T r_n)^2``: without the products of different samples its variance is a batch size
    smaller. For a linear layer with inputs a and output gradients b the sum of squares is ``(b^2)^T (a^2)``, so that
    no sample's gradient is stored. Costs one backward pass per draw.

    A draw r_n is a factor of H_n times random signs, or the loss's slope at a label drawn from the predictions. Both
    have covariance H_n. A rare label makes a large square: signs err less for the last layer, and where predictions are
    uneven; where all labels are about as likely, labels can err less for the layers before.

    Knows Linear (and MultiheadAttention's in self-attention), Conv2d, Embedding, LayerNorm and BatchNorm. Another
    layer's parameter, or one that is used twice or whose rows are not as many for each sample (a mask leaves padding
    out, experts get the rows that were routed to them), gets ``GNB``'s estimate from the same vectors; a warning says
    so once. Where a network picks rows by what the batch holds this is looked at anew at each refresh, for two more
    backward passes.
    In training mode BatchNorm couples the samples of a batch: what a sample's loss owes to the other samples' inputs
    is left out, so for layers before a BatchNorm this is an approximation of the GGN.

    Args:
        samples: number of draws to average, at least 1.
        draws: "signs" or "labels".
        residual: "none", or "carried": what Gauss-Newton misses is carried back layer by layer, for one more pass; see
            ``HesScale``. Exact up to two hidden layers.
    """

    stacks = True
    costs = "2/3 per sample"

    def __init__(self, samples: int = 1, draws: str = "signs", residual: str = "none") -> None:
        super().__init__(residual)
        if draws not in ("signs", "labels"):
            raise ValueError(f"draws must be 'signs' or 'labels', got {draws!r}")
        self.samples = _at_least_one(samples)
        self.draws = draws

    def vectors(self, head: OutputHessian, generator: torch.Generator | Streams, at_once: int) -> Iterator[Tensor]:
        draw = head.signs if self.draws == "signs" else head.labels
        for _ in range(self.samples):
            drawn = draw(generator)[None]
            yield drawn if self.samples == 1 else drawn / self.samples**0.5

    def count(self, refresh: Refresh) -> int:
        return self.samples


class GGNExact(_GaussNewton):
    """The GGN's diagonal itself, layer by layer, from the columns of a factor of H_n; for C classes C backward passes.

    For the softmax cross-entropy the columns are ``sqrt(w p_c) (e_c - p)``. Outputs with several predictions per
    sample (a language model's) take that many passes for each prediction.

    Layers and the approximation that BatchNorm in training mode makes are ``GGNMC``'s. Another layer's parameter gets
    ``GNB``'s estimate from the columns under random signs per sample; a warning says so once.

    Args:
        residual: as of ``GGNMC``.
    """

    stacks = True
    costs = "2/3 per class"

    def __init__(self, residual: str = "none") -> None:
        super().__init__(residual)

    def vectors(self, head: OutputHessian, generator: torch.Generator | Streams, at_once: int) -> Iterator[Tensor]:
        def draw(shape: Sequence[int], own: torch.Generator) -> Tensor:
            return random_signs([head.outputs.new_empty(()).expand(shape)], own)[0]

        # A sign per sample is lost in each sample's squares, and makes the batch's square GNB's estimate.
        signs = rows_of_members(draw, (len(head.outputs), head.factors), generator).T
        signs = signs.view(*signs.shape, *[1] * (head.outputs.ndim - 1))
        for start in range(0, head.factors, at_once):
            stop = min(start + at_once, head.factors)
            yield head.columns(start, stop) * signs[start:stop]

    @contextmanager
    def watch(self, params: Sequence[Tensor]) -> Iterator[Recorder]:
        # Fused attention kernels have no batched backward pass.
        with sdpa_kernel(SDPBackend.MATH), super().watch(params) as record:
            yield record

    def count(self, refresh: Refresh) -> int:
        return int(refresh.outputs[0].numel())


def _at_least_one(samples: int) -> int:
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    return samples

"""Layers record what they were given, and squared gradients are summed over samples without storing each.

A ``Recorder`` notes, during a forward pass, what each layer was given: a ``Use`` per parameter. Rows are a layer's
positions: whole samples, or the places of a sequence or an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from optimizers.curvature.graph import place_of
from optimizers.curvature.routing import is_routing

SAMPLE_ENTRIES = 2**22
"""Entries of the per-sample gradients that may exist at a time."""

SAMPLE_ENTRIES_ON_GPU = 2**28
"""The same on a GPU, where each time costs launches, and of the patches that they are made of."""


class Use(ABC):
    """One use of a parameter by a layer.

    Args:
        param: the parameter.
        output: the layer's output.
        edge: its place in the graph, to propagate to; an operation in place may move the tensor itself on.
        features: what the output's gradient is multiplied with, ``(rows, ...)``, if anything.
        channels: the output's dimension that the parameter belongs to; the others are rows.
    """

    def __init__(
        self, param: Tensor, output: Tensor, edge: GradientEdge, features: Tensor | None = None, channels: int = -1
    ) -> None:
        self.param = param
        self.edge = edge
        self.entries = output.numel()
        self.width = output.shape[channels]
        self.channels = channels % output.ndim
        self.feature_rows = features

    def positions(self, samples: int) -> float:
        """Rows per sample."""
        return self.entries / max(1, self.width) / samples

    @abstractmethod
    def total(self, grads: Tensor) -> Tensor:
        """The parameter's gradient, given those of the output, ``(samples, positions, width)``."""

    @abstractmethod
    def squares(self, grads: Tensor) -> Tensor:
        """Squared gradients of samples, summed over them; ``grads`` is ``(vectors, samples, positions, width)``."""

    @abstractmethod
    def weighted(self, weights: Tensor) -> Tensor:
        """Weights of the output's entries, shaped as ``grads`` there, times the squares of the features, summed."""

    def rows(self, grads: Tensor) -> Tensor:
        """Gradients of the output, ``(vectors, *output.shape)``, as ``(vectors, rows, width)``."""
        grads = grads.movedim(self.channels + 1, -1)
        return grads.reshape(len(grads), -1, self.width).to(self.param.dtype)

    def arrange(self, samples: int, batch_first: bool) -> None:
        """Bring the features from rows to ``(samples, positions, ...)``."""
        if self.feature_rows is not None:
            self.features = by_sample(self.feature_rows, samples, batch_first)

    def size(self) -> float | Tensor:
        """Norm of the features: times the norm of the output's gradient it bounds the norm of the parameter's."""
        return (self.entries / self.width) ** 0.5 if self.feature_rows is None else self.feature_rows.norm()


def by_sample(rows: Tensor, samples: int, batch_first: bool, dim: int = 0) -> Tensor:
    """Split the dimension of rows into samples and positions; the rows' first index is the sample, or the last is."""
    if batch_first:
        return rows.unflatten(dim, (samples, -1))
    return rows.unflatten(dim, (-1, samples)).transpose(dim, dim + 1)


class Shift(Use):
    """A bias."""

    def total(self, grads: Tensor) -> Tensor:
        return grads.sum((0, 1)).view_as(self.param)

    def squares(self, grads: Tensor) -> Tensor:
        return grads.sum(2).square().sum((0, 1)).view_as(self.param)

    def weighted(self, weights: Tensor) -> Tensor:
        return weights.sum((0, 1, 2)).view_as(self.param)


class Scale(Use):
    """A normalisation's weight; the features are the normalised inputs, ``(rows, width)``."""

    def total(self, grads: Tensor) -> Tensor:
        return (grads * self.features).sum((0, 1)).view_as(self.param)

    def squares(self, grads: Tensor) -> Tensor:
        return (grads * self.features).sum(2).square().sum((0, 1)).view_as(self.param)

    def weighted(self, weights: Tensor) -> Tensor:
        return (weights * self.features.square()).sum((0, 1, 2)).view_as(self.param)


class Lookup(Use):
    """An embedding; the features are the indices, ``(rows,)``, and -1 for padding."""

    def total(self, grads: Tensor) -> Tensor:
        return self._scatter(self.features.flatten(), grads.flatten(0, 1))

    def squares(self, grads: Tensor) -> Tensor:
        # A sample's gradients of one index are added up before they are squared: sorted, they stand side by side.
        samples = torch.arange(len(self.features), device=grads.device)[:, None]
        keys, order = (samples * (len(self.param) + 1) + self.features + 1).flatten().sort()
        group = torch.cat([keys.new_zeros(1), (keys[1:] != keys[:-1]).cumsum(0)])
        index = torch.zeros_like(keys).scatter(0, group, keys % (len(self.param) + 1)) - 1
        sums = [torch.zeros_like(g).index_add_(0, group, g[order]) for g in grads.flatten(1, 2)]
        return self._scatter(index, sum(s.square() for s in sums))

    def weighted(self, weights: Tensor) -> Tensor:
        return self.total(weights.sum(0))

    def size(self) -> float | Tensor:
        return float(self.features.numel()) ** 0.5

    def _scatter(self, index: Tensor, values: Tensor) -> Tensor:
        padded = values.new_zeros(len(self.param) + 1, self.width)
        return padded.index_add_(0, index + 1, values)[1:]


class Outer(Use):
    """The weight of a linear map; the features are its inputs, ``(rows, inputs)``."""

    groups = 1
    members = 1  # of a stack, all of whose sums are taken at a time, under vmap

    def inputs(self, which: slice) -> Tensor:
        """Inputs of some samples, ``(samples, positions, groups, inputs)``."""
        return self.features[which, :, None]

    def input_entries(self) -> int:
        """Of one sample, where they are made anew."""
        return 0

    def total(self, grads: Tensor) -> Tensor:
        return sum(self._per_sample(grads[which], which).sum(0) for which in self._chunks(grads)).view_as(self.param)

    def squares(self, grads: Tensor) -> Tensor:
        if grads.shape[2] == 1 and self.groups == 1:  # (b a^T)^2 = b^2 (a^2)^T
            total = grads.square().sum((0, 2)).T @ self.inputs(slice(None))[:, 0, 0].square()
            return total.view_as(self.param)
        total = torch.zeros_like(self.param)
        for which in self._chunks(grads[0]):
            inputs = self.inputs(which)
            for vector in grads:
                outer = self._outer(vector[which], inputs)
                total += outer.mul_(outer).sum(0).view_as(total)  # vmap does not know square_
        return total

    def weighted(self, weights: Tensor) -> Tensor:
        weights = weights.sum(0)
        parts = (self._outer(weights[w], self.inputs(w).square(), "goi") for w in self._chunks(weights))
        return sum(parts).view_as(self.param)

    def _chunks(self, grads: Tensor) -> list[slice]:
        if grads.is_cuda:
            step = SAMPLE_ENTRIES_ON_GPU // max(self.param.numel(), self.input_entries())
        else:
            step = SAMPLE_ENTRIES // self.param.numel()
        step = max(1, step // self.members)
        return [slice(start, start + step) for start in range(0, len(grads), step)]

    def _per_sample(self, grads: Tensor, which: slice) -> Tensor:
        return self._outer(grads, self.inputs(which))

    def _outer(self, grads: Tensor, inputs: Tensor, kept: str = "ngoi") -> Tensor:
        return torch.einsum("nkgo,nkgi->" + kept, grads.unflatten(-1, (self.groups, -1)), inputs)


class Patches(Outer):
    """The weight of a convolution, a linear map on patches of its input, ``(samples, channels, height, width)``."""

    def __init__(
        self, param: Tensor, output: Tensor, edge: GradientEdge, image: Tensor, groups: int, **geometry: Any
    ) -> None:
        super().__init__(param, output, edge, channels=1)
        self.image = image
        self.groups = groups
        self.geometry = {name: (value, value) if isinstance(value, int) else value for name, value in geometry.items()}
        self.places = output[0, 0].numel()

    def size(self) -> float | Tensor:
        return self.image.norm() * self.param[0, 0].numel() ** 0.5

    def input_entries(self) -> int:
        return self.places * self.image.shape[1] * self.param[0, 0].numel()

    def inputs(self, which: slice) -> Tensor:
        patches = unfold(self.image[which].to(self.param.dtype), self.param.shape[2:], **self.geometry)
        return patches.transpose(1, 2).unflatten(-1, (self.groups, -1))


def unfold(
    images: Tensor, size: Sequence[int], *, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """What ``F.unfold`` gives, which launches kernels for each image: ``(samples, channels * entries, places)``."""
    images = F.pad(images, (padding[1], padding[1], padding[0], padding[0]))
    for dim in (2, 3):
        reach = dilation[dim - 2] * (size[dim - 2] - 1) + 1
        images = images.unfold(dim, reach, stride[dim - 2])
    patches = images[..., :: dilation[0], :: dilation[1]].permute(0, 1, 4, 5, 2, 3)
    return patches.flatten(4).flatten(1, 3)


class Recorder(TorchFunctionMode):
    """Notes the uses of parameters by the layers that are known, while it is entered.

    Attributes:
        uses: per ``id(parameter)`` its uses.
        coupled: whether a layer took statistics over the batch, as BatchNorm does in training mode.
        routed: whether rows were picked, put or joined by what the batch holds, as with a mask or experts: which sample
            a row belongs to may be another at each batch.
        operations: what an estimator that listens to the backward pass noted of it.
    """

    operations: Any = None

    def __init__(self, params: Sequence[Tensor]) -> None:
        super().__init__()
        self.uses: dict[int, list[Use]] = {id(param): [] for param in params}
        self.coupled = self.routed = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._attention(func, args, kwargs)
        self.routed = self.routed or is_routing(func, args, kwargs)
        output = func(*args, **kwargs)
        if func in READERS:
            self._read(READERS[func], output, args, kwargs)
        return output

    def _read(self, reader: Callable[..., None], output: Tensor, args: Any, kwargs: Any) -> None:
        if output.requires_grad:
            self._edge = place_of(output)
            reader(self, output, *args, **kwargs)

    def _attention(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Its projections are calls inside of it, which a mode does not see."""
        linear = F.linear

        def recorded(*inputs: Any) -> Tensor:
            output = linear(*inputs)
            self._read(Recorder._linear, output, inputs, {})
            return output

        F.linear = recorded  # type: ignore[assignment]
        try:
            return func(*args, **kwargs)
        finally:
            F.linear = linear

    def _note(self, use: type[Use], param: Tensor | None, output: Tensor, *args: Any, **kwargs: Any) -> None:
        if id(param) in self.uses:
            self.uses[id(param)].append(use(param, output, self._edge, *args, **kwargs))

    def _linear(self, output: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        rows = input.detach().reshape(-1, input.shape[-1]).to(weight.dtype)
        self._note(Outer, weight, output, rows)
        self._note(Shift, bias, output)

    def _conv2d(
        self,
        output: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> None:
        if input.ndim == 4:
            image = input.detach()
            if padding == "same":
                dilations = dilation if isinstance(dilation, tuple | list) else (dilation, dilation)
                around = [d * (size - 1) for d, size in zip(dilations, weight.shape[2:], strict=True)]
                image = F.pad(image, [side for n in reversed(around) for side in (n // 2, n - n // 2)])
            geometry = {"stride": stride, "padding": 0 if isinstance(padding, str) else padding, "dilation": dilation}
            self._note(Patches, weight, output, image, groups, **geometry)
            self._note(Shift, bias, output, channels=1)

    def _embedding(
        self, output: Tensor, input: Tensor, weight: Tensor, padding_idx: int | None = None, *_: Any, **__: Any
    ) -> None:
        rows = input.flatten()
        if padding_idx is not None:
            rows = torch.where(rows == padding_idx % len(weight), -1, rows)
        self._note(Lookup, weight, output, rows)

    def _layer_norm(
        self,
        output: Tensor,
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> None:
        if len(normalized_shape) == 1 and weight is not None:
            normal = F.layer_norm(input.detach().to(weight.dtype), normalized_shape, eps=eps)
            self._note(Scale, weight, output, normal.reshape(-1, *normalized_shape))
            self._note(Shift, bias, output)

    def _batch_norm(
        self,
        output: Tensor,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        self.coupled |= training
        if weight is not None:
            statistics = (None, None) if training else (running_mean, running_var)
            normal = F.batch_norm(input.detach().to(weight.dtype), *statistics, training=training, eps=eps)
            self._note(Scale, weight, output, normal.movedim(1, -1).reshape(-1, normal.shape[1]), channels=1)
            self._note(Shift, bias, output, channels=1)


READERS: dict[Any, Callable[..., None]] = {
    F.linear: Recorder._linear,
    F.conv2d: Recorder._conv2d,
    F.embedding: Recorder._embedding,
    F.layer_norm: Recorder._layer_norm,
    F.batch_norm: Recorder._batch_norm,
}

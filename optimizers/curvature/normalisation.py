"""BatchNorm's (in training mode) and LayerNorm's second derivatives are written out here.

PyTorch's own double backward launches a hundred kernels a layer on a GPU, these about twenty. In both, n is the
normalised input, r the inverse of its standard deviation and <> the mean over what is normalised together: a channel,
or a row. With the gradient g of the output, times the weight where that is LayerNorm's,

    grad input = r (g - <g> - n <g n>)

times the weight where that is BatchNorm's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Tensors = tuple[Tensor | None, ...]
CUDNN = 1
"""PyTorch's number of this backend."""


@contextmanager
def closed_forms() -> Iterator[None]:
    """While it is entered, normalisations of ``torch.nn`` have the second derivatives of this module."""
    changed = [name for name, theirs in PYTORCHS.items() if getattr(F, name) is theirs]
    for name in changed:
        setattr(F, name, CLOSED[name])
    try:
        yield
    finally:
        for name in changed:
            setattr(F, name, PYTORCHS[name])


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """See ``torch.nn.functional.batch_norm``."""
    if not training or input.numel() in (0, input.shape[1]) or not _alike(input, weight, bias):
        return PYTORCHS["batch_norm"](input, running_mean, running_var, weight, bias, training, momentum, eps)
    weight = input.new_ones(input.shape[1]) if weight is None else weight
    bias = input.new_zeros(input.shape[1]) if bias is None else bias
    with torch.no_grad():
        output, mean, r, reserve, backend = torch._batch_norm_impl_index(
            input, weight, bias, running_mean, running_var, True, momentum, eps, torch.backends.cudnn.enabled
        )
    return BatchNorm.apply(input, weight, bias, output, mean, r, reserve, backend, eps)


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """See ``torch.nn.functional.layer_norm``."""
    shape = list(normalized_shape)
    if input.numel() == 0 or not _alike(input, weight, bias):
        return PYTORCHS["layer_norm"](input, shape, weight, bias, eps)
    weight = input.new_ones(shape) if weight is None else weight
    bias = input.new_zeros(shape) if bias is None else bias
    with torch.no_grad():
        output, mean, r = torch.native_layer_norm(input, shape, weight, bias, eps)
    return LayerNorm.apply(input, weight, bias, output, mean, r)


def _alike(input: Tensor, *affine: Tensor | None) -> bool:
    return all(tensor is None or tensor.dtype == input.dtype for tensor in affine)


PYTORCHS: dict[str, Callable[..., Tensor]] = {"batch_norm": F.batch_norm, "layer_norm": F.layer_norm}
CLOSED: dict[str, Callable[..., Tensor]] = {"batch_norm": _batch_norm, "layer_norm": _layer_norm}


class BatchNorm(torch.autograd.Function):
    """The output, which is known, of an input, (rows, channels, ...)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor, weight: Tensor, bias: Tensor, output: Tensor, mean: Tensor, r: Tensor, reserve: Tensor,
        backend: int, eps: float,
    ) -> Tensor:  # fmt: skip
        return output.detach()  # no view: what follows may change it in place

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        input, weight, _, _, mean, r, reserve, ctx.backend, ctx.eps = inputs
        ctx.save_for_backward(input, weight, mean, r, reserve)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensors:
        return (*BatchNormBackward.apply(grad, *ctx.saved_tensors, ctx.backend, ctx.eps), *[None] * 6)


class BatchNormBackward(torch.autograd.Function):
    """The gradients of input, weight and bias."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad: Tensor, input: Tensor, weight: Tensor, mean: Tensor, r: Tensor, reserve: Tensor, backend: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _batch_norm_backward(grad, input, weight, mean, r, reserve, backend, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        *tensors, ctx.backend, ctx.eps = inputs
        ctx.save_for_backward(*tensors, output[1], output[2])

    @staticmethod
    def backward(ctx: Any, v: Tensor, v_weight: Tensor, v_bias: Tensor) -> Tensors:
        """Of the sum of the gradients times v, v_weight and v_bias: its derivatives by g, input and weight.

        With k = weight r, the derivative by n is a = v_weight g - k (v <g n> + g <v n>), and that by the input

            r (a - <a> - n <a n>) - k r (<v g> - <v> <g> - <v n> <g n>) n
        """
        grad, input, weight, mean, r, reserve, sum_gn, sum_g = ctx.saved_tensors
        count = input.numel() // len(mean)
        channels = (1, -1, *[1] * (input.ndim - 2))
        known = mean, r, reserve, ctx.backend, ctx.eps
        normal = (input - mean.view(channels)) * r.view(channels)
        by_grad, sum_vn, sum_v = _batch_norm_backward(v, input, weight, *known)
        by_grad = by_grad.addcmul(normal, v_weight.view(channels)) + v_bias.view(channels)

        k = weight * r
        of_g = v_weight.addcmul(k, sum_vn, value=-1 / count).view(channels)
        by_normal = (grad * of_g).addcmul(v, (k * sum_gn).view(channels), value=-1 / count)
        shared = (v * grad).sum([0, *range(2, input.ndim)])
        shared = shared.addcmul(sum_v, sum_g, value=-1 / count).addcmul(sum_vn, sum_gn, value=-1 / count)
        by_weight = shared * r
        by_input, *_ = _batch_norm_backward(by_normal, input, torch.ones_like(weight), *known)
        by_input = by_input.addcmul(normal, (k * by_weight).view(channels), value=-1 / count)
        return by_grad, by_input, by_weight, None, None, None, None, None


def _batch_norm_backward(
    grad: Tensor, input: Tensor, weight: Tensor, mean: Tensor, r: Tensor, reserve: Tensor, backend: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of input, weight and bias: the latter two are sum g n and sum g."""
    if backend == CUDNN:
        return torch.ops.aten.cudnn_batch_norm_backward(input, grad, weight, None, None, mean, r, eps, reserve)
    return torch.ops.aten.native_batch_norm_backward(grad, input, weight, None, None, mean, r, True, eps, [True] * 3)


class LayerNorm(torch.autograd.Function):
    """The output, which is known, of an input, (..., *shape of the weight)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, weight: Tensor, bias: Tensor, output: Tensor, mean: Tensor, r: Tensor) -> Tensor:
        return output.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        input, weight, _, _, mean, r = inputs
        ctx.save_for_backward(input, weight, mean, r)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensors:
        return (*LayerNormBackward.apply(grad, *ctx.saved_tensors), None, None, None)


class LayerNormBackward(torch.autograd.Function):
    """The gradients of input, weight and bias."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, input: Tensor, weight: Tensor, mean: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ops.aten.native_layer_norm_backward(
            grad, input, list(weight.shape), mean, r, weight, weight, [True] * 3
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, v: Tensor, v_weight: Tensor, v_bias: Tensor) -> Tensors:
        """Of the sum of the gradients times v, v_weight and v_bias: its derivatives by g, input and weight.

        With w = weight g and p = r (v - <v> - n <v n>), the derivative by n is a = v_weight g - r (v <w n> + w <v n>),
        and that by the input r (a - <a> - n <a n>) - r <w p> n.
        """
        grad, input, weight, mean, r = ctx.saved_tensors
        shape = list(weight.shape)
        inner = list(range(-len(shape), 0))
        outer = list(range(input.ndim - len(shape)))

        def projected(grad: Tensor) -> Tensor:
            (by_input, *_) = torch.ops.aten.native_layer_norm_backward(
                grad, input, shape, mean, r, None, None, [True, False, False]
            )
            return by_input

        normal = (input - mean) * r
        weighted = grad * weight
        p = projected(v)
        by_grad = torch.addcmul(v_bias, normal, v_weight).addcmul(p, weight)
        by_weight = (grad * p).sum(outer) if outer else grad * p
        by_normal = (grad * v_weight).addcmul(v, r * (weighted * normal).mean(inner, keepdim=True), value=-1)
        by_normal = by_normal.addcmul(weighted, r * (v * normal).mean(inner, keepdim=True), value=-1)
        by_input = projected(by_normal).addcmul(normal, r * (weighted * p).mean(inner, keepdim=True), value=-1)
        return by_grad, by_input, by_weight, None, None

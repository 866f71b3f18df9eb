"""BatchNorm's (in training mode) and LayerNorm's second derivatives are written out here.

PyTorch's own double backward launches a hundred kernels a layer on a GPU, these up to twenty. In both, n is the
normalised input, r the inverse of its standard deviation and <> the mean over what is normalised together: a channel,
or a row. With the gradient g of the output, times the weight where that is LayerNorm's,

    grad input = r (g - <g> - n <g n>)

times the weight where that is BatchNorm's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Tensors = tuple[Tensor | None, ...]
CUDNN = 1
"""PyTorch's number of this backend."""


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
        return (*BatchNormBackward.apply(grad, *ctx.saved_tensors, ctx.backend, ctx.eps)[:3], *[None] * 6)


class BatchNormBackward(torch.autograd.Function):
    """The gradients of input, weight and bias; and that of the input for a weight of one, P(g)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad: Tensor, input: Tensor, weight: Tensor, mean: Tensor, r: Tensor, reserve: Tensor, backend: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        projected, sum_gn, sum_g = _projected(grad, input, mean, r, reserve, backend, eps)
        return projected * weight.view(_channels(input)), sum_gn, sum_g, projected

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        _, *tensors, ctx.backend, ctx.eps = inputs
        ctx.mark_non_differentiable(output[3])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, output[1], output[3])

    @staticmethod
    def backward(ctx: Any, v: Tensor | None, v_weight: Tensor | None, v_bias: Tensor | None, *_: None) -> Tensors:
        """Of the sum of the gradients times v, v_weight and v_bias: its derivatives by g, input and weight.

        With k = weight r, P(g) = r (g - <g> - n <g n>), the derivative by n is a = v_weight g - k (v <g n> + g <v n>),
        and that by the input

            P(a) - k <v P(g)> n

        Raises:
            RuntimeError: it is to be differentiated once more.
        """
        if torch.is_grad_enabled():
            raise RuntimeError("BatchNorm's third derivatives are not written out")
        input, weight, mean, r, reserve, sum_gn, of_g = ctx.saved_tensors
        v = torch.zeros_like(input) if v is None else v
        v_weight = torch.zeros_like(weight) if v_weight is None else v_weight
        v_bias = torch.zeros_like(weight) if v_bias is None else v_bias
        share = -len(mean) / input.numel()
        channels = _channels(input)
        normal = (input - mean.view(channels)) * r.view(channels)
        of_v, sum_vn, _ = _projected(v, input, mean, r, reserve, ctx.backend, ctx.eps)
        by_grad = torch.addcmul(v_bias.view(channels), normal, v_weight.view(channels))
        by_grad = by_grad.addcmul(of_v, weight.view(channels))

        k = weight * r
        by_weight = _products(v, of_g, mean.dtype)
        by_input = of_g * v_weight.addcmul(k, sum_vn, value=share).view(channels)
        by_input = by_input.addcmul(of_v, (k * sum_gn).view(channels), value=share)
        by_input = by_input.addcmul(normal, (k * by_weight).view(channels), value=share)
        return by_grad, by_input, by_weight, None, None, None, None, None


def _channels(input: Tensor) -> tuple[int, ...]:
    """The shape of a number for each channel beside an input."""
    return (1, -1, *[1] * (input.ndim - 2))


def _projected(
    grad: Tensor, input: Tensor, mean: Tensor, r: Tensor, reserve: Tensor, backend: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """P(g), the gradient of the input for a weight of one; sum g n and sum g."""
    ones = _filled(1.0, len(mean), mean.dtype, mean.device)
    if backend == CUDNN:
        return torch.ops.aten.cudnn_batch_norm_backward(input, grad, ones, None, None, mean, r, eps, reserve)
    return torch.ops.aten.native_batch_norm_backward(grad, input, ones, None, None, mean, r, True, eps, [True] * 3)


def _products(one: Tensor, other: Tensor, dtype: torch.dtype) -> Tensor:
    """For each channel, the sum of the products of entries, which a weight's gradient is, in one kernel."""
    mean, r = (_filled(value, one.shape[1], dtype, one.device) for value in (0.0, 1.0))
    (_, found, _) = torch.ops.aten.native_batch_norm_backward(
        one, other, r, None, None, mean, r, True, 0.0, [False, True, False]
    )
    return found


@cache  # for good: a CUDA graph reads them where they are
def _filled(value: float, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((count,), value, dtype=dtype, device=device)


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
        ctx.save_for_backward(*inputs, output[0])

    @staticmethod
    def backward(ctx: Any, v: Tensor, v_weight: Tensor, v_bias: Tensor) -> Tensors:
        """Of the sum of the gradients times v, v_weight and v_bias: its derivatives by g, input and weight.

        With w = weight g and P(w) = r (w - <w> - n <w n>), the derivative by n is
        a = v_weight g - r (v <w n> + w <v n>), and that by the input P(a) - r <w P(v)> n.
        """
        grad, input, weight, mean, r, of_w = ctx.saved_tensors
        shape = list(weight.shape)
        inner = list(range(-len(shape), 0))
        outer = list(range(input.ndim - len(shape)))

        def projected(grad: Tensor, weight: Tensor | None = None) -> Tensor:
            (by_input, *_) = torch.ops.aten.native_layer_norm_backward(
                grad, input, shape, mean, r, weight, None, [True, False, False]
            )
            return by_input

        normal = (input - mean) * r
        w = grad * weight
        of_v = projected(v)
        by_grad = torch.addcmul(v_bias, normal, v_weight).addcmul(of_v, weight)
        by_weight = (grad * of_v).sum(outer) if outer else grad * of_v
        rest = of_v * (w * normal).mean(inner, keepdim=True)
        rest = rest.addcmul(of_w, (v * normal).mean(inner, keepdim=True))
        rest = rest.addcmul(normal, (w * of_v).mean(inner, keepdim=True))
        by_input = projected(grad, v_weight).addcmul(rest, r, value=-1)
        return by_grad, by_input, by_weight, None, None

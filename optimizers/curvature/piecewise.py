"""Convolutions' and rectifiers' second derivatives are written out here.

PyTorch's own of a convolution convolves an image with another as its kernel, copies both for it, and adds zeros for a
rectifier, whose gradient does not depend on its input. The gradient of a convolution is linear in the gradient of the
output, the input and the weight, each by an operation that there is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

DEVICES = frozenset({"cuda"})
"""Where launches are what counts; on a CPU a function of Python costs more than it saves."""
Given = Sequence[Tensor | None]


def _convolution(name: str, dimensions: int) -> Callable[..., Tensor]:
    def closed(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        whole = input.dim() == dimensions + 2 and not isinstance(padding, str)
        if not whole or not _plain(input, weight, bias):
            return PYTORCHS[name](input, weight, bias, stride, padding, dilation, groups)
        numbers = [list(n) if isinstance(n, Sequence) else [n] * dimensions for n in (stride, padding, dilation)]
        return Convolution.apply(input, weight, bias, (*numbers, groups))

    return closed


def _relu(input: Tensor, inplace: bool = False) -> Tensor:
    """See ``torch.nn.functional.relu``."""
    if not _plain(input):
        return PYTORCHS["relu"](input, inplace)
    return Rectifier.apply(input, 0.0, inplace)


def _leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """See ``torch.nn.functional.leaky_relu``."""
    if not _plain(input) or negative_slope <= 0:
        return PYTORCHS["leaky_relu"](input, negative_slope, inplace)
    return Rectifier.apply(input, negative_slope, inplace)


def _plain(*tensors: Tensor | None) -> bool:
    """Whether they are of one type and nothing, neither autocast nor ``torch.func``, does more with them."""
    given = [tensor for tensor in tensors if tensor is not None]
    first = given[0]
    mapped = torch._C._functorch.maybe_current_level() is not None
    usual = all(type(t) in (Tensor, torch.nn.Parameter) and t.dtype == first.dtype for t in given)
    usual = usual and first.device.type in DEVICES
    return usual and not mapped and first.is_floating_point() and not torch.is_autocast_enabled(first.device.type)


PYTORCHS: dict[str, Callable[..., Tensor]] = {
    name: getattr(F, name) for name in ("conv1d", "conv2d", "conv3d", "relu", "leaky_relu")
}
CLOSED: dict[str, Callable[..., Tensor]] = {
    **{f"conv{n}d": _convolution(f"conv{n}d", n) for n in (1, 2, 3)},
    "relu": _relu,
    "leaky_relu": _leaky_relu,
}


def _convolved(input: Tensor, weight: Tensor, bias: Tensor | None, how: Any) -> Tensor:
    stride, padding, dilation, groups = how
    return torch.ops.aten.convolution(input, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)


def _gradients(grad: Tensor, input: Tensor, weight: Tensor, bias: bool, how: Any, needed: Sequence[bool]) -> Given:
    """Of input, weight and bias, where needed."""
    stride, padding, dilation, groups = how
    sizes = [weight.shape[0]] if bias else None
    found: Given = torch.ops.aten.convolution_backward(
        grad, input, weight, sizes, stride, padding, dilation, False, [0] * len(stride), groups, list(needed)
    )
    return [tensor if need else None for tensor, need in zip(found, needed, strict=True)]


class Convolution(torch.autograd.Function):
    """The convolution of an input, (rows, channels, ...)."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, how: Any) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.how, ctx.bias = how, bias is not None
        return _convolved(input, weight, bias, how)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        needed = tuple(ctx.needs_input_grad[:3])
        return *ConvolutionBackward.apply(grad, *ctx.saved_tensors, ctx.bias, ctx.how, needed), None


class ConvolutionBackward(torch.autograd.Function):
    """The gradients of input, weight and bias."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, input: Tensor, weight: Tensor, bias: bool, how: Any, needed: Sequence[bool]) -> Any:
        return tuple(_gradients(grad, input, weight, bias, how, needed))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        grad, input, weight, _, ctx.how, _ = inputs
        ctx.save_for_backward(grad, input, weight)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, v: Tensor | None, v_weight: Tensor | None, v_bias: Tensor | None) -> Any:
        """Of the sum of the gradients times v, v_weight and v_bias: its derivatives by grad, input and weight."""
        grad, input, weight = ctx.saved_tensors
        of_grad, of_input, of_weight = ctx.needs_input_grad[:3]
        by_grad = by_input = by_weight = None
        if v_weight is not None:
            by_grad = _convolved(input, v_weight, v_bias, ctx.how) if of_grad else None
            by_input = _gradients(grad, input, v_weight, False, ctx.how, (of_input, False, False))[0]
        elif v_bias is not None and of_grad:
            by_grad = v_bias.view(-1, *[1] * (grad.dim() - 2)).expand_as(grad)
        if v is not None:
            if of_grad:
                along = _convolved(v, weight, None, ctx.how)
                by_grad = along if by_grad is None else by_grad + along
            by_weight = _gradients(grad, v, weight, False, ctx.how, (False, of_weight, False))[1]
        return by_grad, by_input, by_weight, None, None, None


class Rectifier(torch.autograd.Function):
    """Linear on both sides of zero."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, slope: float, inplace: bool) -> Tensor:
        if slope:
            output = F.leaky_relu_(input, slope) if inplace else torch._C._nn.leaky_relu(input, slope)
        else:
            output = torch.relu_(input) if inplace else torch.relu(input)
        if inplace:
            ctx.mark_dirty(input)
        ctx.slope = slope
        # As PyTorch: the other may be changed in place.
        ctx.save_for_backward(input if slope and not inplace else output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return RectifierBackward.apply(grad, ctx.saved_tensors[0].detach(), ctx.slope), None, None


class RectifierBackward(torch.autograd.Function):
    """The gradient of the input, by the signs of input or output."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, signs: Tensor, slope: float) -> Tensor:
        if slope:
            return torch.ops.aten.leaky_relu_backward(grad, signs, slope, False)
        return torch.ops.aten.threshold_backward(grad, signs, 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _, signs, ctx.slope = inputs
        ctx.save_for_backward(signs)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        return RectifierBackward.apply(v, ctx.saved_tensors[0], ctx.slope), None, None

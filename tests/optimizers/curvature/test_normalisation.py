"""The second derivatives of normalisations that are written out are PyTorch's own, alone and in stacks."""

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

from optimizers.curvature.closed_forms import closed_forms
from optimizers.curvature.interface import twice_differentiable

LAYERS = {
    "batch norm of rows": (nn.BatchNorm1d(3), (5, 3)),
    "batch norm of sequences": (nn.BatchNorm1d(3), (5, 3, 4)),
    "batch norm of images": (nn.BatchNorm2d(3), (4, 3, 2, 5)),
    "batch norm of volumes": (nn.BatchNorm3d(3), (2, 3, 2, 2, 2)),
    "batch norm without weight": (nn.BatchNorm2d(3, affine=False), (4, 3, 2, 5)),
    "batch norm without running statistics": (nn.BatchNorm2d(3, track_running_stats=False), (4, 3, 2, 5)),
    "batch norm with an average of all": (nn.BatchNorm1d(3, momentum=None), (5, 3)),
    "batch norm that does not train": (nn.BatchNorm1d(3).eval(), (5, 3)),
    "layer norm": (nn.LayerNorm(3), (2, 5, 3)),
    "layer norm of two dimensions": (nn.LayerNorm((2, 3)), (4, 2, 3)),
    "layer norm of one row": (nn.LayerNorm(3), (3,)),
    "layer norm without weight": (nn.LayerNorm(3, elementwise_affine=False), (5, 3)),
    "layer norm without bias": (nn.LayerNorm(3, bias=False), (5, 3)),
    "group norm, which is left as it is": (nn.GroupNorm(3, 6), (4, 6, 2)),
}
each_layer = pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)


def derivatives(layer, inputs, closed):
    """Output, gradients, their products with random vectors, and the statistics."""
    layer = deepcopy(layer).double()
    generator = torch.Generator().manual_seed(1)
    for param in layer.parameters():
        param.data.uniform_(0.5, 2.0, generator=generator)
    tensors = [inputs.clone().requires_grad_(), *layer.parameters()]
    with closed_forms() if closed else nullcontext():
        output = layer(tensors[0])
    loss = (output.sin() * torch.linspace(-1, 1, output.numel()).view_as(output)).sum()
    grads = torch.autograd.grad(loss, tensors, create_graph=True)
    vectors = [torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in tensors]
    return [output, *grads, *torch.autograd.grad(grads, tensors, vectors), *layer.buffers()]


@each_layer
def test_they_are_those_of_pytorch(layer, shape):
    inputs = 1 + 2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = (derivatives(layer, inputs, closed) for closed in (True, False))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["batch", "layer"])
def test_they_are_those_of_finite_differences(name):
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 2), (3,), (3,)] if name == "batch" else [(4, 3), (3,), (3,)]
    inputs = [torch.randn(s, dtype=torch.float64, generator=generator, requires_grad=True) for s in shapes]

    def call(x, weight, bias):
        with closed_forms():
            if name == "batch":
                return F.batch_norm(x, None, None, weight, bias, training=True)
            return F.layer_norm(x, (3,), weight, bias)

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs, check_batched_grad=True)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(3), nn.LayerNorm(3)], ids=["batch", "layer"])
@pytest.mark.filterwarnings("error:There is a performance drop")
def test_in_a_stack_each_member_has_its_own(norm):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), norm, nn.Tanh(), nn.Linear(3, 1)).double()
    params = {k: torch.stack([p + 0.1 * i for i in range(3)]).detach() for k, p in network.named_parameters()}
    inputs = torch.randn(6, 4, dtype=torch.float64)

    def run(closed):
        stack = {k: p.clone().requires_grad_() for k, p in params.items()}
        buffers = {k: torch.stack([b.clone() for _ in range(3)]) for k, b in network.named_buffers()}
        with closed_forms() if closed else nullcontext():
            losses = torch.vmap(lambda p, b: functional_call(network, {**p, **b}, (inputs,)).square().mean())(
                stack, buffers
            )
        grads = torch.autograd.grad(losses.sum(), list(stack.values()), create_graph=True)
        products = torch.autograd.grad(grads, list(stack.values()), [torch.ones_like(g) for g in grads])
        return [losses, *grads, *products, *buffers.values()]

    torch.testing.assert_close(run(True), run(False), rtol=1e-11, atol=1e-12)


def test_what_follows_may_change_the_output_in_place():
    inputs = torch.randn(4, 3, requires_grad=True)
    with twice_differentiable():
        output = F.relu(F.batch_norm(inputs, None, None, training=True), inplace=True)
    (grad,) = torch.autograd.grad(output.sum(), inputs, create_graph=True)
    torch.autograd.grad(grad.sum(), inputs)


def test_a_batch_of_one_value_per_channel_is_refused_as_ever():
    with closed_forms(), pytest.raises(ValueError, match="more than 1 value per channel"):
        F.batch_norm(torch.zeros(1, 3), None, None, training=True)

"""The second derivatives of convolutions and rectifiers that are written out are PyTorch's own."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from optimizers.curvature import piecewise
from optimizers.curvature.closed_forms import closed_forms
from optimizers.curvature.piecewise import Convolution, Rectifier

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "sequences": (nn.Conv1d(3, 4, 3), (2, 3, 7)),
    "images": (nn.Conv2d(3, 4, 3, padding=1), (2, 3, 5, 4)),
    "volumes": (nn.Conv3d(1, 2, 2), (2, 1, 3, 3, 3)),
    "strides": (nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), (2, 3, 6, 6)),
    "dilated": (nn.Conv2d(2, 4, (2, 3), dilation=(2, 1)), (2, 2, 5, 5)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
    "of no row in a batch, which is left as it is": (nn.Conv2d(3, 4, 3), (3, 5, 5)),
    "padded by name, which is left as it is": (nn.Conv2d(3, 4, 3, padding="same"), (2, 3, 5, 5)),
    "rectified": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 2)), (2, 3, 5, 5)),
    "rectified in place": (nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)), (3, 4)),
    "leaking": (nn.Sequential(nn.Linear(4, 5), nn.LeakyReLU(0.2), nn.Linear(5, 2)), (3, 4)),
    "leaking in place": (nn.Sequential(nn.Linear(4, 5), nn.LeakyReLU(0.2, True), nn.Linear(5, 2)), (3, 4)),
    "leaking before a change in place": (
        nn.Sequential(nn.Linear(4, 5), nn.LeakyReLU(0.2), nn.Hardtanh(-9, 9, True)),
        (3, 4),
    ),
    "leaking the other way": (nn.Sequential(nn.Linear(4, 5), nn.LeakyReLU(-0.2), nn.Linear(5, 2)), (3, 4)),
}


@pytest.fixture(autouse=True)
def _on_a_cpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piecewise, "DEVICES", {"cpu"})


def derivatives(layer: nn.Module, inputs: Tensor, *, closed: bool, frozen: int | None = None) -> list[Tensor]:
    """Output, gradients, their products with random vectors."""
    layer = deepcopy(layer).double()
    generator = torch.Generator().manual_seed(1)
    tensors = [inputs.clone().requires_grad_(), *layer.parameters()]
    if frozen is not None:
        tensors.pop(frozen).requires_grad_(False)
    with closed_forms() if closed else nullcontext():
        output = layer(tensors[0] if frozen != 0 else inputs)
    loss = (output.sin() * torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)).sum()
    grads = torch.autograd.grad(loss, tensors, create_graph=True)
    vectors = [torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in tensors]
    return [output, *grads, *torch.autograd.grad(grads, tensors, vectors)]


@pytest.mark.parametrize("frozen", [None, 0, 1])
@pytest.mark.parametrize("name", LAYERS)
def test_they_are_those_of_pytorch(name: str, frozen: int | None) -> None:
    layer, shape = LAYERS[name]
    inputs = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = (derivatives(layer, inputs, closed=closed, frozen=frozen) for closed in (True, False))
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["conv", "relu", "leaky_relu"])
def test_they_are_those_of_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 2, 4), (3, 2, 2), (3,)] if name == "conv" else [(3, 4)]
    inputs = [torch.randn(s, dtype=torch.float64, generator=generator, requires_grad=True) for s in shapes]

    def call(x: Tensor, *others: Tensor) -> Any:
        with closed_forms():
            return F.conv1d(x, *others, stride=2, padding=1) if others else getattr(F, name)(x)

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs, check_batched_grad=True)


def test_what_more_is_done_with_is_left_as_it_is() -> None:
    x, weight = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 2)
    with closed_forms():
        assert type(F.conv1d(x, weight).grad_fn).__name__ == f"{Convolution.__name__}Backward"
        assert type(F.relu(x).grad_fn).__name__ == f"{Rectifier.__name__}Backward"
        with torch.autocast("cpu", torch.bfloat16):
            assert F.conv1d(x, weight).dtype == torch.bfloat16
        torch.vmap(F.relu)(x)
    assert type(F.relu(x).grad_fn).__name__ == "ReluBackward0"

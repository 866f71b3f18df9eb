"""Networks whose Hessian is more than its Gauss-Newton matrix, losses, and the Hessian's diagonal by brute force."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.support.networks import CLASSES, Mean, MultiHead, Problem, draw, flat, labels, per_sample

SAMPLES = 3


def stacked(activation: Callable[[], nn.Module], hidden: int, width: int = 4) -> nn.Module:
    layers = [nn.Linear(4, width), activation()]
    for _ in range(hidden - 1):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


class Of(nn.Module):
    """Any function of some layers and the inputs."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def dense(count: int) -> dict[str, nn.Module]:
    return {f"l{i}": nn.Linear(4, 4) for i in range(count)} | {"out": nn.Linear(4, CLASSES)}


def gated(net, x):
    h = net.l0(x).tanh()
    return net.out(net.l1(h) * net.l2(h).sigmoid())


def residual(net, x):
    h = F.gelu(net.l0(x))
    h = h + F.silu(net.l1(h))
    return net.out(h + net.l2(h).tanh())


def quotient(net, x):
    h = net.l0(x)
    h = net.l1(h / (1 + h.square().mean(1, keepdim=True)).sqrt())
    return net.out(h / (2 + h.cos()))


def attention_by_hand(net, x):
    h = torch.stack([x, x.flip(1), x.roll(1, 1)], 1)
    h = h + net.l0(h).tanh()
    weights = (net.l1(h) @ net.l2(h).mT).softmax(-1)
    return net.out((weights @ h).mean(1))


def negative_entropy(net, x):
    return net.out(F.log_softmax(net.l0(x), 1) * net.l1(x).softmax(1))


def same_twice(net, x):
    return net.out((net.l0(x) * net.l0(x.flip(1))).tanh())


def halves(pool):
    return lambda net, x: net.out(pool(F.gelu(net.conv(x).tanh())).flatten(1))


def convolution(groups: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 2, groups=groups), nn.SiLU(), nn.Flatten(),
                         nn.Linear(16, CLASSES))  # fmt: skip


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "gelu by tanh": lambda: nn.GELU("tanh"), "silu": nn.SiLU,
    "softplus": nn.Softplus, "elu": nn.ELU, "celu": nn.CELU, "selu": nn.SELU, "mish": nn.Mish,
    "hardswish": nn.Hardswish, "log sigmoid": nn.LogSigmoid, "tanhshrink": nn.Tanhshrink, "softsign": nn.Softsign,
    "relu": nn.ReLU, "leaky relu": nn.LeakyReLU, "hardtanh": nn.Hardtanh, "relu6": nn.ReLU6,
    "softshrink": nn.Softshrink, "square": lambda: Of(lambda _, x: x**2), "sine": lambda: Of(lambda _, x: x.sin()),
    "written out": lambda: Of(lambda _, x: x * torch.sigmoid(1.7 * x)), "exp": lambda: Of(lambda _, x: x.exp()),
    "erf": lambda: Of(lambda _, x: x.erf() + x.atan()),
}  # fmt: skip

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{f"{depth} hidden, tanh": lambda depth=depth: stacked(nn.Tanh, depth) for depth in (1, 2, 3, 5)},
    "mixed": lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.Softplus(), nn.Linear(4, 4),
                                   nn.SiLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, CLASSES)),
    "sigmoid outputs": lambda: nn.Sequential(stacked(nn.Tanh, 1), nn.Sigmoid()),
    "gated": lambda: Of(gated, **dense(3)),
    "residual": lambda: Of(residual, **dense(3)),
    "quotient": lambda: Of(quotient, **dense(2)),
    "attention by hand": lambda: Of(attention_by_hand, **dense(3)),
    "log-softmax": lambda: Of(negative_entropy, **dense(2)),
    "a layer on two inputs": lambda: Of(same_twice, **dense(1)),
    "layer norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4),
                                        nn.Linear(4, CLASSES)),
    "group norm": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(),
                                        nn.Linear(36, CLASSES)),
    "convolution": convolution,
    "depthwise convolution": lambda: convolution(groups=4),
    "maxima": lambda: Of(halves(nn.MaxPool2d(2)), conv=nn.Conv2d(2, 2, 2), out=nn.Linear(8, CLASSES)),
    "means": lambda: Of(halves(nn.AvgPool2d(2)), conv=nn.Conv2d(2, 2, 2), out=nn.Linear(8, CLASSES)),
    "embedding": lambda: Of(lambda net, x: net.out(net.l0(net.embedding(x)).tanh().mean(1).sin()),
                            embedding=nn.Embedding(5, 4), **dense(1)),
    "multi-head": lambda: nn.Sequential(nn.Embedding(5, 4), MultiHead(), Mean(), nn.Linear(4, CLASSES)),
    "encoder": lambda: nn.Sequential(nn.Embedding(5, 4),
                                     nn.TransformerEncoderLayer(4, 2, 5, 0.0, "gelu", batch_first=True),
                                     Mean(), nn.Linear(4, CLASSES)),
}  # fmt: skip
IMAGES = ("group norm", "convolution", "depthwise convolution", "maxima", "means")
TOKENS = ("embedding", "multi-head", "encoder")

LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "squared error": lambda o: F.mse_loss(o, draw(*o.shape, seed=5)),
    "binary cross-entropy": lambda o: F.binary_cross_entropy_with_logits(o, (draw(*o.shape, seed=5) > 0).double()),
    "poisson": lambda o: F.poisson_nll_loss(o, draw(*o.shape, seed=5).abs().round()),
    "label smoothing": lambda o: F.cross_entropy(o, labels(len(o)), label_smoothing=0.2),
}


def smooth(name: str, loss: Callable[[Tensor], Tensor] = per_sample) -> Problem:
    """A network with weights and data that are the same every time."""
    torch.manual_seed(1)
    model = (NETWORKS[name]() if name in NETWORKS else stacked(ACTIVATIONS[name], 2)).double()
    with torch.no_grad():
        for i, param in enumerate(model.parameters()):
            param += 0.3 * draw(*param.shape, seed=i)
    if name in IMAGES:
        x = draw(SAMPLES, 2, 5, 5, seed=7)
    elif name in TOKENS:
        x = torch.tensor([[0, 1, 1], [2, 3, 0], [4, 4, 4]])
    else:
        x = draw(SAMPLES, 4, seed=7)
    if name == "sigmoid outputs":
        loss = LOSSES["squared error"]
    return Problem(model, x, loss)


def hessian_diagonal(given: Problem) -> Tensor:
    """By differentiating twice, entry by entry."""
    with sdpa_kernel(SDPBackend.MATH):
        loss, _ = given()
    gradient = flat_with_graph(torch.autograd.grad(loss, given.params, create_graph=True, materialize_grads=True))
    return torch.stack([_own(gradient, given.params, i) for i in range(len(gradient))])


def flat_with_graph(tensors) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _own(gradient: Tensor, params: list[nn.Parameter], i: int) -> Tensor:
    row = torch.autograd.grad(gradient[i], params, retain_graph=True, materialize_grads=True)
    return flat(list(row))[i]

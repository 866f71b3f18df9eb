"""Small networks with data and losses, one estimate without an optimizer, and brute-force Gauss-Newton oracles."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

from optimizers import CurvatureOptimizer
from optimizers.curvature.interface import Refresh

CLASSES = 3


@dataclass
class Problem:
    """A network, its input, and the loss of its outputs."""

    model: nn.Module
    x: Tensor
    loss: Callable[[Tensor], Tensor]

    @property
    def params(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def __call__(self) -> tuple[Tensor, Tensor]:
        """The closure."""
        outputs = self.model(self.x)
        return self.loss(outputs), outputs


class Mean(nn.Module):
    """Over the positions of a sequence."""

    def forward(self, x):
        return x.mean(dim=1)


class Attention(nn.Module):
    """Two heads with projections of their own, around PyTorch's function."""

    def __init__(self, width=4, causal=False):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.causal = causal

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (2, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


class MultiHead(nn.Module):
    """nn.MultiheadAttention, on inputs whose first dimension is the sample."""

    def __init__(self, width=4, batch_first=True):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=batch_first)

    def forward(self, x):
        y = x if self.attention.batch_first else x.transpose(0, 1)
        y = y + self.attention(y, y, y, need_weights=False)[0]
        return y if self.attention.batch_first else y.transpose(0, 1)


def language_model(*layers):
    return nn.Sequential(nn.Embedding(5, 4, padding_idx=0), *layers, nn.Linear(4, CLASSES))


def encoder(**options):
    return nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, **options)


class Causal(nn.Module):
    """A TransformerEncoderLayer under a causal mask."""

    def __init__(self):
        super().__init__()
        self.layer = encoder(batch_first=True)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.layer(x, src_mask=mask, is_causal=True)


class SequenceFirst(nn.Module):
    """Works on (positions, samples, ...) inside; takes and returns the samples first."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.transpose(0, 1)).transpose(0, 1)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(4, CLASSES),
    "relu": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, CLASSES)),
    "convolution": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=(1, 2), padding=(1, 0)),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 2, groups=2, dilation=(2, 1), bias=False),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    ),
    "batch norm": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(27, 4),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.Linear(4, CLASSES),
    ),
    "attention": lambda: language_model(Attention(), nn.LayerNorm(4), Mean()),
    "multi-head": lambda: language_model(MultiHead(), Mean()),
    "multi-head, sequence first": lambda: language_model(MultiHead(batch_first=False), nn.LayerNorm(4), Mean()),
    "encoder": lambda: language_model(encoder(batch_first=True), Mean()),
    "causal attention": lambda: language_model(Attention(causal=True), nn.LayerNorm(4)),
    "causal encoder": lambda: language_model(Causal()),
    "sequence-first encoder": lambda: SequenceFirst(language_model(encoder())),
}
IMAGES, SEQUENCES = ("convolution", "batch norm"), ("causal attention", "causal encoder", "sequence-first encoder")
PIECEWISE_LINEAR = ("linear", "relu", "convolution")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels(*shape: int) -> Tensor:
    return torch.randint(0, CLASSES, shape, generator=torch.Generator().manual_seed(0))


def per_token(outputs: Tensor) -> Tensor:
    """Mean cross-entropy of (samples, positions, classes)."""
    return F.cross_entropy(outputs.flatten(0, 1), labels(*outputs.shape[:2]).flatten())


def per_sample(outputs: Tensor) -> Tensor:
    """Mean cross-entropy of (samples, classes)."""
    return F.cross_entropy(outputs, labels(len(outputs)))


def problem(name: str, samples: int = 4) -> Problem:
    """A network with a mean cross-entropy, the same weights and data every time."""
    torch.manual_seed(1)
    model = NETWORKS[name]().double()
    with torch.no_grad():  # LayerNorm's and BatchNorm's ones and zeros would hide what multiplies them
        for i, param in enumerate(model.parameters()):
            param += 0.3 * draw(*param.shape, seed=i)
    if name in IMAGES:
        x = draw(samples, 2, 5, 5).roll(1, 0)
    elif name in ("linear", "relu"):
        x = draw(samples, 4)
    else:  # with padding, and tokens that occur twice in a sample
        x = torch.tensor([[0, 1, 1], [2, 3, 0], [4, 4, 4], [3, 1, 2], [2, 1, 4]])[:samples]
    return Problem(model, x, per_token if name in SEQUENCES else per_sample)


class Once:
    """One forward pass and gradient, as ``CurvatureOptimizer`` makes them; then as many estimates as one likes."""

    def __init__(self, estimator, closure, params, seed=0, memory=None, **given):
        with estimator.watch(params) as record:
            returned = closure()
        loss, outputs = returned if isinstance(returned, tuple) else (returned, None)
        memory = {} if memory is None else memory
        estimator.follow(record, outputs, params, memory)
        grads = torch.autograd.grad(loss, params, create_graph=estimator.double_backward, retain_graph=True)
        fields: dict[str, Any] = {
            "previous_grads": [None] * len(params),
            "directions": lambda: [torch.ones_like(p) for p in params],
            "generator": torch.Generator().manual_seed(seed),
            "memory": memory,
        }
        self.refresh = Refresh(
            loss=loss,
            outputs=outputs,
            params=list(params),
            indices=list(range(len(params))),
            grads=grads,
            record=record,
            **(fields | given),
        )
        self.estimator = estimator

    def __call__(self) -> list[Tensor]:
        return [e.detach() for e in self.estimator(self.refresh)]


def estimate(estimator, problem_, **given) -> list[Tensor]:
    return Once(estimator, problem_, problem_.params, **given)()


class Keep(CurvatureOptimizer):
    """Gradient descent whose state is the last curvature."""

    def __init__(self, params, estimator, lr=0.0, **options):
        super().__init__(params, {"lr": lr}, estimator=estimator, **options)

    @staticmethod
    def update(param, grad, curvature, state, hp):
        return param - hp["lr"] * grad, state if curvature is None else {"curvature": curvature}

    @property
    def curvatures(self):
        return [self.state[p]["curvature"] for group in self.param_groups for p in group["params"]]


def of_both_directions(given: Problem, estimator) -> tuple[list[Tensor], list[Tensor]]:
    """Curvatures of minimising the loss, and of maximising the negated loss."""

    def negated():
        loss, outputs = given()
        return -loss, outputs

    low, high = Keep(given.params, estimator), Keep(given.params, estimator, maximize=True)
    low.step(given)
    high.step(negated)
    return low.curvatures, high.curvatures


def assert_goes_on_to_the_bit(start: Callable[[], tuple[Problem, Keep]], steps: int) -> None:
    """Three steps, then so many of the optimizer and of one that was made anew from its state, on the same streams."""
    given, optimizer = start()
    for _ in range(3):
        optimizer.step(given)
    resumed, other = start()
    resumed.model.load_state_dict(given.model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(steps):
        stream = torch.get_rng_state()
        optimizer.step(given)
        torch.set_rng_state(stream)
        other.step(resumed)
        assert torch.equal(flat(given.params), flat(resumed.params))
        assert torch.equal(flat(optimizer.curvatures), flat(other.curvatures))


def jacobians(problem_: Problem) -> list[Tensor]:
    """Per parameter ``(outputs.numel(), param.numel())``; buffers are left as they were."""
    params = {n: p.detach() for n, p in problem_.model.named_parameters()}
    buffers = {n: b.clone() for n, b in problem_.model.named_buffers()}

    def outputs(values):
        return functional_call(problem_.model, (values, {n: b.clone() for n, b in buffers.items()}), (problem_.x,))

    with sdpa_kernel(SDPBackend.MATH):
        return [J.reshape(-1, params[n].numel()) for n, J in jacrev(outputs)(params).items()]


def gauss_newton(problem_: Problem) -> list[Tensor]:
    """Diagonal of J^T H J, with H the full Hessian of the loss in the outputs."""
    outputs = problem_()[1].detach()
    H = jacrev(jacrev(problem_.loss))(outputs).reshape(outputs.numel(), outputs.numel())
    return [
        torch.einsum("ip,ij,jp->p", J, H, J).reshape(p.shape)
        for J, p in zip(jacobians(problem_), problem_.params, strict=True)
    ]


@dataclass
class Moments:
    """Of a Gauss-Newton diagonal by sampling: its mean, and the variances of the estimates from one draw.

    Every prediction j of the batch contributes J_j^T r_j, with r_j independent, of mean zero and covariance H_j. With
    s_j = E (J_j^T r_j)^2 and k_j = E (J_j^T r_j)^4 - 3 s_j^2, the square of a sum has the variance 2 (sum s)^2 + sum k.
    """

    mean: Tensor
    whole_batch: Tensor
    per_sample: Tensor


def moments(problem_: Problem, draws: str) -> Moments:
    """For outputs (samples, ..., classes) and their mean cross-entropy; all parameters in one vector."""
    outputs = problem_()[1].detach()
    classes = outputs.shape[-1]
    p = outputs.softmax(-1).reshape(-1, classes)
    units = torch.eye(classes, dtype=p.dtype) - p[:, None, :]  # e_c - p
    J = torch.cat(jacobians(problem_), dim=1).unflatten(0, (-1, classes))
    x = torch.einsum("jcd,jdp->jcp", units / len(p) ** 0.5, J)
    s = torch.einsum("jc,jcp->jp", p, x.square())
    if draws == "labels":  # r is one of the e_c - p
        k = torch.einsum("jc,jcp->jp", p, x.pow(4)) - 3 * s.square()
    else:  # r is the sum of all sqrt(p_c) (e_c - p) under random signs
        k = -2 * torch.einsum("jc,jcp->jp", p.square(), x.pow(4))
    own = s.unflatten(0, (len(outputs), -1)).sum(1)
    return Moments(s.sum(0), 2 * s.sum(0).square() + k.sum(0), 2 * own.square().sum(0) + k.sum(0))


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def relative_error(found: list[Tensor], expected: list[Tensor]) -> float:
    return ((flat(found) - flat(expected)).norm() / flat(expected).norm()).item()

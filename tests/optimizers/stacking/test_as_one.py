"""What is done for all members in one is what is done for each: each function against every member's own call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from optimizers.stacking.as_one import AsOne, NotAsOneError
from optimizers.stacking.direct import Stacked
from optimizers.stacking.member_numbers import DisagreeError, MemberNumbers

MEMBERS = 3
NUMBERS = [0.5, 1.25, 3.0]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def matrix() -> Tensor:
    return draw(MEMBERS, 4, 5)


FUNCTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Any], Any]] = {
    "in place with a number": lambda x, y, v, n: x.mul_(n).add_(y, alpha=-n),
    "addcdiv": lambda x, y, v, n: x.addcdiv_(y, y.square().add_(1), value=-n),
    "addcmul": lambda x, y, v, n: torch.addcmul(x, y, x, value=n),
    "lerp": lambda x, y, v, n: x.lerp_(y, n / 4),
    "sub with alpha": lambda x, y, v, n: torch.sub(x, y, alpha=n),
    "a number first": lambda x, y, v, n: n - x + n / (y.square() + 1) + n ** x.abs(),
    "where": lambda x, y, v, n: torch.where(x > 0, x * n, y),
    "a vector over the rows": lambda x, y, v, n: x * v + v,
    "a column": lambda x, y, v, n: x / (y.square().sum(1, keepdim=True) + n),
    "sums of other ranks": lambda x, y, v, n: x.add_(v, alpha=n).sub_(v.sum(), alpha=-n) + torch.add(v, y, alpha=n),
    "filled": lambda x, y, v, n: x.fill_(n).add_(y.fill_(v.sum())).mul_(v.norm()),
    "a scalar of its own": lambda x, y, v, n: x * y.norm() / n,
    "clamp": lambda x, y, v, n: x.clamp(min=-n / 4, max=n / 4) + torch.clamp(x, max=0.1),
    "new tensors": lambda x, y, v, n: torch.zeros(4, 5, dtype=x.dtype).add_(x) + torch.eye(4, 5, dtype=x.dtype),
    "alike tensors": lambda x, y, v, n: torch.full_like(x, n) + torch.zeros_like(x).fill_(n).add_(y),
    "a number as tensor": lambda x, y, v, n: x * torch.tensor(n, dtype=x.dtype),
    "products": lambda x, y, v, n: x @ y.T @ torch.eye(4, dtype=x.dtype) * n,
    "einsum": lambda x, y, v, n: torch.einsum("ij,kj->ik", x, y * n),
    "reductions": lambda x, y, v, n: x.sum(0) + y.mean(0) + x.amax() * n,
    "views": lambda x, y, v, n: x.view(-1)[3:9].reshape(2, 3).t() * n,
    "in place of a view": lambda x, y, v, n: (x.view(-1).mul_(n), x)[1],
    "out": lambda x, y, v, n: torch.maximum(x, y, out=torch.empty_like(x)) * n,
    "factorisation": lambda x, y, v, n: torch.linalg.qr(x @ x.mT + n * torch.eye(4, dtype=x.dtype))[1],
    "shapes": lambda x, y, v, n: x * x.shape[0] * x.ndim * x.numel() * x.size(1) * x.dim() * len(x.shape) * n,
    "data": lambda x, y, v, n: (x.data.add_(y, alpha=n), setattr(y, "data", x * 2), y)[2],
    "read": lambda x, y, v, n: x * x.abs().sum().item() + float(n > 0),
    "lists": lambda x, y, v, n: torch._foreach_add([x, y], [y, x], alpha=n)[0],
    "lists and numbers": lambda x, y, v, n: (torch._foreach_mul_([x, y], n), torch._foreach_div_([x, y], 2.0), x + y)[
        2
    ],
    "lists scaled": lambda x, y, v, n: (torch._foreach_sub_([x, y], [y, x], alpha=n), x + y)[1],
    "lists between": lambda x, y, v, n: torch._foreach_lerp([x, v], [y, v * 2], weight=n / 4)[0],
    "lists with factors": lambda x, y, v, n: torch._foreach_addcmul([x, v], [y, v], [y, v], value=n)[0],
    "lists added to": lambda x, y, v, n: (torch._foreach_add_([x, v], n), torch._foreach_sub([x], n)[0])[1],
    "lists of lists": lambda x, y, v, n: (torch._foreach_addcdiv_([x], [y], [y * y + 1], [n]), x)[1],
    "directly": lambda x, y, v, n: (
        (x.t() @ y).transpose(0, 1).permute(1, 0).sum() * x.mean() * torch.mm(x, y.T).norm() * x
    ),
    "tensordot": lambda x, y, v, n: (
        torch.tensordot(x, y, dims=([0], [0])) * torch.tensordot(x, y.T, [[1], [0]]).sum() * n
    ),
    "tensordot with names": lambda x, y, v, n: torch.tensordot(a=x, b=y, dims=[[0], [0]]) * n,
    "along dimensions": lambda x, y, v, n: (
        x.sum(dim=0) * y.sum(-1, keepdim=True) + y.mean(1)[:, None] * x.unsqueeze(-1).sum(2) + v.unsqueeze(0) * n
    ),
    "in another order": lambda x, y, v, n: (
        x.index_select(1, torch.argsort(v, descending=True)) * n + y.index_select(0, x[:, 0].argsort())
    ),
    "eigenvectors": lambda x, y, v, n: torch.linalg.eigh(x @ x.mT + n * torch.eye(4, dtype=x.dtype))[1].abs(),
    "named results": lambda x, y, v, n: x.max(dim=1).values * n + torch.linalg.svd(y, full_matrices=False).S,
    "a view of a shape": lambda x, y, v, n: torch.zeros(x.shape, dtype=x.dtype).view(x.shape).add_(x) * n,
    "tensordot of others": lambda x, y, v, n: torch.tensordot(x, y, dims=([1], [1])) + torch.tensordot(x, y, 2) * n,
    "powers": lambda x, y, v, n: x * (1 - n**3) + abs(-n) * y,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_member_gets_what_its_own_call_gives(name: str) -> None:
    function, tensors = FUNCTIONS[name], (matrix(), draw(MEMBERS, 4, 5, seed=1), draw(MEMBERS, 5, seed=2))
    expected = [function(*(t[row].clone() for t in tensors), NUMBERS[row]) for row in range(MEMBERS)]
    stacked = [t.clone().as_subclass(Stacked) for t in tensors]
    with AsOne(MEMBERS):
        result = function(*stacked, MemberNumbers(NUMBERS))
    assert isinstance(result, Stacked)
    torch.testing.assert_close(result.as_subclass(Tensor), torch.stack(expected), rtol=1e-14, atol=1e-14)


def test_single_precision_stays_single_precision() -> None:
    x = matrix().float().as_subclass(Stacked)
    with AsOne(MEMBERS):
        results = [x * MemberNumbers(NUMBERS), x * x.double().sum(), x.half() * MemberNumbers(NUMBERS)]
    assert [r.as_subclass(Tensor).dtype for r in results] == [torch.float32, torch.float32, torch.float16]


def test_a_gradient_is_a_members_own() -> None:
    x, grad = matrix().as_subclass(Stacked), draw(MEMBERS, 4, 5, seed=1).as_subclass(Stacked)
    x.grad, x.trained = grad, True
    with AsOne(MEMBERS):
        x.sub_(x.grad, alpha=1.0)
        x.grad = None
        assert x.grad is None
        assert x.requires_grad
    torch.testing.assert_close(x.as_subclass(Tensor), matrix() - draw(MEMBERS, 4, 5, seed=1))


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda x, n: x.sum() > 0 and 1, DisagreeError),
        (lambda x, n: n > 1, DisagreeError),
        (lambda x, n: torch.zeros(()).add_(x.sum()), NotAsOneError),
        (lambda x, n: x[x > 0], RuntimeError),
        (lambda x, n: torch.rand_like(x), RuntimeError),
        (lambda x, n: torch.lerp(x, x, weight=n).requires_grad_(), RuntimeError),
    ],
)
def test_what_cannot_be_done_for_all_in_one_is_an_error(act: Callable[[Any, Any], Any], error: type[Exception]) -> None:
    x = (matrix() * torch.tensor([1.0, -1.0, 1.0])[:, None, None]).as_subclass(Stacked)
    with AsOne(MEMBERS), pytest.raises(error):
        assert act(x, MemberNumbers([0.5, 2.0, 3.0])) is None


def test_a_number_that_is_taken_for_one_is_none() -> None:
    assert math.isnan(math.sqrt(MemberNumbers(NUMBERS)))


@pytest.mark.parametrize("operate", [lambda a: 1 - a**7, lambda a: 3 / a % 0.7, lambda a: a // 2 + a * a - 2, abs])
def test_numbers_compute_as_floats_do_to_the_bit(operate: Callable[[Any], Any]) -> None:
    assert operate(MemberNumbers(NUMBERS)).values.tolist() == [operate(number) for number in NUMBERS]
    assert (MemberNumbers(NUMBERS) > 0.4) is True
    assert (MemberNumbers(NUMBERS) == 7.0) is False

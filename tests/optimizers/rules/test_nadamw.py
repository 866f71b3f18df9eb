"""NAdamW against AlgoPerf's steps written out by hand; optimizers made of 1 - beta against their own classes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers import FirstOrderOptimizer, NAdamW, with_one_minus_betas
from optimizers.stacking.rule import stack_key

HP: dict[str, Any] = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}
SHAPES = [(3, 4), (), (5,), (2, 2, 2), (0,)]


def draw(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def steps(make: Any, hp: dict[str, Any], count: int = 20, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """The parameters after some steps; one of them has a gradient at every other step only."""
    params = [nn.Parameter(draw(shape, i, dtype)) for i, shape in enumerate(SHAPES)]
    optimizer = make(params, **hp)
    for step in range(count):
        for i, param in enumerate(params):
            param.grad = None if i == 2 and step % 2 else draw(tuple(param.shape), 100 * step + i, dtype)
        optimizer.step()
    return [param.detach() for param in params]


def by_hand(params: list[nn.Parameter], lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> Any:
    """Decay, averages, the momentum averaged once more, the step, and the momentum put back: number by number."""
    beta1, beta2 = betas
    state = {param: [0, torch.zeros_like(param), torch.zeros_like(param)] for param in params}

    class ByHand:
        @torch.no_grad()
        def step(self) -> None:
            for param in (p for p in params if p.grad is not None):
                known, grad = state[param], param.grad
                known[0] += 1
                param.mul_(1 - lr * weight_decay)
                known[1].mul_(beta1).add_(grad, alpha=1 - beta1)
                known[2].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
                ahead = known[1] * beta1 + (1 - beta1) * grad
                denominator = known[2].sqrt() / math.sqrt(1 - beta2 ** known[0]) + eps
                param.sub_(lr / (1 - beta1 ** known[0]) * ahead / denominator)

    return ByHand()


def test_its_steps_are_those_of_algoperf() -> None:
    for param, expected in zip(steps(NAdamW, HP), steps(by_hand, HP), strict=True):
        torch.testing.assert_close(param, expected, rtol=1e-12, atol=1e-14)


def test_it_is_not_adamw_but_for_a_momentum_of_one_gradient() -> None:
    none = {**HP, "betas": (0.0, 0.95)}
    for param, expected in zip(steps(NAdamW, none), steps(torch.optim.AdamW, none), strict=True):
        torch.testing.assert_close(param, expected, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(steps(NAdamW, HP)[0], steps(torch.optim.AdamW, HP)[0], rtol=1e-3)


def test_its_state_goes_on_from_a_state_dict_also_in_half_precision() -> None:
    def resumed(params: Any, **hp: Any) -> Any:
        first = NAdamW(params, **hp)

        class Resumed:
            count = 0

            def step(self) -> None:
                nonlocal first
                if self.count == 7:
                    again = NAdamW(params, **hp)
                    again.load_state_dict(first.state_dict())
                    first = again
                self.count += 1
                first.step()

        return Resumed()

    for dtype in (torch.float64, torch.bfloat16):
        pairs = zip(steps(resumed, HP, dtype=dtype), steps(NAdamW, HP, dtype=dtype), strict=True)
        assert all(torch.equal(param, expected) for param, expected in pairs)


def test_a_first_order_optimizer_takes_a_closure_and_refuses_what_it_cannot_do() -> None:
    param = nn.Parameter(torch.ones(3))
    optimizer = NAdamW([param], lr=0.1, weight_decay=0.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = param.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 3.0
    torch.testing.assert_close(param.detach(), torch.full((3,), 1 - 0.1 * (0.9 * 0.1 + 0.1) / 0.1), rtol=1e-5, atol=0)
    words = nn.Embedding(4, 2, sparse=True)
    words(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="NAdamW supports neither sparse nor complex gradients"):
        NAdamW(words.parameters()).step()
    with pytest.raises(ValueError, match="betas is out of range"):
        NAdamW([param], betas=(1.0, 0.9))


class Switched(NAdamW):
    def train(self) -> None: ...


class OwnStep(NAdamW):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


@pytest.mark.parametrize(("cls", "known"), [(NAdamW, True), (Switched, False), (OwnStep, False)])
def test_one_that_does_more_than_its_rule_is_in_no_stack(cls: type[FirstOrderOptimizer], known: bool) -> None:
    assert (stack_key(cls([nn.Parameter(torch.ones(2))])) is not None) == known


# Made of 1 - beta.


@pytest.mark.parametrize("base", [torch.optim.Adam, torch.optim.AdamW, NAdamW])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_optimizer_of_one_minus_betas_is_that_of_its_betas_to_the_bit(base: Any, dtype: torch.dtype) -> None:
    path = f"{base.__module__}.{base.__name__}" if base is NAdamW else f"torch.optim.{base.__name__}"
    ours = {"one_minus_beta1": 0.0269, "one_minus_beta2": 1.9e-3, "base_optimizer": path, "lr": 0.03, "eps": 1e-6}
    theirs = {"betas": (1 - 0.0269, 1 - 1.9e-3), "lr": 0.03, "eps": 1e-6}
    pairs = zip(steps(with_one_minus_betas, ours, dtype=dtype), steps(base, theirs, dtype=dtype), strict=True)
    assert all(torch.equal(param, expected) for param, expected in pairs)


def test_it_is_of_the_base_class_and_stacks_as_that_does() -> None:
    param = nn.Parameter(torch.ones(2))
    made = with_one_minus_betas([param], lr=0.1)
    assert type(made) is torch.optim.Adam
    assert made.param_groups[0]["betas"] == (0.9, 0.999)
    assert stack_key(made) == stack_key(torch.optim.Adam([param], lr=0.2, betas=(0.5, 0.9), eps=1e-3)) is not None


def test_a_base_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"base_optimizer 'torch.optim.Adm': no such class; expected a dotted path"):
        with_one_minus_betas([nn.Parameter(torch.ones(1))], base_optimizer="torch.optim.Adm")

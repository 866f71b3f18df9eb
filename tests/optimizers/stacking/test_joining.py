"""Optimizers of members become one and are again what they were."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from optimizers import adapt_learning_rate
from optimizers.stacking.as_one import NotAsOneError
from optimizers.stacking.direct import Stacked
from optimizers.stacking.joined import step_of
from optimizers.stacking.joining import join, part
from optimizers.stacking.member_numbers import MemberNumbers

MEMBERS = 3


def members(make: Any, hps: list[dict[str, Any]], steps: int = 2) -> tuple[list[Any], list[list[nn.Parameter]]]:
    """After some steps."""
    generator = torch.Generator().manual_seed(0)
    params = [[nn.Parameter(torch.randn(2, 3, generator=generator)), nn.Parameter(torch.ones(3))] for _ in hps]
    optimizers = [make(own, **hp) for own, hp in zip(params, hps, strict=True)]
    for _ in range(steps):
        for own, optimizer in zip(params, optimizers, strict=True):
            for param in own:
                param.grad = torch.randn(param.shape, generator=generator)
            optimizer.step()
    return optimizers, params


def stand_ins(params: list[list[nn.Parameter]]) -> list[Stacked]:
    return [torch.stack([p.detach() for p in each]).as_subclass(Stacked) for each in zip(*params, strict=True)]


def test_tensors_numbers_and_what_is_alike() -> None:
    hps: list[dict[str, Any]] = [{"lr": 0.1 * (i + 1), "betas": (0.9, 0.99 - 0.1 * i)} for i in range(MEMBERS)]
    optimizers, params = members(torch.optim.Adam, hps)
    stacked = stand_ins(params)
    joined = join(optimizers, params, stacked)
    group = joined.param_groups[0]
    assert type(joined) is torch.optim.Adam
    assert [id(p) for p in group["params"]] == [id(s) for s in stacked]
    assert group["lr"].values.tolist() == [hp["lr"] for hp in hps]
    assert group["betas"][0] == 0.9
    assert isinstance(group["betas"][1], MemberNumbers)
    state = joined.state[stacked[0]]
    assert not isinstance(state["step"], Stacked) and state["step"].item() == 2
    expected = torch.stack([o.state[own[0]]["exp_avg"] for o, own in zip(optimizers, params, strict=True)])
    assert torch.equal(state["exp_avg"].as_subclass(Tensor), expected)


def test_an_optimizer_in_an_optimizer_stays_in_it() -> None:
    optimizers, params = members(adapt_learning_rate, [{"lr": 0.1}, {"lr": 0.2}])
    joined = join(optimizers, params, stand_ins(params))
    assert joined.param_groups is joined.base_optimizer.param_groups


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.Adagrad, adapt_learning_rate])
def test_a_part_is_what_the_member_was(make: Any) -> None:
    optimizers, params = members(make, [{"lr": 0.1}, {"lr": 0.2}])
    stacked = stand_ins(params)
    joined = join(optimizers, params, stacked)
    others, own = members(make, [{"lr": 0.3}, {"lr": 0.4}], steps=0)
    for row, (other, params_of) in enumerate(zip(others, own, strict=True)):
        part(joined, other, row, params_of, stacked)
        for param, before in zip(params_of, params[row], strict=True):
            param.data = before.detach().clone()
            param.grad = before.grad = torch.ones_like(param)
        other.step()
        optimizers[row].step()
        for param, expected in zip(params_of, params[row], strict=True):
            assert torch.equal(param, expected)


class Counting(torch.optim.SGD):
    """Counts steps around those of SGD, in a way that looks like PyTorch's own."""

    counted = 0

    @functools.wraps(torch.optim.SGD.step)
    def step(self, *args: Any) -> Any:
        self.counted += 1
        return super().step(*args)


def test_what_is_around_a_step_is_left_out_only_if_it_does_nothing() -> None:
    param = nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    plain, counting = torch.optim.SGD([param], 0.25), Counting([param], 0.25)
    assert step_of(plain) != plain.step
    step_of(plain)()
    step_of(counting)()
    assert param.tolist() == [0.5, 0.5]
    assert counting.counted == 1
    said = []
    plain.register_step_post_hook(lambda *_: said.append("after"))
    step_of(plain)()
    assert said == ["after"]
    with register_optimizer_step_pre_hook(lambda *_: said.append("before")):  # type: ignore[arg-type, return-value]
        step_of(counting)()
    assert said.count("before") >= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda optimizer: optimizer.param_groups[0].update(nesterov=True), "nesterov differs: False and True"),
        (lambda optimizer: setattr(optimizer, "kept", [1, 2]), "one length"),
        (lambda optimizer: optimizer.state.update({optimizer.param_groups[0]["params"][0]: {"m": 1}}), "m|one length"),
        (lambda optimizer: optimizer.param_groups[0].update(lr=torch.tensor(0.1)), "lr is not of one type"),
    ],
)
def test_what_differs_in_something_else_is_named(change: Any, message: str) -> None:
    optimizers, params = members(torch.optim.SGD, [{"lr": 0.1}, {"lr": 0.2}])
    change(optimizers[1])
    with pytest.raises(NotAsOneError, match=message):
        join(optimizers, params, stand_ins(params))

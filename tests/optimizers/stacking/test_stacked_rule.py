"""A rule that is elementwise steps for all tensors at once, and comes to what it comes to for each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from optimizers import SADH, DiagHessian, NAdamW
from optimizers.apply import Rule
from optimizers.stacking.first_order import adam, sgd
from optimizers.stacking.flat import ALIGNED, Places
from optimizers.stacking.stacked_rule import StackedRule

MEMBERS = 3
SHAPES = [torch.Size(s) for s in ((2, 3), (3,), (), (4, 1, 5), (17,))]
ADAM = {"betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1, "decoupled_weight_decay": True, "amsgrad": False}
SGD = {"momentum": 0.9, "dampening": 0.0, "nesterov": True, "weight_decay": 0.1}
CLIPPED = {"betas": (0.9, 0.9), "rho": 0.1, "eps": 1e-2, "weight_decay": 0.0}


def draw(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(MEMBERS, *shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def of_matrices(param: Any, grad: Any, curvature: Any, state: Any, hp: Any) -> Any:
    """Decays matrices only."""
    return (param - hp["lr"] * (grad + param) if param.ndim > 1 else param - hp["lr"] * grad), {}


def over_the_tensor(param: Any, grad: Any, curvature: Any, state: Any, hp: Any) -> Any:
    return param - hp["lr"] * grad / grad.norm(), {}


def across_entries(param: Any, grad: Any, curvature: Any, state: Any, hp: Any) -> Any:
    return param - hp["lr"] * grad.flip(-1) if param.ndim else param - hp["lr"] * grad, {}


def by_size(param: Any, grad: Any, curvature: Any, state: Any, hp: Any) -> Any:
    return param - hp["lr"] * (grad * param.numel() ** -0.5), {}


def keeps_the_gradient(param: Any, grad: Any, curvature: Any, state: Any, hp: Any) -> Any:
    before = state["previous"] if state else grad
    return param - hp["lr"] * (2 * grad - before), {"previous": grad}


def keeps_the_parameter(param: Any, grad: Any, curvature: Any, state: Any, hp: Any) -> Any:
    before = state["previous"] if state else param
    mean = (state["mean"] if state else 0 * grad).lerp(grad, 0.1)
    return param - hp["lr"] * mean + 0.01 * before, {"mean": mean, "previous": param}


RULES: dict[str, tuple[Rule, dict[str, Any], bool]] = {
    "adam": (adam, ADAM, True),
    "sgd": (sgd, SGD, True),
    "nadamw": (NAdamW.update, ADAM | {"momentum_decay": 4e-3}, True),
    "sadh": (SADH.update, CLIPPED, True),
    "keeps the gradient": (keeps_the_gradient, {}, True),
    "keeps the parameter": (keeps_the_parameter, {}, True),
    "of matrices": (of_matrices, {}, False),
    "over the tensor": (over_the_tensor, {}, False),
    "across entries": (across_entries, {}, False),
    "by size": (by_size, {}, False),
}


def stepped(rule: Rule, constants: dict[str, Any], *, buffer: bool, curved: bool) -> tuple[list[Tensor], StackedRule]:
    places, params = Places(SHAPES), draw(0)
    whole = places.buffer(params)
    params = places.views(whole) if buffer else params
    stack = StackedRule(rule, tuple(constants.items()), params, whole if buffer else None)
    numbers = {"lr": torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)}
    for step in range(6):
        curvatures: list[Tensor | None] = list(draw(100 + step)) if curved and step % 2 == 0 else [None] * len(SHAPES)
        stack.apply(draw(1 + step), curvatures, numbers)
    return params, stack


@pytest.mark.parametrize("name", RULES)
def test_as_one_where_it_is_elementwise_and_always_as_for_each(name: str) -> None:
    rule, constants, elementwise = RULES[name]
    curved = name == "sadh"
    params, stack = stepped(rule, constants, buffer=True, curved=curved)
    expected, other = stepped(rule, constants, buffer=False, curved=curved)
    assert (stack._whole is not None) == elementwise
    for param, own in zip(params, expected, strict=True):
        torch.testing.assert_close(param, own, rtol=1e-14, atol=1e-15)
    for state, own_state in zip(stack.states, other.states, strict=True):
        assert state.keys() == own_state.keys()
        for key in state:
            torch.testing.assert_close(state[key], own_state[key], rtol=1e-13, atol=1e-15)


def test_it_goes_on_with_states_that_it_is_given() -> None:
    rule, constants, _ = RULES["adam"]
    _, stack = stepped(rule, constants, buffer=True, curved=False)
    stack.states = [{name: value.clone() for name, value in state.items()} for state in stack.states]
    assert stack._whole is None
    stack.apply(draw(9), [None] * len(SHAPES), {"lr": torch.full((MEMBERS,), 0.1, dtype=torch.float64)})
    assert stack._whole is not None
    assert stack.states[0]["step"].tolist() == [7.0] * MEMBERS


@pytest.mark.parametrize("buffer", [False, True])
def test_what_a_rule_keeps_of_a_parameter_is_of_before(buffer: bool) -> None:
    params, _ = stepped(keeps_the_parameter, {}, buffer=buffer, curved=False)
    for row, lr in enumerate((0.1, 0.2, 0.3)):
        for i, param in enumerate(own[row] for own in draw(0)):
            state: dict[str, Tensor] = {}
            for step in range(6):
                param, state = keeps_the_parameter(param, draw(1 + step)[i][row], None, state, {"lr": lr})
            torch.testing.assert_close(params[i][row], param, rtol=1e-13, atol=1e-15)


def test_a_parameter_without_gradient_stays() -> None:
    rule, constants, _ = RULES["adam"]
    params, stack = stepped(rule, constants, buffer=True, curved=False)
    before = params[1].clone()
    grads: list[Tensor | None] = [*draw(9)]
    grads[1] = None
    stack.apply(grads, [None] * len(SHAPES), {"lr": torch.full((MEMBERS,), 0.1, dtype=torch.float64)})
    assert torch.equal(params[1], before)


def test_a_rule_that_reduces_over_its_tensor_is_for_each() -> None:
    constants = {"betas": (0.9, 0.9), "diff": 0.5, "square": 2.0, "damping": 0.1, "eps": 0.1, "weight_decay": 0.0}
    _, stack = stepped(DiagHessian.update, constants, buffer=True, curved=True)
    assert stack._whole is None


def test_places_do_not_overlap_and_are_aligned() -> None:
    places, tensors = Places(SHAPES), draw(0)
    buffer = places.buffer(tensors)
    assert buffer.shape == (MEMBERS, places.width)
    for view, tensor in zip(places.views(buffer), tensors, strict=True):
        assert torch.equal(view, tensor)
        assert view.storage_offset() % ALIGNED == 0
        view.fill_(1.0)
    assert buffer.sum() == sum(tensor.numel() for tensor in tensors)

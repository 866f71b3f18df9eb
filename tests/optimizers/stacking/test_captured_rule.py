"""The captured rule of a single run: with a graph's stand-in that knows only operations, numbers and places."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from optimizers import SSDH, DiagHessian, HessianLRAdaptation, NAdamW, arithmetic
from optimizers.first_order import FirstOrderOptimizer
from optimizers.stacking.capture import Captures
from optimizers.stacking.captured_rule import CapturedRule
from optimizers.stacking.replay import ChangedError
from optimizers.stacking.step_of_tensors import loading, stepping
from tests.support.graphs import Tape

CPU = torch.device("cpu")
STEPS = 12
SHAPES = [(3, 2), (4,), ()]
Make = Callable[[list[Tensor]], Any]


def adapted(params: list[Tensor]) -> HessianLRAdaptation:
    return HessianLRAdaptation(torch.optim.Adam(params, 0.01))


RULES: dict[str, Make] = {
    "adam": lambda params: torch.optim.Adam(params, 0.01),
    "adamw": lambda params: torch.optim.AdamW(params, 0.01, weight_decay=0.1, amsgrad=True),
    "nesterov": lambda params: torch.optim.SGD(params, 0.01, momentum=0.9, nesterov=True),
    "nadamw": lambda params: NAdamW(params, 0.01),
    "adapted": adapted,
    "groups": lambda params: NAdamW([{"params": params[:1]}, {"params": params[1:], "lr": 0.1}], 0.01),
    "ssdh": lambda params: SSDH(params, 0.05, rho=0.1, eps=1e-2),
    "diag_hessian": lambda params: DiagHessian(params, 0.02, eps=0.1),
    "foreach": lambda params: DiagHessian(params, 0.02, eps=0.1, weight_decay=0.1, foreach=True),
}


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The host does not read counts, which a graph would hold as they are."""
    monkeypatch.setattr(arithmetic, "at_hand", lambda count: False)
    Tape.made.clear()
    yield
    Tape.made.clear()


def parameters() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in SHAPES]


def given(step: int) -> tuple[list[Tensor], list[Tensor | None]]:
    """Gradients, and every third time curvatures."""
    own = torch.Generator().manual_seed(step)
    grads, curvatures = ([torch.randn(s, dtype=torch.float64, generator=own) for s in SHAPES] for _ in range(2))
    return grads, [c if step % 3 == 0 else None for c in curvatures]


def stepped_as_it_is(optimizer: Any, grads: list[Tensor], curvatures: list[Tensor | None]) -> None:
    if hasattr(optimizer, "_apply"):
        with torch.no_grad():
            optimizer._apply(grads, curvatures)
        return
    for param, grad in zip([p for group in optimizer.param_groups for p in group["params"]], grads, strict=True):
        param.grad = grad
    optimizer.step()


def made(make: Make, *, scheduled: bool = False) -> tuple[list[Tensor], Any, CapturedRule, dict[str, str]]:
    why_not: dict[str, str] = {}
    params = parameters()
    optimizer = make(params)
    return params, optimizer, CapturedRule(Captures("it", CPU, why_not, Tape), optimizer, scheduled=scheduled), why_not


def apply(rule: CapturedRule, optimizer: Any, step: int) -> None:
    grads, curvatures = given(step)
    with torch.no_grad():
        grads = [grad.to(param) for grad, param in zip(grads, rule.params, strict=True)]
        rule.apply(grads, curvatures if hasattr(optimizer, "_apply") else [None] * len(grads))


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_a_replay_is_a_step_whatever_was_captured(name: str, scheduled: bool) -> None:
    params, optimizer, rule, why_not = made(RULES[name], scheduled=scheduled)
    expected = parameters()
    other = RULES[name](expected)
    for step in range(6 * STEPS):
        for group in (*optimizer.param_groups, *other.param_groups) if scheduled else ():
            group["lr"] = 0.02 / (1 + step)
        apply(rule, optimizer, step)
        stepped_as_it_is(other, *given(step))
    assert not why_not
    assert sum(tape.replays for tape in Tape.made) > 2 * STEPS
    assert len(Tape.made) == 1 + hasattr(optimizer, "_apply")
    for ours, theirs in zip(params, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for group in optimizer.param_groups:
        assert isinstance(group["lr"], float)


def test_a_hyperparameter_that_changes_is_heeded_where_no_schedule_was_announced() -> None:
    params, optimizer, rule, _ = made(RULES["nadamw"])
    expected = parameters()
    other = RULES["nadamw"](expected)
    for step in range(3 * STEPS):
        optimizer.param_groups[0]["betas"] = other.param_groups[0]["betas"] = (0.9, 0.99 if step < STEPS else 0.9)
        apply(rule, optimizer, step)
        stepped_as_it_is(other, *given(step))
    assert len(Tape.made) == 2
    torch.testing.assert_close(params, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", RULES)
def test_a_loaded_state_is_gone_on_from(name: str) -> None:
    params, optimizer, rule, why_not = made(RULES[name])
    expected = parameters()
    other = RULES[name](expected)
    for step in range(STEPS):
        stepped_as_it_is(other, *given(step))
        apply(rule, optimizer, STEPS - step)
    with torch.no_grad():
        for ours, theirs in zip(params, expected, strict=True):
            ours.copy_(theirs)
    with loading(optimizer):
        optimizer.load_state_dict(deepcopy(other.state_dict()))
    for step in range(STEPS, 3 * STEPS):
        apply(rule, optimizer, step)
        stepped_as_it_is(other, *given(step))
    assert not why_not
    torch.testing.assert_close(params, expected, rtol=1e-12, atol=0)


def test_what_a_captured_run_saved_is_for_kernels_of_any_kind() -> None:
    _, optimizer, rule, _ = made(adapted)
    for step in range(STEPS):
        apply(rule, optimizer, step)
    assert optimizer.param_groups[0]["fused"]
    other = adapted(parameters())
    with loading(other):
        other.load_state_dict(optimizer.state_dict())
    assert not other.param_groups[0]["fused"]
    assert not other.param_groups[0]["capturable"]


def test_states_stay_where_they_are_and_gradients_are_left_alone() -> None:
    params, optimizer, rule, _ = made(RULES["ssdh"])
    at = []
    for step in range(STEPS):
        apply(rule, optimizer, step)
        at.append([value.data_ptr() for p in params for value in optimizer.state[p].values()])
    assert all(each == at[-1] for each in at)
    assert all(p.grad is None for p in params)


class Late(FirstOrderOptimizer):
    """Has a state more from a step on, which ``at`` says."""

    at = 0

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @staticmethod
    def update(param: Any, grad: Any, curvature: Any, state: Any, hp: Any) -> Any:
        steps = state.get("steps", torch.zeros((), dtype=torch.float64)) + 1
        more = {"more": grad.clone()} if "more" in state or (Late.at and Late.at <= float(steps)) else {}
        return param - hp["lr"] * (grad + state.get("more", 0.0)), {"steps": steps, **more}


def test_states_that_come_late_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Late, "at", 3)
    params, optimizer, rule, why_not = made(Late)
    expected = parameters()
    other = Late(expected)
    for step in range(2 * STEPS):
        apply(rule, optimizer, step)
        stepped_as_it_is(other, *given(step))
    assert not why_not
    assert sum(tape.replays for tape in Tape.made) > STEPS
    torch.testing.assert_close(params, expected, rtol=1e-12, atol=0)


def test_states_that_become_others_after_a_capture_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _, optimizer, rule, why_not = made(Late)
    for step in range(STEPS):
        apply(rule, optimizer, step)
    monkeypatch.setattr(Late, "at", 1)
    rule._captures.recheck_next_replays()
    with (
        pytest.warns(UserWarning, match="the rule of Late of it: no CUDA graph, since its states are of other kinds"),
        pytest.raises(ChangedError),
    ):
        apply(rule, optimizer, STEPS)
    assert list(why_not) == ["the rule of Late"]


class OnHost(FirstOrderOptimizer):
    """Counts in a Python number."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @staticmethod
    def update(param: Any, grad: Any, curvature: Any, state: Any, hp: Any) -> Any:
        return param - hp["lr"] * grad, {"steps": state.get("steps", 0) + 1}


def narrow(params: list[Tensor]) -> NAdamW:
    for param in params:
        param.data = param.data.bfloat16()
    return NAdamW(params, 0.1)


@pytest.mark.parametrize(
    ("make", "scheduled", "why"),
    [
        (OnHost, False, "its states are not all tensors"),
        (lambda params: torch.optim.Adam(params, 0.01, foreach=True), False, "Adam is told how to step"),
        (lambda params: torch.optim.Adam(params, 0.01, fused=False), False, "Adam is told how to step"),
        (lambda params: SSDH(params, torch.tensor(0.01)), False, "a hyperparameter of SSDH is a tensor"),
        (narrow, True, "in this precision"),
    ],
)
def test_what_is_in_the_way_is_said_and_the_step_is_taken(make: Make, scheduled: bool, why: str) -> None:
    def begin() -> tuple[list[Tensor], Any, CapturedRule, dict[str, str]]:
        begun = made(make, scheduled=scheduled)
        apply(begun[2], begun[1], 0)
        return begun

    with pytest.warns(UserWarning, match=why):
        params, _, rule, _ = begin()
    assert not rule.allowed
    assert not any(torch.equal(p, before) for p, before in zip(params, parameters(), strict=True))


def test_optimizers_of_others_step_as_they_are() -> None:
    params = parameters()
    assert not stepping(torch.optim.NAdam(params))
    assert not stepping(HessianLRAdaptation(torch.optim.NAdam(params)))
    assert len(stepping(adapted(params))) == 2
    hooked = NAdamW(params)
    hooked.register_step_post_hook(lambda *_: None)
    assert not stepping(hooked)

"""Runs and stacks whose steps are captured come to the weights of those whose are not: with a graph's stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers import SSDH, DiagHessian, arithmetic
from optimizers.first_order import FirstOrderOptimizer
from optimizers.stacking.capture import COMPARED, WARM, Captures
from optimizers.stacking.step_of_tensors import FUSED
from tasks.base import Batch
from tests.support.graphs import StandIn, Tape
from tests.support.members import Small, alone, assert_equal, assert_same_bits, normalised, of, together
from tuner.training import single, stacked_model
from tuner.training.checkpoint import pack, unpack
from tuner.training.engine import Engine
from tuner.training.loop import drained
from tuner.training.records import Budget, Saving, Snapshot
from tuner.training.single import Trainer
from tuner.training.stack import Member, Stack, training


class ByTensors(FirstOrderOptimizer):
    """Steps by a direction of length 1 in each tensor."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @staticmethod
    def update(param: Any, grad: Any, curvature: Any, state: Any, hp: Any) -> Any:
        return param - hp["lr"] * grad / (1 + grad.norm()), {}


class OfBefore(FirstOrderOptimizer):
    """Steps by the gradients of the two steps before, which are its state as they are."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @staticmethod
    def update(param: Any, grad: Any, curvature: Any, state: Any, hp: Any) -> Any:
        before = state.get("before", grad)
        return param - hp["lr"] * (before + state.get("older", before)), {"older": before, "before": grad}


BUDGET = Budget(epochs=10, evaluations=4, test=True)
CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {"lr": 0.01}, {}),
    "momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, {}),
    "hutchinson": (SSDH, {"lr": 0.05, "rho": 0.1, "eps": 1e-2}, {"update_period": 2}),
    "gnb": (DiagHessian, {"lr": 0.02, "eps": 0.1}, {"estimator": "gnb", "update_period": 2}),
    "ggn_mc": (DiagHessian, {"lr": 0.02, "eps": 0.1}, {"estimator": "ggn_mc", "update_period": 2}),
    "by tensors": (ByTensors, {"lr": 0.02}, {}),
    "of before": (OfBefore, {"lr": 0.02}, {}),
    "secant": (DiagHessian, {"lr": 0.02, "eps": 0.1}, {"estimator": "secant", "update_period": 2}),
}
ENGINES = {
    "plain": Engine(),
    "all": Engine(schedule="cosine", warmup_epochs=1, clip_grad_norm=0.3, ema=0.9),
    "bf16": Engine(precision="bf16"),
}


@pytest.fixture
def why_not(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Runs are captured from now on, as on a GPU, where the host reads no counts; why something is not."""
    found: dict[str, str] = {}
    monkeypatch.setattr(arithmetic, "at_hand", lambda count: False)

    def captures(task: Any, engine: Engine) -> Captures | None:
        return Captures("it", torch.device("cpu"), found, Tape) if engine.capture == "auto" else None

    for module in (single, stacked_model):
        monkeypatch.setattr(module, "captures_of", captures)
    StandIn.made.clear()
    yield found
    StandIn.made.clear()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_a_run_comes_to_the_same(case: str, engine: str, why_not: dict[str, str]) -> None:
    cls, hp, fixed = CASES[case]
    task, make, member = Small(normalised), of(cls, **fixed), Member(hp, 3)
    off = ENGINES[engine].model_copy(update={"capture": "off"})
    captured = alone(task, make, member, BUDGET, ENGINES[engine])
    assert StandIn.made
    assert not why_not
    assert sum(graph.replays for graph in StandIn.made) > COMPARED * len(StandIn.made)
    # PyTorch's fused kernels, and a learning rate that is a tensor, round in another way.
    check = assert_equal if cls in FUSED or ENGINES[engine].scheduled else assert_same_bits
    check(captured, alone(task, make, member, BUDGET, off))


def stack_of(case: str, **more: Any) -> tuple[Any, list[Member]]:
    cls, hp, fixed = CASES[case]
    return of(cls, **fixed), [Member({**hp, **more, "lr": hp["lr"] / (1 + i)}, i % 2) for i in range(3)]


@pytest.mark.parametrize("engine", ["plain", "all"])
@pytest.mark.parametrize("case", ["adam", "hutchinson", "secant", "by tensors", "of before"])
def test_a_stack_comes_to_the_same_bits(case: str, engine: str, why_not: dict[str, str]) -> None:
    task, (make, members) = Small(), stack_of(case)
    captured = together(task, make, members, BUDGET, ENGINES[engine])
    off = ENGINES[engine].model_copy(update={"capture": "off"})
    assert StandIn.made
    assert not why_not
    assert max(graph.replays for graph in StandIn.made) > COMPARED
    for one, other in zip(captured, together(task, make, members, BUDGET, off), strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("members", [1, 3])
def test_what_goes_on_from_a_snapshot_is_captured_anew(members: int, why_not: dict[str, str]) -> None:
    task, (make, all_members) = Small(), stack_of("hutchinson")
    chosen, engine = all_members[:members], ENGINES["all"]
    whole = drained(training(task, make, chosen, BUDGET, engine), lambda _: None)
    run_on = training(task, make, chosen, BUDGET, engine, Saving(None, 0.0))
    packed = pack(next(y.state for y in run_on if isinstance(y, Snapshot) and y.state["steps"] >= 20))
    assert packed is not None
    run = (Trainer if members == 1 else Stack)(task, make, *_made_of(chosen), engine, BUDGET.epochs)
    batches = run.batches(BUDGET.epochs)
    run.take_steps(batches, 20)  # with graphs of its own
    state = unpack(packed)
    batches = run.restore(state, BUDGET.epochs)
    while run.steps < (steps := BUDGET.epochs * task.steps_per_epoch):
        run.take_steps(batches, steps)
    assert not why_not
    for member, evaluation in run.evaluate(("train",)).items():
        assert evaluation.metrics["train_loss"] == whole[member].metrics["train_loss"]


def _made_of(members: list[Member]) -> list[Any]:
    return [members[0].hp, members[0].seed] if len(members) == 1 else [members]


class Keeping(torch.optim.Optimizer):
    """Steps against the gradient of the step before, which it keeps as it is, and spoils the present one."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})
        self.before: list[Tensor] = []

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        params = self.param_groups[0]["params"]
        for param, grad in zip(params, self.before, strict=False):
            param.sub_(grad, alpha=self.param_groups[0]["lr"])
        self.before = [param.grad for param in params]
        for grad in self.before:
            grad.mul_(2)


def test_an_optimizer_may_keep_its_gradients_and_change_them(why_not: dict[str, str]) -> None:
    task, member = Small(normalised), Member({"lr": 0.01}, 0)
    captured = alone(task, of(Keeping), member, BUDGET, Engine())
    assert StandIn.made
    assert_same_bits(captured, alone(task, of(Keeping), member, BUDGET, Engine(capture="off")))


class Counting(Small):
    """Its loss doubles after a number of calls, which no tensor says."""

    calls = 0

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        loss, outputs = super().loss(model, batch)
        if not torch.is_grad_enabled():
            return loss, outputs
        self.calls += 1
        return loss * (1 + (self.calls > WARM + 2)), outputs  # from after the first replay on


def test_a_loss_that_depends_on_a_counter_is_not_captured(why_not: dict[str, str]) -> None:
    with pytest.warns(UserWarning, match="comes to something else"):
        alone(Counting(), of(torch.optim.SGD), Member({"lr": 0.01}, 0), BUDGET, Engine())
    assert list(why_not) == ["the gradient"]


class Hooked(torch.optim.SGD):
    """Looks at gradients as they are accumulated."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        self.seen = 0
        for param in params:
            param.register_post_accumulate_grad_hook(self._see)

    def _see(self, param: Tensor) -> None:
        self.seen += 1


class OwnStep(DiagHessian):
    def step(self, closure: Any, **more: Any) -> Tensor:
        return super().step(closure, **more)


@pytest.mark.parametrize(("cls", "why"), [(Hooked, "a parameter has hooks"), (OwnStep, "steps in a way of its own")])
def test_an_optimizer_that_needs_more_than_gradients_has_no_graph(cls: Any, why: str, why_not: dict[str, str]) -> None:
    with pytest.warns(UserWarning, match=f"the step of {cls.__name__} of it: no CUDA graph, since .*{why}"):
        alone(Small(), of(cls), Member({"lr": 0.01}, 0), BUDGET, Engine())
    assert not StandIn.made


def test_on_a_cpu_nothing_is_captured() -> None:
    run = Trainer(Small(), of(torch.optim.SGD), {"lr": 0.1}, 0, Engine(), 1)
    assert run._captured is None

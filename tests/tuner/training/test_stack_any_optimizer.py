"""Any optimizer trains in a stack as it does alone, or alone, and then it is known why."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from optimizers import HessianLRAdaptation, SubsampledNewton
from optimizers.stacking import per_member
from tests.support.members import (
    CHANGING,
    CONSTANT,
    HUNDRED_STEPS,
    TWELVE_STEPS,
    Embedded,
    Small,
    alone,
    assert_equal,
    assert_same_bits,
    normalised,
    partly_frozen,
    together,
)
from tests.support.thinned import thinned
from tuner.config.layers import resolve
from tuner.config.registry import available
from tuner.training import checkpoint, stack
from tuner.training.build import optimizer_maker
from tuner.training.engine import Engine
from tuner.training.records import Saving, Snapshot
from tuner.training.stack import ALONE, Member

RTOL = 1e-12
MAY_BE_ALONE = {"soap"}
"""In a basis of eigenvectors of a matrix that is not of full rank, which rounding errors decide."""


class Mine(torch.optim.Optimizer):
    """A class of a user's own: with a number in an attribute, a count in its groups and a new tensor at each step."""

    def __init__(self, params: Any, lr: float, decay: float = 0.9) -> None:
        self.decay = decay
        super().__init__(params, {"lr": lr, "count": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["count"] += 1
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                mean = state.setdefault("mean", torch.zeros(param.shape, dtype=param.dtype))
                mean.mul_(self.decay).add_(param.grad, alpha=1 - self.decay)
                state["largest"] = torch.maximum(state.get("largest", mean.abs()), mean.abs())
                bias = 1 - self.decay ** group["count"]
                param.data = param.data - group["lr"] * mean / bias / (state["largest"].sqrt() + 1e-3)


class Root(Mine):
    """Takes a root that knows one number only."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.data.sub_(param.grad, alpha=math.sqrt(group["lr"]))


class Noisy(Mine):
    """Adds noise from PyTorch's global stream."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for param in self.param_groups[0]["params"]:
            if param.grad is not None:
                param.data.sub_(param.grad + 0.1 * torch.randn(param.shape, dtype=param.dtype), alpha=0.1)


class Deciding(Mine):
    """Halves its rate where the gradient is large: some members do, others do not."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for param in self.param_groups[0]["params"]:
            if param.grad is not None:
                large = param.grad.norm() > 0.2
                param.data.sub_(param.grad, alpha=self.param_groups[0]["lr"] * (0.5 if large else 1.0))


class Late(Mine):
    """Decides at its twentieth step, by a number that differs."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        if self.param_groups[0]["count"] == 20 and self.param_groups[0]["lr"] > 0.03:
            self.param_groups[0]["params"][0].data.mul_(0.5)


class Clipping(Mine):
    """Treats each entry alone until its thirtieth step, from which on it looks at norms of tensors."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        for param in self.param_groups[0]["params"] if self.param_groups[0]["count"] >= 30 else []:
            param.data.div_(param.norm().clamp(min=1.0))


class Evaluating(Mine):
    """Looks at norms of tensors where it is told of an evaluation."""

    def eval(self) -> None:
        self.kept = [param.detach().clone() for param in self.param_groups[0]["params"]]
        for param in self.param_groups[0]["params"]:
            param.data.div_(param.norm() + 1.0)

    def train(self) -> None:
        for param, kept in zip(self.param_groups[0]["params"], getattr(self, "kept", []), strict=False):
            param.data.copy_(kept)


class Keeping(Mine):
    """From its thirtieth step on it has the last updates in an attribute, and takes each of them again."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        params = self.param_groups[0]["params"]
        before = [param.detach().clone() for param in params]
        super().step()
        for param, update in zip(params, getattr(self, "updates", []), strict=False):
            param.data.add_(update, alpha=0.1)
        if self.param_groups[0]["count"] >= 30:
            self.updates = [param.detach() - old for param, old in zip(params, before, strict=True)]


class Normalising(Mine):
    """Divides by the norm of each tensor."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        for param in self.param_groups[0]["params"]:
            param.data.div_(param.norm())


class Swapping(Mine):
    """Puts other tensors in the place of its parameters'."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for param in self.param_groups[0]["params"]:
            if param.grad is not None:
                torch.utils.swap_tensors(param, nn.Parameter(param.detach() - 0.1 * param.grad))


class Remembering(Mine):
    """Keeps the last gradient itself, no copy of it."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for param in self.param_groups[0]["params"]:
            if param.grad is not None:
                before = self.state[param].get("before", param.grad)
                param.data.sub_(param.grad + 0.5 * before, alpha=self.param_groups[0]["lr"])
                self.state[param]["before"] = param.grad


def in_two_groups(params: Any, lr: float) -> torch.optim.Optimizer:
    matrices, others = [p for p in params if p.ndim > 1], [p for p in params if p.ndim < 2]
    return torch.optim.NAdam([{"params": matrices}, {"params": others, "lr": 0.3 * lr}], lr)


OTHERS: dict[str, Any] = {
    "RAdam": torch.optim.RAdam,
    "Adagrad": torch.optim.Adagrad,
    "Adamax": torch.optim.Adamax,
    "Adadelta": torch.optim.Adadelta,
    "ASGD": torch.optim.ASGD,
    "Rprop": torch.optim.Rprop,
    "Adafactor": torch.optim.Adafactor,
    "centered RMSprop": partial(torch.optim.RMSprop, centered=True, momentum=0.9),
    "maximising": partial(torch.optim.SGD, maximize=True),
    "two groups": in_two_groups,
    "an optimizer in an optimizer": lambda params, lr: HessianLRAdaptation(torch.optim.Adam(params, lr)),
    "many Newton steps": lambda params, lr: SubsampledNewton(params, lr, damping=1.0, sampling_rate=0.3),
    "Mine": Mine,
    "Root": Root,
    "Noisy": Noisy,
    "Deciding": Deciding,
    "Late": Late,
    "Clipping": Clipping,
    "Normalising": Normalising,
    "Evaluating": Evaluating,
    "Keeping": Keeping,
    "Remembering": Remembering,
}


def shipped(name: str) -> tuple[Any, list[dict[str, Any]]]:
    spec = resolve({"task.name": "mnist1d", "search.optimizers": [name]}).optimizers[name]
    if spec.class_.startswith("pytorch_optimizer."):
        pytest.importorskip("pytorch_optimizer")
    point = spec.first_point()
    floats = [key for key, value in point.items() if isinstance(value, float)]
    return optimizer_maker(name, spec), [point | {k: point[k] * (1 - 0.2 * i) for k in floats} for i in range(3)]


def assert_as_alone_or_alone(task: Any, make: Any, members: list[Member], engine: Engine = CONSTANT) -> list[int]:
    runs = together(task, make, members, HUNDRED_STEPS, engine)
    for member, run in zip(members, runs, strict=True):
        assert_equal(run, alone(task, make, member, HUNDRED_STEPS, engine), RTOL)
    return [result.cohort for result, _ in runs]


@pytest.mark.parametrize("name", available("optimizers"))
def test_every_shipped_optimizer(name: str) -> None:
    make, hps = shipped(name)
    task = Small()
    cohorts = assert_as_alone_or_alone(task, make, [Member(hp, seed) for seed, hp in enumerate(hps)])
    if name in MAY_BE_ALONE:
        assert [*ALONE.get(task, {}).values()] == [
            "rounding errors, which are others in a stack than alone, decide its steps"
        ]
    else:
        assert cohorts == [3] * 3


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_one(name: str) -> None:
    members = [Member({"lr": 0.003 * (1 + i)}, seed=i % 2) for i in range(3)]
    assert assert_as_alone_or_alone(Small(), lambda params, hp: OTHERS[name](params, **hp), members) == [3] * 3


@pytest.mark.parametrize("network", [normalised, partly_frozen, Embedded])
@pytest.mark.parametrize("name", thinned(["lion", "schedule_free", "hessian_lr_adaptation", "subsampled_newton"], 2))
def test_other_networks_schedules_and_clipping(name: str, network: Any) -> None:
    make, hps = shipped(name)
    members = [Member(hp, 1) for hp in hps]
    assert assert_as_alone_or_alone(Small(network), make, members, CHANGING) == [3] * 3


def test_a_schedule_of_each_members_own() -> None:
    schedules = ("constant", "cosine", "linear")
    members = [Member({"lr": 0.02, "train.schedule": schedule}, 1) for schedule in schedules]
    make = lambda params, hp: torch.optim.NAdam(params, lr=hp["lr"])  # noqa: E731
    assert assert_as_alone_or_alone(Small(), make, members) == [3] * 3


def made(cls: Any) -> Any:
    return lambda params, hp: cls(params, **hp)


@pytest.mark.parametrize("cls", [Root, Noisy, Deciding, Late])
def test_it_is_known_why_one_is_not_stepped_as_one(cls: Any) -> None:
    together(Small(), made(cls), [Member({"lr": 0.02 * (1 + i)}, i) for i in range(3)], HUNDRED_STEPS)
    reasons = {
        Root: "what it does for all members in one differs from what it does for each",
        Noisy: "it draws random numbers",
        Deciding: "members' values differ where one is asked for",
        Late: "a condition holds for some members only",
    }
    (why,) = {why for key, why in per_member.APART.items() if key.optimizer is cls}  # type: ignore[attr-defined]
    assert why == reasons[cls]


def test_a_mine_is_stepped_as_one() -> None:
    stacked = stack.Stack(Small(), made(Mine), [Member({"lr": 0.01 * i}, i) for i in (1, 2)], CONSTANT, 5)
    for batch, _ in zip(stacked.batches(5), range(13), strict=False):
        stacked.step(batch)
    assert not stacked.optimizer.apart  # type: ignore[union-attr]
    assert stacked.optimizer._joined is not None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("make", "beside"),
    [
        (made(Mine), True),
        (made(Remembering), True),
        (made(torch.optim.RMSprop), True),
        (made(torch.optim.Adadelta), True),
        (lambda params, hp: in_two_groups(params, **hp), False),
        (made(torch.optim.NAdam), True),
        (made(Normalising), False),
    ],
)
def test_tensors_of_which_each_entry_is_treated_alone_are_one(make: Any, beside: bool) -> None:
    stacked = stack.Stack(Small(), make, [Member({"lr": 0.01 * i}, i) for i in (1, 2)], CONSTANT, 5)
    for batch, _ in zip(stacked.batches(5), range(13), strict=False):
        stacked.step(batch)
    joined = stacked.optimizer._joined  # type: ignore[union-attr]
    assert joined is not None and (joined.side_by_side is not None) is beside


@pytest.mark.parametrize("cls", [Clipping, Evaluating, Keeping])
def test_it_is_known_which_look_at_whole_tensors_later(cls: Any) -> None:
    members = [Member({"lr": 0.02 * (1 + i)}, i) for i in range(3)]
    runs = together(Small(), made(cls), members, HUNDRED_STEPS)
    assert [result.cohort for result, _ in runs] == [3] * 3
    (step,) = {step for key, step in per_member.SIDE_BY_SIDE.items() if key.optimizer is cls}  # type: ignore[attr-defined]
    assert step is None
    assert not [key for key in per_member.APART if key.optimizer is cls]  # type: ignore[attr-defined]


def test_parameters_that_are_other_objects_afterwards_train_alone() -> None:
    members = [Member({"lr": 0.1}, 1), Member({"lr": 0.2}, 2)]
    for member, run in zip(members, together(Small(), made(Swapping), members, TWELVE_STEPS), strict=True):
        assert_equal(run, alone(Small(), made(Swapping), member, TWELVE_STEPS), RTOL)


@pytest.mark.parametrize("name", ["Mine", "Noisy", "schedule_free", "subsampled_newton", "muon"])
def test_a_stack_goes_on_from_its_checkpoint(name: str) -> None:
    make, hps = (made(OTHERS[name]), [{"lr": 0.02}, {"lr": 0.04}]) if name in OTHERS else shipped(name)
    members = [Member(hp, seed) for seed, hp in enumerate(hps)]
    whole = together(Small(), make, members, TWELVE_STEPS)
    run = stack.training(Small(), make, members, TWELVE_STEPS, saving=Saving(None, 0.0))
    snapshots = []
    while len(snapshots) < 2:
        if isinstance(yielded := next(run), Snapshot):
            packed = checkpoint.pack(yielded.state)
            assert packed is not None
            snapshots.append(packed)
    run = stack.training(Small(), make, members, TWELVE_STEPS, saving=Saving(checkpoint.unpack(snapshots[-1]), None))
    while True:
        try:
            next(run)
        except StopIteration as stop:
            results = stop.value
            break
    for (expected, _), result in zip(whole, results, strict=True):
        assert_same_bits((result, []), (expected, []))

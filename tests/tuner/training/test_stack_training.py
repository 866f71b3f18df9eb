"""Members of a stack that differ in what belongs to training: each equals the same run alone, to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optimizers import SSDH, DiagHessian
from optimizers.stacking import replay
from tests.support.members import Small, alone, assert_equal, assert_same_bits, normalised, of, together
from tuner.training.checkpoint import pack, unpack
from tuner.training.engine import Engine
from tuner.training.records import Budget, Saving, Snapshot
from tuner.training.stack import Member, Stack, stacks, training

RTOL = 1e-12
BUDGET = Budget(epochs=3, evaluations=3, test=True)
ENGINE = Engine(schedule="cosine", final_lr=0.1, clip_grad_norm=0.5)
TRAININGS: list[dict[str, Any]] = [
    {"train.schedule": "constant"},
    {"train.schedule": "cosine", "train.warmup_epochs": 1, "train.final_lr": 0.0},
    {"train.schedule": "linear", "train.clip_grad_norm": 0.05},
    {"train.schedule": "wsd", "train.warmup_epochs": "25%", "train.clip_grad_norm": 1e6},
    {},
]
RULES = {
    "momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, {}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "eps": 1e-3}, {}),
    "diag_hutchinson": (DiagHessian, {"lr": 0.02, "eps": 0.1, "damping": 0.1}, {"update_period": 2}),
    "diag_each": (DiagHessian, {"lr": 0.02, "eps": 0.1, "damping": 0.1}, {"estimator": "exact", "update_period": 3}),
    "ssdh": (SSDH, {"lr": 0.05, "rho": 0.1, "eps": 1e-2}, {"update_period": 3}),
}


def made(rule: str) -> tuple[Any, list[Member]]:
    cls, hp, fixed = RULES[rule]
    make = of(cls, **fixed)

    def own(params: Any, hp: dict[str, Any]) -> torch.optim.Optimizer:
        return make(params, {name: value for name, value in hp.items() if not name.startswith("train.")})

    return own, [Member({**hp, "lr": hp["lr"] / (1 + seed % 2), **more}, seed) for seed, more in enumerate(TRAININGS)]


@pytest.mark.parametrize("replays", [True, False], ids=["replayed", "not replayed"])
@pytest.mark.parametrize("rule", RULES)
def test_members_of_other_schedules_and_bounds_equal_runs_alone(
    rule: str, replays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not replays:
        monkeypatch.setattr(replay.Traced, "__call__", lambda traced, *inputs: traced.run(inputs))
    task, (make, members) = Small(), made(rule)
    assert stacks(task, make, members, ENGINE) == [[0, 1, 2, 3, 4]]
    runs = together(task, make, members, BUDGET, ENGINE)
    for member, run in zip(members, runs, strict=True):
        assert run[0].cohort == 5
        assert_equal(run, alone(task, make, member, BUDGET, ENGINE), RTOL)
    assert len({result.metrics["train_loss"] for result, _ in runs}) == 5


def test_a_member_without_a_bound_is_as_without_the_others() -> None:
    task, (make, _) = Small(normalised), made("momentum")
    bounded = Member({"lr": 0.1, "train.clip_grad_norm": 0.01}, 0)
    free = Member({"lr": 0.1}, 1)
    run = together(task, make, [bounded, free], BUDGET)[1]
    assert_equal(run, alone(task, make, free, BUDGET), RTOL)


def test_what_all_members_share_is_done_as_without_hyperparameters_of_training() -> None:
    task, (make, _) = Small(), made("adamw")
    engine = Engine(schedule="wsd", final_lr=0.2, warmup_epochs=1, clip_grad_norm=0.3)
    said = {
        f"train.{name}": getattr(engine, name) for name in ("schedule", "final_lr", "warmup_epochs", "clip_grad_norm")
    }
    plain = [Member({"lr": lr}, 0) for lr in (0.01, 0.02)]
    tuned = [Member({**member.hp, **said}, 0) for member in plain]
    runs = zip(together(task, make, tuned, BUDGET), together(task, make, plain, BUDGET, engine), strict=True)
    for run, other in runs:
        assert_same_bits(run, other)


def test_those_left_keep_their_own_schedules_and_bounds() -> None:
    task, (make, members) = Small(), made("momentum")
    stack = Stack(task, make, members, ENGINE, epochs=3)
    batches = stack.batches(3)
    stack.take_steps(batches, 4)
    stack.retire({0: "for a test", 2: "for a test"})
    assert stack.stacked == [1, 3, 4]
    stack.take_steps(batches, 12)
    metrics = {member: evaluation.metrics for member, evaluation in stack.evaluate(("train",)).items()}
    for member in (1, 3, 4):
        expected = alone(task, make, members[member], BUDGET, ENGINE)[0].metrics["train_loss"]
        assert metrics[member]["train_loss"] == pytest.approx(expected, rel=RTOL)


def test_a_stack_goes_on_from_a_snapshot_with_them() -> None:
    task, (make, members) = Small(), made("diag_hutchinson")
    whole = together(task, make, members, BUDGET, ENGINE)
    run = training(task, make, members, BUDGET, ENGINE, Saving(None, 0.0))
    saved = next(yielded for yielded in run if isinstance(yielded, Snapshot) and 0 < yielded.state["steps"] < 12)
    packed = pack(saved.state)
    assert packed is not None
    again = training(task, make, members, BUDGET, ENGINE, Saving(unpack(packed), None))
    while True:
        try:
            next(again)
        except StopIteration as stop:
            results = stop.value
            break
    assert [result.metrics for result in results] == [result.metrics for result, _ in whole]

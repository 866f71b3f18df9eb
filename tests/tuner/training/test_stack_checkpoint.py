"""A stack that was cut off goes on from a snapshot to the numbers of one that was not, bit by bit."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import tuner.training.loop
from optimizers import SSVP, Sophia
from tests.support.members import CLIPPED_HPS, RULES, Small, diag, normalised, of
from tests.support.thinned import thinned
from tuner.training import checkpoint, stack
from tuner.training.engine import Engine
from tuner.training.records import Budget, Evaluation, NotRestoredError, Result, Saving, Snapshot
from tuner.training.stack import Member

BUDGET = Budget(epochs=4, evaluations=5, test=True)  # looks after steps 4, 7, 10, 13 and 16; an epoch has 4
SNAPSHOTS = [2, 4, 6, 7, 9, 10, 12, 13, 15, 16]
ENGINES = {
    "constant": Engine(),
    "changing": Engine(schedule="cosine", warmup_epochs=0.5, clip_grad_norm=0.5, ema=0.9),
}
SEEDS = {"same seed": (7, 7, 7), "own seeds": (0, 1, 2), "two seeds": (3, 4, 3)}
Start = Callable[[Saving], Generator[Any, None, list[Result]]]
Curves = dict[int, list[Evaluation]]

STACKED = {name: RULES[name] for name in (
    "sgd", "momentum", "nesterov", "adam", "amsgrad", "adamw", "diag_hutchinson", "diag_hutchinson_5", "diag_gaussian",
    "diag_none", "diag_secant", "diag_secant_3", "diag_gnb", "diag_ggn_mc", "diag_ggn_exact", "sadh", "ssdh", "ssvp",
    "sophia", "sophia_gnb", "adahessian",
)} | {
    "diag_hvp_3": diag("hvp", 3),
    "ssvp_hvp": (of(SSVP, estimator="hvp", update_period=1), CLIPPED_HPS),
    "sophia_gnb_5": (of(Sophia, estimator="gnb", update_period=5), CLIPPED_HPS),
}  # fmt: skip


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot can be had after every second step."""
    monkeypatch.setattr(tuner.training.loop, "LOSSES_PER_CHECK", 2)


def noisy() -> nn.Module:
    """Has all that a network can keep: weights, running averages, draws from the global generator."""
    return nn.Sequential(nn.Linear(6, 9, bias=False), nn.BatchNorm1d(9), nn.Tanh(), nn.Dropout(0.3), nn.Linear(9, 3))


def started(make: Any, members: list[Member], engine: Engine = ENGINES["constant"], network: Any = normalised) -> Start:
    """The stack, as each of several processes would begin it."""

    def start(saving: Saving) -> Generator[Any, None, list[Result]]:
        task = Small(network, torch.float32)
        assert stack.stacks(task, make, members, engine) == [list(range(len(members)))]
        return stack.training(task, make, members, BUDGET, engine, saving)

    return start


def told_by(run: Generator[Any, None, list[Result]], curves: Curves) -> Snapshot | list[Result]:
    """The next snapshot, or the results; evaluations go to the curves."""
    while True:
        try:
            told = next(run)
        except StopIteration as stop:
            results: list[Result] = stop.value
            return results
        if isinstance(told, Snapshot):
            return told
        for member, evaluation in told.items():
            curves.setdefault(member, []).append(evaluation)


def through(start: Start, *, cut: bool) -> tuple[list[Result], Curves, list[dict[str, Any]]]:
    """Results and curves, undisturbed or cut off at every snapshot; the snapshots as they were unpacked."""
    curves: Curves = {}
    states: list[dict[str, Any]] = []
    run = start(Saving(None, 0.0 if cut else None))
    while isinstance(told := told_by(run, curves), Snapshot):
        data = checkpoint.pack(told.state)
        assert data is not None
        run.close()
        states.append(checkpoint.unpack(data))
        torch.manual_seed(1000 + len(states))
        run = start(Saving(states[-1], 0.0))
    return told, curves, states


def numbers(results: list[Result]) -> list[dict[str, Any]]:
    """All but those of the machine."""
    return [asdict(r) | {"clocks": (r.clocks.steps, r.clocks.grad_equivalents)} for r in results]


def looks(curves: Curves) -> dict[int, list[dict[str, Any]]]:
    return {member: [asdict(replace(look, seconds=0.0)) for look in curve] for member, curve in curves.items()}


def assert_goes_on(start: Start) -> tuple[list[Result], list[dict[str, Any]]]:
    expected, expected_curves, _ = through(start, cut=False)
    results, curves, states = through(start, cut=True)
    assert numbers(results) == numbers(expected)
    assert looks(curves) == looks(expected_curves)
    return results, states


def cases() -> list[tuple[str, str, str]]:
    """Every rule with two of the three kinds of seeds; engines take turns."""
    seeds, engines = list(SEEDS), list(ENGINES)
    return [(rule, seeds[(i + j) % 3], engines[(i // 3 + j) % 2]) for i, rule in enumerate(STACKED) for j in (0, 1)]


@pytest.mark.parametrize(("rule", "seeds", "engine"), thinned(cases(), 2))
def test_every_rule_goes_on_to_the_same_numbers(rule: str, seeds: str, engine: str) -> None:
    make, hps = STACKED[rule]
    members = [Member(hp, seed) for hp, seed in zip(hps, SEEDS[seeds], strict=True)]
    results, states = assert_goes_on(started(make, members, ENGINES[engine]))
    assert [state["steps"] for state in states] == SNAPSHOTS
    assert [(r.status, r.clocks.steps, r.cohort) for r in results] == [("complete", 16, 3)] * 3
    assert len({r.metrics["test_loss"] for r in results}) == 3


@pytest.mark.parametrize("rule", ["adam", "diag_hutchinson_5", "diag_gnb", "ssvp", "diag_secant"])
@pytest.mark.parametrize("seeds", SEEDS)
def test_dropout_goes_on_to_the_same_draws(rule: str, seeds: str) -> None:
    make, hps = STACKED[rule]
    members = [Member(hp, seed) for hp, seed in zip(hps, SEEDS[seeds], strict=True)]
    assert_goes_on(started(make, members, network=noisy))


# Members that diverge.

QUIET, EARLY, MIDDLE, LATE = 0.0, 0.8, 5.5, 14.5  # steps in which the weights grow to 1e30 times themselves, or never


class Growing(Small):
    """The loss is as large as the weights are, and may be up to 1e30."""

    def __init__(self) -> None:
        super().__init__(lambda: nn.Linear(6, 3), torch.float32)
        self.worst = {"loss": 1e30, "errors": 1.0}

    def criterion(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.abs().mean()


def falling(steps: list[float], seeds: int = 2) -> Start:
    """Far too large a weight decay multiplies the weights at each step."""
    hps = [{"lr": 1.0, "weight_decay": 10.0 ** (30 / k) + 1} if k else {"lr": 0.01, "weight_decay": 0.1} for k in steps]
    members = [Member(hp, n % seeds) for n, hp in enumerate(hps)]
    return lambda saving: stack.training(Growing(), of(torch.optim.SGD), members, BUDGET, ENGINES["constant"], saving)


def held(states: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """How many members are active, and how many in the stack, at each snapshot."""
    return [(len(state["active"]), len(state["own"]["stacked"])) for state in states]


@pytest.mark.parametrize(
    ("steps", "sizes"),
    [
        # Of a small stack any one is worth dropping: before the first snapshot, between two, at the last step.
        ([EARLY, QUIET, QUIET], [(2, 2)] * 10),
        ([QUIET, MIDDLE, QUIET], [(3, 3)] * 3 + [(2, 2)] * 7),
        ([QUIET, QUIET, LATE], [(3, 3)] * 9 + [(2, 2)]),
        ([EARLY, MIDDLE, QUIET, LATE], [(3, 3)] * 3 + [(2, 2)] * 6 + [(1, 1)]),
        # Of twenty the first two stay, unseen, until there are two.
        ([QUIET] * 5 + [EARLY] + [QUIET] * 14, [(19, 20)] * 10),
        ([QUIET] * 5 + [MIDDLE] + [QUIET] * 10 + [EARLY] + [QUIET] * 3, [(19, 20)] * 3 + [(18, 18)] * 7),
        ([LATE] + [QUIET] * 18 + [MIDDLE], [(20, 20)] * 3 + [(19, 20)] * 6 + [(18, 18)]),
    ],
)
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_stack_from_which_members_part_goes_on_to_the_same_numbers(
    steps: list[float], sizes: list[tuple[int, int]], seeds: int
) -> None:
    results, states = assert_goes_on(falling(steps, seeds))
    assert held(states) == sizes
    assert [r.status for r in results] == ["diverged" if k else "complete" for k in steps]
    ends = {QUIET: 16, EARLY: 2, MIDDLE: 7, LATE: 16}
    assert [r.clocks.steps for r in results] == [ends[k] for k in steps]


@pytest.mark.parametrize("steps", [[MIDDLE] * 3, [EARLY, MIDDLE, MIDDLE]])
def test_a_stack_of_which_nobody_is_left_ends_as_undisturbed(steps: list[float]) -> None:
    results, states = assert_goes_on(falling(steps))
    assert {r.status for r in results} == {"diverged"} and max(state["steps"] for state in states) == 6


@pytest.mark.parametrize("rule", ["diag_hutchinson_5", "diag_gnb", "diag_secant", "ssvp_hvp"])
def test_curvature_and_probes_of_those_that_stay_are_their_own(rule: str) -> None:
    make, hps = STACKED[rule]
    members = [Member(hps[n] | {"lr": lr}, seed) for n, (lr, seed) in enumerate([(0.02, 5), (1e9, 6), (0.01, 7)])]
    results, states = assert_goes_on(started(make, members, network=lambda: nn.Linear(6, 3)))
    assert [r.status for r in results] == ["complete", "diverged", "complete"]
    assert (2, 2) in held(states)


# What a stack does not go on from, and the clocks.


def test_a_state_of_other_members_is_refused() -> None:
    make, hps = STACKED["adam"]
    members = [Member(hp, 1) for hp in hps]
    _, _, states = through(started(make, members), cut=True)
    with pytest.raises(NotRestoredError):
        told_by(started(make, members[:2])(Saving(states[3])), {})
    with pytest.raises(NotRestoredError):
        told_by(started(make, members, network=noisy)(Saving({})), {})


def test_the_state_of_a_run_alone_is_none_of_a_stack_nor_the_other_way_round() -> None:
    make, hps = STACKED["adam"]
    members = [Member(hp, 1) for hp in hps]
    _, _, of_stack = through(started(make, members), cut=True)
    _, _, of_run = through(started(make, members[:1]), cut=True)
    for chosen, state in ((members[:1], of_stack[0]), (members, of_run[0])):
        with pytest.raises(NotRestoredError):
            told_by(started(make, chosen)(Saving(state)), {})


def test_shares_of_the_seconds_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(ticks)), monotonic=time.monotonic)
    monkeypatch.setattr(tuner.training.loop, "time", clock)
    results, states = assert_goes_on(falling([QUIET, MIDDLE, QUIET]))
    # A second for every two steps, or fewer before a look: of three members, then of two.
    assert [r.clocks.seconds for r in results] == pytest.approx([4 / 3 + 6 / 2, 4 / 3, 4 / 3 + 6 / 2])
    assert sum(r.clocks.seconds for r in results) == pytest.approx(len(states)) == pytest.approx(len(SNAPSHOTS))

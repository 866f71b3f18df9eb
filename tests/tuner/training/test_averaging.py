"""Averaged weights are what evaluations see, and training does not: against the formula in NumPy, step by step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

import tuner.training.single
from tests.support.members import RULES, Small, alone, assert_as_alone, assert_equal, normalised, perceptron
from tests.support.thinned import thinned
from tuner.training.averaging import Averages
from tuner.training.engine import Engine
from tuner.training.records import Budget
from tuner.training.stack import Member, train
from tuner.training.weights import weights_of

BUDGET = Budget(epochs=6, evaluations=4, test=True, keep_weights=True)  # 24 steps: looks after 6, 12, 18 and 24
AVERAGED = Engine(ema=0.5)
MEMBER = Member({"lr": 0.1}, 3)


def momentum(params: Any, hp: dict[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, momentum=0.9, **hp)


def by_hand(decay: float, network: Any = perceptron) -> list[dict[str, np.ndarray]]:
    """The state of the averaged network after each step of ``MEMBER``, from step 0; buffers are the network's own."""
    task = Small(network)
    model = task.build(MEMBER.seed).train()
    optimizer = momentum(model.parameters(), MEMBER.hp)
    names = {name for name, _ in model.named_parameters()}
    states = [{name: value.numpy().copy() for name, value in model.state_dict().items()}]
    for epoch in range(BUDGET.epochs):
        for batch in task.batches(MEMBER.seed, epoch):
            optimizer.zero_grad()
            task.loss(model, batch)[0].backward()
            optimizer.step()
            t = len(states)
            d = min(decay, (1 + t) / (10 + t))
            now = {name: value.numpy().copy() for name, value in model.state_dict().items()}
            states.append({
                name: d * states[-1][name] + (1 - d) * value if name in names else value for name, value in now.items()
            })  # fmt: skip
    return states


def evaluated(state: dict[str, Any], split: str, network: Any) -> dict[str, float]:
    task = Small(network)
    model = task.build(0)
    model.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
    return {f"{split}_{name}": value for name, value in task.evaluate(model, split).items()}


@pytest.mark.parametrize("network", [perceptron, normalised], ids=["plain", "batch norm"])
@pytest.mark.parametrize("decay", [0.2, 0.9])
def test_every_evaluation_is_of_the_averages_with_the_buffers_of_the_network(decay: float, network: Any) -> None:
    states = by_hand(decay, network)
    result, curve = alone(Small(network), momentum, MEMBER, BUDGET, Engine(ema=decay))
    assert [look.step for look in curve] == [0, 6, 12, 18, 24]
    for look in curve:
        for split in ("train", "val"):
            expected = evaluated(states[look.step], split, network)
            assert {name: look.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert result.weights is not None
    for name, value in states[-1].items():
        np.testing.assert_allclose(result.weights[name], value, rtol=1e-9, atol=1e-12)


def test_weights_that_are_kept_are_those_that_were_evaluated() -> None:
    result, _ = alone(Small(), momentum, MEMBER, BUDGET, AVERAGED)
    assert result.weights is not None
    for split in ("train", "val", "test"):
        metrics = evaluated(result.weights, split, perceptron)
        assert {name: result.metrics[name] for name in metrics} == metrics


@pytest.mark.parametrize("rule", ["momentum", "adam", "diag_hutchinson", "diag_gnb"])
def test_training_goes_on_with_the_weights_themselves(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit: evaluations in between leave no trace; and it costs no gradients."""
    made: list[Any] = []
    original = tuner.training.single.Trainer

    def noting(*args: Any) -> Any:
        made.append(original(*args))
        return made[-1]

    monkeypatch.setattr(tuner.training.single, "Trainer", noting)
    make, hps = RULES[rule]
    runs = [alone(Small(normalised), make, Member(hps[0], 3), BUDGET, engine) for engine in (Engine(), AVERAGED)]
    weights, averaged = (weights_of(run.runner.exact) for run in made)
    assert all(torch.equal(weights[name], averaged[name]) for name in weights)
    (plain, _), (result, _) = runs
    assert plain.metrics != result.metrics
    assert plain.clocks.grad_equivalents == result.clocks.grad_equivalents


@pytest.mark.parametrize("rule", thinned(["adam", "momentum", "diag_hutchinson", "diag_gnb", "ssdh", "sophia"], 3))
@pytest.mark.parametrize("seeds", [(7, 7, 7), (0, 1, 2)], ids=["same seed", "own seeds"])
def test_members_of_a_stack_equal_runs_alone(rule: str, seeds: tuple[int, ...]) -> None:
    make, hps = RULES[rule]
    members = [Member(hp, seed) for hp, seed in zip(hps, seeds, strict=True)]
    runs = assert_as_alone(Small(normalised), make, members, BUDGET, AVERAGED)
    for (result, _), member in zip(runs, members, strict=True):
        expected, _ = alone(Small(normalised), make, member, BUDGET, AVERAGED)
        assert result.weights is not None and expected.weights is not None
        for name, value in expected.weights.items():
            torch.testing.assert_close(result.weights[name], value, rtol=1e-9, atol=1e-12)


def test_a_stack_that_loses_a_member_keeps_the_averages_of_the_others() -> None:
    members = [Member({"lr": lr}, 3) for lr in (0.1, 1e4, 0.05)]
    task = Small()
    results = train(task, momentum, members, BUDGET, engine=AVERAGED)
    assert [result.status for result in results] == ["complete", "diverged", "complete"]
    for place in (0, 2):
        assert_equal((results[place], []), (alone(task, momentum, members[place], BUDGET, AVERAGED)[0], []))


def test_the_curvature_is_analysed_where_the_network_trains() -> None:
    """An optimizer's own estimates are of those weights: in a stack as well."""
    seen: list[dict[str, Tensor]] = []

    def analyze(task: Any, model: nn.Module, optimizer: Any) -> tuple[list[Any], str]:
        seen.append(weights_of(model))
        return [], ""

    budget = replace(BUDGET, analyze_every=1, analyze=analyze)
    make, hps = RULES["momentum"]
    for engine in (Engine(), AVERAGED):
        alone(Small(), make, Member(hps[0], 3), budget, engine)
    train(Small(), make, [Member(hps[0], 3)] * 2, budget, engine=AVERAGED)
    plain, averaged, stacked = seen[:5], seen[5:10], seen[10::2]
    for expected, *others in zip(plain, averaged, stacked, strict=True):
        for other in others:
            assert all(torch.allclose(other[name], expected[name], rtol=1e-9) for name in expected)


def test_optimizers_that_switch_their_weights_are_averaged_as_they_train() -> None:
    """As schedule-free ones do: at an evaluation the average is in place of either of the two."""
    switched: list[str] = []

    class Switching(torch.optim.SGD):
        def train(self) -> None:
            self._move(-1, "train")

        def eval(self) -> None:
            self._move(1, "eval")

        def _move(self, sign: int, mode: str) -> None:
            if mode == "train" and not switched:  # before the first step nothing has been moved
                return
            switched.append(mode)
            with torch.no_grad():
                for param in self.param_groups[0]["params"]:
                    param.add_(sign)

    def make(params: Any, hp: dict[str, Any]) -> torch.optim.Optimizer:
        return Switching(params, momentum=0.9, **hp)

    assert_equal(
        alone(Small(), make, MEMBER, BUDGET, AVERAGED), alone(Small(), momentum, MEMBER, BUDGET, AVERAGED), rtol=1e-6
    )
    assert switched == ["eval", "train"] * 3 + ["eval"]


def test_the_first_decays_are_those_of_the_warm_up() -> None:
    param = torch.zeros((), dtype=torch.float64)
    averages = Averages(0.999, [param])
    found = []
    for _ in range(3):
        averages.update([torch.ones((), dtype=torch.float64)])
        found.append(1 - averages.tensors[0].item())  # the product of decays: what is left of the first weights
    assert found == pytest.approx([2 / 11, 2 / 11 * 3 / 12, 2 / 11 * 3 / 12 * 4 / 13], rel=1e-12)


@pytest.mark.parametrize("decay", [0, 1, -0.5, 1.5, math.nan, "much", True])
def test_a_decay_that_is_none_is_refused(decay: Any) -> None:
    with pytest.raises(ValidationError):
        Engine(ema=decay)


def test_a_state_of_another_network_is_refused() -> None:
    averages = Averages(0.9, [torch.zeros(2)])
    with pytest.raises(ValueError, match="another network"):
        averages.restore({"steps": 1, "tensors": [torch.zeros(3)]})

"""Cohorts: each member's run equals the same run alone, which never touches the code of stacks."""

import gc
import math
import time
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import tuner.training.loop
from optimizers import (
    SSDH,
    Sophia,
)
from tests.support.members import (
    CHANGING,
    CONSTANT,
    MIXED,
    NETWORKS,
    RTOL,
    RULES,
    TWELVE_STEPS,
    Scaled,
    Small,
    alone,
    assert_as_alone,
    assert_equal,
    assert_same_bits,
    by_name,
    convolutional,
    members_of,
    normalised,
    of,
    together,
)
from tests.support.thinned import thinned
from tuner.training import stack as cohort
from tuner.training.engine import Engine
from tuner.training.loop import all_batches
from tuner.training.records import Budget
from tuner.training.stack import Member, Stack

SEEDS = {"same seed": (7, 7, 7), "own seeds": (0, 1, 2), "two seeds": (3, 4, 3)}
ENGINES = {"constant": CONSTANT, "changing": CHANGING}


def cases():
    """Every rule with two networks; seeds and engines take turns, so that each network sees each of them too."""
    networks, seeds, engines = list(NETWORKS), list(SEEDS), list(ENGINES)
    for i, rule in enumerate(RULES):
        for j in (0, 1):
            network = networks[(i + 3 * j + i // 6) % len(networks)]
            if rule == "diag_ggn_exact" and network == "embedded":
                network = "perceptron"  # it knows no layer whose weights are tied
            yield rule, network, seeds[(i + j) % 3], engines[(i // 2 + j) % 2]


@pytest.mark.parametrize(("rule", "network", "seeds", "engine"), thinned(cases(), 2))
def test_members_equal_runs_alone_over_a_hundred_steps(rule, network, seeds, engine):
    make, hps = RULES[rule]
    members = [Member(hp, seed) for hp, seed in zip(hps, SEEDS[seeds], strict=True)]
    runs = assert_as_alone(Small(NETWORKS[network]), make, members, engine=ENGINES[engine])
    starts, ends = ([curve[place].metrics["train_loss"] for _, curve in runs] for place in (0, -1))
    assert len(set(starts)) == len(set(SEEDS[seeds])) and len(set(ends)) == 3
    assert all(result.clocks.steps == 100 for result, _ in runs)


# What a member has of its own.


@pytest.mark.parametrize("rule", ["momentum", "diag_hutchinson", "diag_gnb"])
def test_batch_norm_keeps_each_members_running_buffers(rule):
    make, hps = RULES[rule]
    task = Small(normalised)
    noted = []
    evaluate = task.evaluate
    task.evaluate = lambda model, split: (noted.append([b.clone() for b in model.buffers()]), evaluate(model, split))[1]
    members = [Member(hps[0], 0), Member(hps[1], 1)]
    budget = Budget(epochs=3, evaluations=1)
    together(task, make, members, budget)
    last, noted[:] = noted[-3::2], []
    for member, found in zip(members, last, strict=True):
        alone(task, make, member, budget)
        mean, variance, count = noted[-1]
        assert count == 12 == found[2]
        torch.testing.assert_close(found[:2], [mean, variance], rtol=RTOL, atol=1e-12)
    assert not torch.allclose(last[0][0], last[1][0], rtol=1e-3)


def test_each_member_has_the_weights_and_the_data_order_of_its_seed():
    task = Small(convolutional)
    stack = Stack(task, of(torch.optim.SGD), [Member({"lr": 0.1}, seed) for seed in (3, 5, 3)], CONSTANT, epochs=2)
    for place, seed in enumerate((3, 5, 3)):
        own = list(task.build(seed).parameters())
        assert all(torch.equal(stacked[place], p) for stacked, p in zip(stack.model.params, own, strict=True))
        for (inputs, labels), batch in zip(all_batches(task, seed, 2), stack.batches(2), strict=True):
            assert torch.equal(batch.tensors[0][place], inputs) and torch.equal(batch.tensors[1][place], labels)


class Coins(Small):
    """The loss is the sum of eight ones, each kept and doubled, or dropped, with probability 1/2."""

    def __init__(self):
        super().__init__(lambda: Coin(power=1))

    def criterion(self, outputs, targets):
        return outputs.sum()


class Coin(nn.Module):
    def __init__(self, power):
        super().__init__()
        self.power = power
        self.weight, self.dropout = nn.Parameter(torch.arange(1.0, 9.0) ** (power - 1)), nn.Dropout(0.5)

    def forward(self, inputs):
        return self.dropout(self.weight**self.power)


def test_dropout_draws_for_each_member_and_step_as_alone():
    """With lr 0 the losses of all members and steps are independent: eight times a fair coin, twice what came up."""
    members = [Member({"lr": 0.0}, 1)] * 50
    stack = Stack(Coins(), of(torch.optim.SGD), members, CONSTANT, epochs=40)
    losses = torch.stack([stack.step(batch) for batch in stack.batches(40)])
    steps = len(losses)
    assert steps == 160 and losses.shape[1] == 50
    counts = torch.bincount((losses / 2).round().long().flatten(), minlength=9)
    assert torch.equal((losses / 2).round() * 2, losses)
    expected = torch.tensor([math.comb(8, heads) for heads in range(9)]) / 2**8 * steps * 50
    chi_squared = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_squared < 26.1  # 8 degrees of freedom: one in a thousand
    for draws in (losses.T, losses):  # between members; between steps
        correlations = torch.corrcoef(draws)
        correlations.fill_diagonal_(0.0)
        assert correlations.abs().max() < 4.9 / math.sqrt(draws.shape[1])
        assert abs(correlations.mean()) < 4 / math.sqrt(draws.shape[1] * draws.shape[0] ** 2)


def test_curvature_and_gradient_of_a_step_see_the_same_dropout():
    """Of the loss c w^2, with c drawn by dropout, the gradient 2 c w is w times the curvature 2 c."""
    task = Small(lambda: Coin(power=2))
    task.criterion = lambda outputs, targets: outputs.sum()
    make = of(Sophia, estimator="hutchinson", update_period=1, lr=0.0, betas=(0.0, 0.0))
    stack = Stack(task, make, [Member({"rho": rho}, 1) for rho in (0.1, 0.2, 0.3)], CONSTANT, epochs=2)
    weight = torch.arange(1.0, 9.0, dtype=torch.float64)
    drawn = set()
    for batch in stack.batches(2):
        stack.step(batch)
        (state,) = stack.optimizer._rule.states
        torch.testing.assert_close(state["momentum"], weight * state["hessian"])
        assert set(state["hessian"].flatten().tolist()) == {0.0, 4.0}
        drawn.update(map(tuple, state["hessian"].tolist()))
    assert len(drawn) > 20  # of 24


def test_each_member_has_its_own_fraction_of_clipped_entries():
    members = [Member({"rho": rho, "lr": 0.01}, 1) for rho in (1e-3, 0.1, 10.0)]
    runs = assert_as_alone(Small(), of(SSDH, eps=0.1), members)
    fractions = [curve[-1].diagnostics["clipped_fraction"] for _, curve in runs]
    assert fractions[0] > fractions[1] > fractions[2] and all(0 <= fraction <= 1 for fraction in fractions)


# The list of members, and what is told of them.


def test_evaluations_are_told_with_their_member_in_the_order_of_the_list():
    told = []
    members = [Member({"lr": lr}, 1) for lr in (0.1, 0.01, 0.2)]
    task = Small()
    results = cohort.train(task, of(torch.optim.SGD), members, TWELVE_STEPS, lambda *look: told.append(look))
    assert [(member, look.step) for member, look in told] == [(m, step) for step in (0, 4, 8, 12) for m in range(3)]
    for place, (member, result) in enumerate(zip(members, results, strict=True)):
        own = [look for told_of, look in told if told_of == place]
        assert own[-1].metrics == result.metrics
        assert_equal((result, own), alone(task, of(torch.optim.SGD), member, TWELVE_STEPS))


def test_a_mixed_list_is_stacked_by_kind_and_comes_back_in_order():
    members = [Member({"name": name, **hp}, seed) for seed, (name, hp) in enumerate(MIXED)]
    task = Small()
    places = cohort.stacks(task, by_name, members, CONSTANT)
    assert sorted(places) == [[0, 4, 8], [1, 5], [2, 7], [3], [6]]
    runs = together(task, by_name, members, TWELVE_STEPS)
    assert [result.cohort for result, _ in runs] == [3, 2, 2, 1, 3, 2, 1, 2, 3]
    for member, run in zip(members, runs, strict=True):
        assert_equal(run, alone(task, by_name, member, TWELVE_STEPS))


def test_a_single_member_is_the_single_run_to_the_bit():
    task, (make, hps) = Small(), RULES["diag_hutchinson"]
    ((result, curve),) = together(task, make, [Member(hps[1], 3)], TWELVE_STEPS)
    assert result.cohort == 1
    assert_same_bits((result, curve), alone(task, make, Member(hps[1], 3), TWELVE_STEPS))


def test_members_alike_in_everything_do_the_same():
    task, (make, hps) = Small(normalised), RULES["diag_gaussian"]
    first, second = assert_as_alone(task, make, [Member(hps[0], 3)] * 2, TWELVE_STEPS)
    assert_equal(first, second, rtol=1e-12)


def test_seconds_are_equal_shares_of_the_time_spent(monkeypatch):
    members = [Member({"lr": 0.1 + 0.1 * i}, i) for i in range(4)]
    started = time.perf_counter()
    runs = together(Small(), of(torch.optim.SGD), members, TWELVE_STEPS)
    spent = time.perf_counter() - started
    seconds = [result.clocks.seconds for result, _ in runs]
    assert len(set(seconds)) == 1 and 0 < sum(seconds) <= spent

    readings = iter(range(1000))
    monkeypatch.setattr(
        tuner.training.loop, "time", SimpleNamespace(perf_counter=lambda: next(readings), monotonic=lambda: 0)
    )
    runs = together(Small(), of(torch.optim.SGD), members, TWELVE_STEPS)
    # A second for the steps between two evaluations, shared by four.
    assert [result.clocks.seconds for result, _ in runs] == [0.75] * 4
    assert [look.seconds for look in runs[2][1]] == [0.0, 0.25, 0.5, 0.75]


# What is kept from one cohort to the next.


@pytest.mark.parametrize(
    "network",
    [
        convolutional,
        lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Dropout(0.3), nn.Linear(9, 3)),
    ],
    ids=["convolutional", "dropout"],
)
def test_a_second_cohort_of_a_task_does_the_same(network):
    """It replays from its first step; before it comes one of another size, and one with another engine."""
    task, (make, hps) = Small(network), RULES["diag_hutchinson_5"]
    members = [Member(hp, seed) for seed, hp in enumerate(hps)]
    first = together(task, make, members, TWELVE_STEPS)
    together(task, make, [*members[1:], *members], TWELVE_STEPS)
    together(task, make, members, TWELVE_STEPS, CHANGING)
    for run, other in zip(together(task, make, members, TWELVE_STEPS), first, strict=True):
        assert_equal(run, other, rtol=1e-12)


def test_a_cohort_with_another_optimizer_or_other_shapes_is_as_alone():
    task = Small(normalised)
    for rule, size in [("sgd", 3), ("adam", 3), ("diag_hutchinson", 2), ("diag_gaussian", 2), ("ssvp", 3), ("sgd", 2)]:
        make, hps = RULES[rule]
        members = [Member(hp, seed) for seed, hp in enumerate(hps[:size])]
        assert_as_alone(task, make, members, TWELVE_STEPS)
    task.batch_size = 11
    assert_as_alone(task, *members_of("sgd"), TWELVE_STEPS)


def test_two_tasks_share_nothing():
    """The same shapes, with another criterion."""
    first, second = Small(), Small()
    second.criterion = lambda outputs, targets: nn.functional.cross_entropy(outputs, targets, label_smoothing=0.2)
    for task in (first, second, first):
        assert_as_alone(task, *members_of("sgd"), TWELVE_STEPS)


def test_nothing_keeps_a_task_alive():
    task = Small()
    together(task, *members_of("sgd"), TWELVE_STEPS)
    gone = weakref.ref(task)
    del task
    gc.collect()
    assert gone() is None


# Networks and engines.


@pytest.mark.parametrize("engine", [CONSTANT, CHANGING], ids=["constant", "clipped"])
def test_a_parameter_without_shape(engine):
    assert_as_alone(Small(Scaled), *members_of("momentum"), TWELVE_STEPS, engine)


def test_one_batch_a_step_for_all_data():
    task = Small()
    task.batch_size = 64
    assert_as_alone(task, *members_of("adam"), Budget(epochs=12, evaluations=3))


@pytest.mark.parametrize(
    ("rule", "engine"),
    [
        ("momentum", Engine(precision="bf16", clip_grad_norm=0.3)),
        ("diag_hutchinson_5", Engine(precision="bf16")),
        ("diag_gnb", Engine(precision="bf16")),
    ],
)
def test_half_precision(rule, engine):
    """The losses agree to its rounding."""
    (make, members), task = members_of(rule), Small(dtype=torch.float32)
    for member, (result, curve) in zip(members, together(task, make, members, TWELVE_STEPS, engine), strict=True):
        assert result.cohort == 3
        _, expected = alone(task, make, member, TWELVE_STEPS, engine)
        for look, expected_look in zip(curve, expected, strict=True):
            for loss in ("train_loss", "val_loss"):
                assert look.metrics[loss] == pytest.approx(expected_look.metrics[loss], rel=1e-2)


def test_single_precision_and_deterministic_algorithms():
    (make, members), task = members_of("diag_hutchinson_5"), Small(convolutional, dtype=torch.float32)
    engine = Engine(deterministic=True)
    for member, run in zip(members, together(task, make, members, TWELVE_STEPS, engine), strict=True):
        assert run[0].cohort == 3
        assert_equal(run, alone(task, make, member, TWELVE_STEPS, engine), rtol=1e-4)

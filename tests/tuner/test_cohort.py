"""Cohorts: each member's run equals the same run alone, which never touches the code of stacks."""

import gc
import math
import time
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import tuner.train
from optimizers import (
    SADH,
    SSDH,
    SSVP,
    AdaHessian,
    DiagHessian,
    MuonWithAdamW,
    Sophia,
    SubsampledNewton,
    adapt_learning_rate,
)
from tasks.base import Data, Task
from tuner import cohort
from tuner.cohort import Member, Stack
from tuner.engine import Engine
from tuner.train import Budget, all_batches, train

RTOL = 1e-9  # the promise is 1e-5; rounding errors grow to 1e-12
CONSTANT = Engine()
CHANGING = Engine(schedule="cosine", warmup_epochs=2, clip_grad_norm=0.3)
HUNDRED_STEPS = Budget(epochs=25, evaluations=10, test=True)
TWELVE_STEPS = Budget(epochs=3, evaluations=3, test=True)


class Attention(nn.Module):
    """The six numbers as a sequence."""

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(1, 4), nn.Linear(4, 3)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.out(self.layer(self.into(x[..., None])).mean(1))


class Embedded(nn.Module):
    """The six numbers, small, middling or large, as words whose vectors are tied to those of the output."""

    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(3, 4), nn.Linear(4, 3, bias=False)
        self.words.weight = self.out.weight

    def forward(self, x):
        words = (x > 0).long() + (x > 1).long()
        return self.out(self.words(words).mean(1).tanh())


def perceptron():
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Dropout(0.0), nn.Linear(9, 3))


def normalised():
    # No bias before BatchNorm: its gradient would be rounding errors alone, which curvature rules divide by as small.
    return nn.Sequential(nn.Linear(6, 9, bias=False), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3))


def convolutional():
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(),
        nn.Conv2d(4, 4, (2, 1)),
        nn.MaxPool2d((1, 3)),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


class Scaled(nn.Sequential):
    """Its outputs are multiplied with a parameter without shape."""

    def __init__(self):
        super().__init__(nn.Linear(6, 3))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * self[0](x)


def partly_frozen():
    """Its first layer is frozen and its last is not used."""
    network = perceptron()
    network[0].requires_grad_(False)
    network.unused = nn.Linear(2, 2)
    network.forward = lambda x: network[3](network[1](network[0](x)))
    return network


NETWORKS = {
    "perceptron": perceptron,
    "normalised": normalised,
    "convolutional": convolutional,
    "attention": Attention,
    "embedded": Embedded,
    "partly_frozen": partly_frozen,
}


class Small(Task):
    """Three classes of points in six dimensions, in double precision: 57 training rows, the last batch has 9."""

    def __init__(self, network=perceptron, dtype=torch.float64):
        super().__init__(metric="val_loss", mode="min", batch_size=16)
        self.make = network
        self.dtype = dtype
        self.setup(None, torch.device("cpu"))

    def load(self, data_dir):
        self.worst = {"loss": 1e3, "errors": 1.0}
        inputs = np.random.default_rng(0).normal(size=(90, 6))
        labels = (inputs[:, 0] > 0).astype(np.int64) + (inputs[:, 1] > 0.3)
        inputs = torch.from_numpy(inputs).to(self.dtype).numpy()
        ends = {"train": (0, 57), "val": (57, 75), "test": (75, 90)}
        return Data("small", {split: (inputs[a:b], labels[a:b]) for split, (a, b) in ends.items()})

    def network(self):
        return self.make().to(self.dtype)

    def criterion(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets)

    def metrics(self, outputs, targets):
        return super().metrics(outputs, targets) | {"errors": (outputs.argmax(1) != targets).double().mean().item()}


def of(rule, **fixed):
    return lambda params, hp: rule(params, **fixed, **hp)


def alone(task, make, member, budget=HUNDRED_STEPS, engine=CONSTANT):
    curve = []
    return train(task, make, member.hp, member.seed, budget, curve.append, engine), curve


def together(task, make, members, budget=HUNDRED_STEPS, engine=CONSTANT):
    """Result and curve of each member; a curve that begins again replaces what was there."""
    curves = [[] for _ in members]

    def on_eval(member, evaluation):
        if evaluation.step == 0:
            curves[member].clear()
        curves[member].append(evaluation)

    return list(zip(cohort.train(task, make, members, budget, on_eval, engine), curves, strict=True))


def assert_equal(run, other, rtol=RTOL):
    """Everything but seconds and memory."""
    (result, curve), (expected, expected_curve) = run, other
    assert (result.status, result.clocks.steps) == (expected.status, expected.clocks.steps)
    assert result.clocks.grad_equivalents == pytest.approx(expected.clocks.grad_equivalents, rel=1e-12)
    assert result.metrics == pytest.approx(expected.metrics, rel=rtol, abs=0)
    assert [(look.step, look.epoch) for look in curve] == [(look.step, look.epoch) for look in expected_curve]
    for look, expected_look in zip(curve, expected_curve, strict=True):
        assert look.grad_equivalents == pytest.approx(expected_look.grad_equivalents, rel=1e-12)
        assert look.metrics == pytest.approx(expected_look.metrics, rel=rtol, abs=0)
        assert look.diagnostics == pytest.approx(expected_look.diagnostics, rel=1e-12)


def assert_same_bits(run, other):
    (result, curve), (expected, expected_curve) = run, other
    assert (result.status, result.metrics, result.clocks.steps) == (
        expected.status,
        expected.metrics,
        expected.clocks.steps,
    )
    assert [(look.step, look.metrics) for look in curve] == [(look.step, look.metrics) for look in expected_curve]


def assert_as_alone(task, make, members, budget=HUNDRED_STEPS, engine=CONSTANT):
    runs = together(task, make, members, budget, engine)
    assert [result.cohort for result, _ in runs] == [len(members)] * len(members)  # they were stacked
    for member, run in zip(members, runs, strict=True):
        assert_equal(run, alone(task, make, member, budget, engine))
    return runs


# Each rule with hyperparameters at which all its terms count; members differ in more than one, in one of a tuple too.

DIAG = {"diff": 0.5, "square": 2.0, "damping": 0.1, "eps": 0.1, "weight_decay": 0.0}
DIAG_HPS = [
    {"lr": 2e-2, "betas": (0.9, 0.99)},
    {"lr": 1e-2, "betas": (0.9, 0.9), "weight_decay": 0.1},
    {"lr": 1e-2, "betas": (0.8, 0.99), "diff": 0.8, "damping": 0.2},
]
CLIPPED_HPS = [
    {"lr": 0.05, "betas": (0.9, 0.8), "rho": 0.1, "eps": 1e-2},
    {"lr": 0.02, "betas": (0.9, 0.9), "rho": 0.2, "eps": 1e-2, "weight_decay": 0.1},
    {"lr": 0.02, "betas": (0.8, 0.9), "rho": 0.1, "eps": 1e-1},
]
ADAM_HPS = [
    {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.0},
    {"lr": 0.003, "betas": (0.9, 0.9), "weight_decay": 0.1},
    {"lr": 0.003, "betas": (0.5, 0.99), "weight_decay": 0.1, "eps": 1e-2},
]
GAUSSIAN = {"name": "hutchinson", "probe": "gaussian", "samples": 2}


def diag(estimator, period):
    fixed = {"estimator": estimator, "update_period": period}
    return lambda params, hp: DiagHessian(params, **{**DIAG, **hp}, **fixed), DIAG_HPS


RULES = {
    "sgd": (
        of(torch.optim.SGD),
        [{"lr": 0.1, "weight_decay": 0.0}, {"lr": 0.03, "weight_decay": 0.0}, {"lr": 0.03, "weight_decay": 0.1}],
    ),
    "momentum": (
        of(torch.optim.SGD, dampening=0.1),
        [{"lr": 0.1, "momentum": 0.9}, {"lr": 0.1, "momentum": 0.5}, {"lr": 0.03, "momentum": 0.5}],
    ),
    "nesterov": (
        of(torch.optim.SGD, nesterov=True, momentum=0.9),
        [{"lr": 0.05, "weight_decay": 1e-3}, {"lr": 0.03, "weight_decay": 0.1}, {"lr": 0.05, "weight_decay": 0.0}],
    ),
    "adam": (of(torch.optim.Adam), ADAM_HPS),
    "amsgrad": (of(torch.optim.Adam, amsgrad=True), ADAM_HPS),
    "adamw": (of(torch.optim.AdamW), ADAM_HPS),
    "diag_hutchinson": diag("hutchinson", 1),
    "diag_hutchinson_5": diag("hutchinson", 5),
    "diag_gaussian": diag(GAUSSIAN, 3),
    "diag_none": diag("none", 1),
    "diag_secant": diag("secant", 1),
    "diag_secant_3": diag("secant", 3),
    "diag_gnb": diag("gnb", 4),
    "diag_ggn_mc": diag("ggn_mc", 4),
    "diag_ggn_exact": diag("ggn_exact", 7),
    "diag_exact": diag("exact", 20),
    "sadh": (of(SADH), CLIPPED_HPS),
    "ssdh": (of(SSDH, update_period=1), CLIPPED_HPS),
    "ssvp": (of(SSVP, update_period=3), CLIPPED_HPS),
    "sophia": (of(Sophia, update_period=4), CLIPPED_HPS),
    "sophia_gnb": (of(Sophia, estimator="gnb"), CLIPPED_HPS),
    "adahessian": (of(AdaHessian, update_period=2), ADAM_HPS),
}
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


@pytest.mark.parametrize(("rule", "network", "seeds", "engine"), list(cases()))
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
    make = of(Sophia, update_period=1, lr=0.0, betas=(0.0, 0.0))
    stack = Stack(task, make, [Member({"rho": rho}, 1) for rho in (0.1, 0.2, 0.3)], CONSTANT, epochs=2)
    weight = torch.arange(1.0, 9.0, dtype=torch.float64)
    drawn = set()
    for batch in stack.batches(2):
        stack.step(batch)
        (state,) = stack.optimizer.states
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


def by_name(params, hp):
    return getattr(torch.optim, hp["name"])(params, **{name: value for name, value in hp.items() if name != "name"})


MIXED = [
    ("SGD", {"lr": 0.1}),
    ("Adam", {"lr": 0.01}),
    ("RMSprop", {"lr": 0.01}),
    ("SGD", {"lr": 0.2, "nesterov": True, "momentum": 0.9}),
    ("SGD", {"lr": 0.2}),
    ("Adam", {"lr": 0.02}),
    ("Adam", {"lr": 0.02, "amsgrad": True}),
    ("RMSprop", {"lr": 0.02}),
    ("SGD", {"lr": 0.3}),
]


def test_a_mixed_list_is_stacked_by_kind_and_comes_back_in_order():
    members = [Member({"name": name, **hp}, seed) for seed, (name, hp) in enumerate(MIXED)]
    task = Small()
    places = cohort.stacks(task, by_name, members, CONSTANT)
    assert sorted(places) == [[0, 4, 8], [1, 5], [2], [3], [6], [7]]
    runs = together(task, by_name, members, TWELVE_STEPS)
    assert [result.cohort for result, _ in runs] == [3, 2, 1, 1, 3, 2, 1, 1, 3]
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
    monkeypatch.setattr(tuner.train, "time", SimpleNamespace(perf_counter=lambda: next(readings)))
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


def members_of(rule):
    make, hps = RULES[rule]
    return make, [Member(hp, seed) for seed, hp in enumerate(hps)]


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


# What cannot be stacked.


def in_two_groups(params, hp):
    params = list(params)
    return torch.optim.SGD([{"params": params[:1]}, {"params": params[1:], "lr": 0.01}], **hp)


SINGLE = {
    "rmsprop": (of(torch.optim.RMSprop), {"lr": 0.01}),
    "lbfgs": (of(torch.optim.LBFGS, max_iter=2), {"lr": 0.1}),
    "hessian_lr_adaptation": (of(adapt_learning_rate), {"lr": 0.01}),
    "muon": (of(MuonWithAdamW), {"lr": 0.01}),
    "subsampled_newton": (of(SubsampledNewton, sampling_rate=0.3, damping=1.0), {"lr": 0.1}),
    "groups": (in_two_groups, {"lr": 0.1}),
    "maximize": (of(torch.optim.SGD, maximize=True), {"lr": 1e-3}),
}


def assert_alone(task, make, members, budget=TWELVE_STEPS, engine=CONSTANT):
    """They train one at a time, to the bit as ``train`` does."""
    runs = together(task, make, members, budget, engine)
    assert [result.cohort for result, _ in runs] == [1] * len(members)
    for member, run in zip(members, runs, strict=True):
        assert_same_bits(run, alone(task, make, member, budget, engine))


@pytest.mark.parametrize("single", SINGLE)
def test_optimizers_without_a_pure_rule_train_one_at_a_time(single):
    make, hp = SINGLE[single]
    members = [Member(hp, 1), Member({**hp, "lr": hp["lr"] / 2}, 2)]
    assert cohort.stacks(Small(), make, members, CONSTANT) == [[0], [1]]
    assert_alone(Small(), make, members)


@pytest.mark.parametrize(
    ("rule", "name", "values"),
    [
        (torch.optim.SGD, "nesterov", [False, True]),
        (AdaHessian, "betas", [(0.9, 0.99), (0, 0.99)]),
        (DiagHessian, "update_period", [1, 2]),
        (DiagHessian, "estimator", ["hutchinson", "secant"]),
        (DiagHessian, "estimator", ["hutchinson", GAUSSIAN]),
    ],
)
def test_members_that_differ_in_more_than_numbers_train_apart(rule, name, values):
    fixed = {"momentum": 0.9} if rule is torch.optim.SGD else {}
    assert_alone(Small(), of(rule, lr=1e-3, **fixed), [Member({name: value}, 1) for value in values])


class Reading(nn.Module):
    """Reads a number, which a stack cannot, at every batch or at the last one of an epoch."""

    def __init__(self, rows):
        super().__init__()
        self.rows, self.layer = rows, nn.Linear(6, 3)

    def forward(self, x):
        y = self.layer(x)
        return y * 2 if len(x) in self.rows and y.abs().max().item() > 0 else y


class Accumulating(nn.Linear):
    """Adds in place to zeros, which are not the members' own."""

    def forward(self, x):
        total = torch.zeros(len(x), 3, dtype=x.dtype)
        total += super().forward(x)
        return total


UNSTACKABLE = {
    "reads a number": lambda: Reading([16, 9]),
    "reads a number late": lambda: Reading([9]),
    "adds in place": lambda: Accumulating(6, 3),
    "averages by count": lambda: nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9, momentum=None), nn.Linear(9, 3)),
    "dropout and a number": lambda: nn.Sequential(nn.Dropout(0.2), Reading([9])),
}


@pytest.mark.parametrize(
    ("network", "rule"), [*((network, "momentum") for network in UNSTACKABLE), ("reads a number", "diag_hutchinson_5")]
)
def test_networks_that_cannot_be_stacked_train_one_at_a_time(network, rule):
    assert_alone(Small(UNSTACKABLE[network]), *members_of(rule))


# Known to be otherwise: stacked, to other numbers than alone.


def of_the_last_layer(params, hp):
    return torch.optim.SGD(list(params)[2:], **hp)


def with_a_hook(params, hp):
    optimizer = torch.optim.SGD(params, **hp)

    def shrink(optimizer, args, kwargs):
        torch._foreach_mul_([param.data for param in optimizer.param_groups[0]["params"]], 0.9)

    optimizer.register_step_post_hook(shrink)
    return optimizer


class Features(nn.Linear):
    """Of random features that are neither parameters nor buffers."""

    def __init__(self):
        super().__init__(9, 3)
        self.features = torch.randn(6, 9, dtype=torch.float64)

    def forward(self, x):
        return super().forward((x @ self.features).tanh())


OTHERWISE = {
    "some of the parameters": (perceptron, of_the_last_layer),
    "a hook": (perceptron, with_a_hook),
    "drawn and no buffer": (Features, of(torch.optim.SGD)),
}


@pytest.mark.parametrize(("network", "make"), OTHERWISE.values(), ids=OTHERWISE)
def test_what_a_stack_does_not_look_at(network, make):
    members = [Member({"lr": 0.1}, 1), Member({"lr": 0.05}, 2)]
    for member, run in zip(members, together(Small(network), make, members, TWELVE_STEPS), strict=True):
        assert_equal(run, alone(Small(network), make, member, TWELVE_STEPS))


def test_a_failed_stack_does_not_touch_the_others():
    """Of a network that cannot be stacked, and an optimizer that is not: all are as alone."""
    members = [Member({"name": name, **hp}, seed) for seed, (name, hp) in enumerate(MIXED[:5])]
    assert_alone(Small(UNSTACKABLE["reads a number late"]), by_name, members)


@pytest.mark.parametrize("engine", [Engine(compile=True), Engine(channels_last=True)], ids=["compiled", "images"])
def test_compiled_networks_and_other_memory_formats_are_not_stacked(engine):
    members = [Member({"lr": lr}, 1) for lr in (0.1, 0.2)]
    assert cohort.stacks(Small(convolutional), of(torch.optim.SGD), members, engine) == [[0], [1]]
    if not engine.compile:
        assert_alone(Small(convolutional), of(torch.optim.SGD), members, engine=engine)


def test_an_error_of_a_single_run_is_raised():
    def broken(params, hp):
        raise ArithmeticError("as alone")

    with pytest.raises(ArithmeticError, match="as alone"):
        cohort.train(Small(), broken, [Member({}, 1)] * 2, TWELVE_STEPS)

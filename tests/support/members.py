"""Small networks and tasks in double precision, and ways to train members of a cohort: alone and together."""

import numpy as np
import pytest
import torch
from torch import nn

from optimizers import (
    SADH,
    SSDH,
    SSVP,
    AdaHessian,
    DiagHessian,
    NAdamW,
    Sophia,
    with_one_minus_betas,
)
from tasks.base import Data, Task
from tuner.training import stack
from tuner.training.engine import Engine
from tuner.training.records import Budget
from tuner.training.single import train
from tuner.training.stack import Member

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

    return list(zip(stack.train(task, make, members, budget, on_eval, engine), curves, strict=True))


def assert_equal(run, other, rtol=RTOL):
    """Everything but seconds and memory."""
    (result, curve), (expected, expected_curve) = run, other
    assert (result.status, result.clocks.steps) == (expected.status, expected.clocks.steps)
    for clock in ("grad_equivalents", "nominal_grad_equivalents"):
        assert getattr(result.clocks, clock) == pytest.approx(getattr(expected.clocks, clock), rel=1e-12)
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


GAUSSIAN = {"name": "hutchinson", "probe": "gaussian", "samples": 2}


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
    "nadamw": (of(NAdamW), ADAM_HPS),
    "adam_full": (
        of(with_one_minus_betas),
        [
            {"lr": 0.01, "one_minus_beta1": 0.1, "one_minus_beta2": 1e-3, "eps": 1e-8},
            {"lr": 0.003, "one_minus_beta1": 0.01, "one_minus_beta2": 1e-3, "eps": 1e-3},
            {"lr": 0.003, "one_minus_beta1": 0.1, "one_minus_beta2": 0.05, "eps": 1e-3},
        ],
    ),
}


def members_of(rule):
    make, hps = RULES[rule]
    return make, [Member(hp, seed) for seed, hp in enumerate(hps)]

"""The optimizers whose training step is timed, each with its settings and a row for what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import optimizers
from benchmarks.networks import Problem

PERIOD = 10
JUDGED = ("convolutional", "transformer")
LR = 1e-6  # so small that nothing diverges and every block does the same work
Step = Callable[[], object]
MakeStep = Callable[[nn.Module, Problem], Step]


@dataclass
class Entry:
    """A row: an optimizer with its settings, and what was measured.

    Attributes:
        period: update_period, ``None`` where there is none.
        make: given network and problem, a function that takes one training step.
        judged: whether it must stay within the limit.
        same: the estimator of the peer's rows that do the same as this one.
        ms: per step, a value per round.
        ratios: to Adam's step, a value per round.
        memory: peak, in bytes.
    """

    optimizer: str
    estimator: str
    period: int | None
    make: MakeStep
    judged: bool = False
    same: str = ""
    ms: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    memory: int = 0

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    def __str__(self) -> str:
        return f"{self.optimizer}, {self.estimator}, update_period {self.period}"


def first_order(make: Callable[..., torch.optim.Optimizer], **options: Any) -> MakeStep:
    def build(network: nn.Module, problem: Problem) -> Step:
        optimizer = make(network.parameters(), lr=LR, **options)

        def step() -> None:
            optimizer.zero_grad()
            problem.loss(network)[0].backward()
            optimizer.step()

        return step

    return build


def curvature(rule: str, **options: Any) -> MakeStep:
    def build(network: nn.Module, problem: Problem) -> Step:
        optimizer = getattr(optimizers, rule)(network.parameters(), lr=LR, **options)
        return lambda: optimizer.step(lambda: problem.loss(network))

    return build


def peer(name: str, period: int, graph_period: int) -> MakeStep:
    """As documented: ``loss.backward(create_graph=True)``, then ``step``; with the graph every ``graph_period``."""

    def build(network: nn.Module, problem: Problem) -> Step:
        import pytorch_optimizer

        optimizer = getattr(pytorch_optimizer, name)(network.parameters(), lr=LR, update_period=period)
        steps = 0

        def step() -> None:
            nonlocal steps
            graph = steps % graph_period == 0
            steps += 1
            optimizer.zero_grad()
            # Fused attention has no double backward.
            with sdpa_kernel(SDPBackend.MATH) if graph else nullcontext():
                loss, _ = problem.loss(network)
            loss.backward(create_graph=graph)
            optimizer.step()

        return step

    return build


RULES = {
    "DiagHessian": ("hutchinson", "gnb"),
    "SADH": ("hutchinson", "gnb"),
    "SSDH": ("hutchinson", "gnb"),
    "SSVP": ("hvp", "hutchinson", "gnb"),
    "Sophia": ("hutchinson", "gnb"),
    "AdaHessian": ("hutchinson", "gnb"),
}
PEERS = {"AdaHessian": "AdaHessian", "Sophia": "SophiaH"}
EVERY, LAZY = "hutchinson, graph every step", "hutchinson, graph on refreshes"


def entries(network: str, compiled: bool) -> Iterator[Entry]:
    """The rows of one network's table, Adam's first."""
    yield Entry("torch Adam", "-", None, first_order(torch.optim.Adam))
    yield Entry("HessianLRAdaptation(Adam)", "-", None, first_order(optimizers.adapt_learning_rate))
    if network == "perceptron":
        yield Entry("SubsampledNewton, rate 0.01", "block", None, curvature("SubsampledNewton", sampling_rate=0.01))
    for rule, estimators in RULES.items():
        for estimator in estimators:
            for period in (1, PERIOD):
                same = PEERS.get(rule, "") if estimator == "hutchinson" else ""
                judged = period == PERIOD and estimator != "hvp" and network in JUDGED
                make = curvature(rule, estimator=estimator, update_period=period)
                yield Entry(rule, estimator, period, make, judged, same)
    for name in PEERS.values():
        yield Entry(f"pytorch_optimizer {name}", EVERY, 1, peer(name, 1, 1))
        yield Entry(f"pytorch_optimizer {name}", EVERY, PERIOD, peer(name, PERIOD, 1))
        yield Entry(f"pytorch_optimizer {name}", LAZY, PERIOD, peer(name, PERIOD, PERIOD))
    if network == "transformer":
        yield from variants(compiled)


def variants(compiled: bool) -> Iterator[Entry]:
    """Adam's and the rules' other ways to run."""
    for option in ("foreach", "fused"):
        yield Entry(f"torch Adam, {option}=True", "-", None, first_order(torch.optim.Adam, **{option: True}))
    for option in ("foreach", "compile") if compiled else ("foreach",):
        for rule in RULES:
            make = curvature(rule, estimator="hutchinson", update_period=PERIOD, **{option: True})
            yield Entry(f"{rule}, {option}=True", "hutchinson", PERIOD, make)

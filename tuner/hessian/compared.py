"""Estimators of the Hessian's diagonal are compared at equal measured cost, on a network as it is."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimizers import CurvatureOptimizer

Closure = Callable[[], tuple[Tensor, Tensor]]
"""The loss of one batch, and the outputs that it is of."""
Estimator = Mapping[str, Any]
"""A name with arguments, as ``optimizers.curvature.registry.find_estimator`` takes it."""

DRAWS = 20
MOST_SAMPLES = 100
BLOCK_S = 0.005
"""What is timed at a time takes some so long."""


class Look(CurvatureOptimizer):
    """Leaves the parameters as they are and keeps the curvature: every step is a refresh and a new draw."""

    def __init__(self, params: Iterable[nn.Parameter], closure: Closure, estimator: Estimator) -> None:
        super().__init__(params, {}, estimator=estimator)
        self.closure = closure

    @staticmethod
    def update(param: Tensor, grad: Tensor, curvature: Any, state: Any, hp: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return param, {"curvature": curvature}

    def draw(self) -> None:
        self.step(self.closure)

    def nominal(self) -> float:
        """Of one draw, in gradients, as the estimator itself counts it."""
        before = self.grad_equivalents
        self.draw()
        return self.grad_equivalents - before - 1.0

    def diagonal(self) -> Tensor:
        """All parameters' entries, in double precision; zero for a parameter that is not used."""
        self.draw()
        params = self.param_groups[0]["params"]
        each = [self.state[p]["curvature"] if self.state[p] else torch.zeros_like(p) for p in params]
        return torch.cat([entries.flatten() for entries in each]).double()


class Costs:
    """Measures what a draw costs beyond a step without curvature, in gradients: one forward, one backward pass.

    Args:
        rounds: turns of all that is measured together; costs are medians over them.

    Attributes:
        gradient_ms: what a gradient took, each time.
    """

    def __init__(self, params: Sequence[nn.Parameter], closure: Closure, rounds: int) -> None:
        self.params = params
        self.closure = closure
        self.rounds = rounds
        self.none = Look(params, closure, {"name": "none"})
        self.none.draw()
        self.repeats = max(1, round(BLOCK_S / self._seconds(self._gradient, 10)))
        self.gradient_ms: list[float] = []

    def _gradient(self) -> None:
        for param in self.params:
            param.grad = None
        self.closure()[0].backward()

    def _seconds(self, call: Callable[[], None], repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats

    def __call__(self, looks: Mapping[Any, Look]) -> dict[Any, float]:
        """What a draw of each costs."""
        for look in looks.values():
            look.draw()  # the first refresh looks the network over
        found: dict[Any, list[float]] = {key: [] for key in looks}
        for _ in range(self.rounds):
            for key, look in looks.items():
                gradient = self._seconds(self._gradient, self.repeats)
                none = self._seconds(self.none.draw, self.repeats)
                draw = self._seconds(look.draw, max(1, self.repeats // 4))
                self.gradient_ms.append(1e3 * gradient)
                found[key].append((draw - none) / gradient)
        return {key: statistics.median(values) for key, values in found.items()}


@dataclass(frozen=True)
class Row:
    """One estimator with so many samples.

    Attributes:
        budget: in gradients; ``None`` where there is nothing to sample.
        samples: ``None`` likewise.
        nominal, measured: cost in gradients.
        scores: per target, the relative error and the cosine, means over the draws.
    """

    budget: float | None
    name: str
    samples: int | None
    nominal: float
    measured: float
    scores: dict[str, tuple[float, float]]


class Comparison:
    """All estimators on one network.

    Args:
        params, closure: the network's parameters, and its loss and outputs.
        targets: exact diagonals by name, in double precision, all parameters' entries or those chosen.
        sampled, deterministic: the estimators by the names that they are shown by.
        rounds: of timing.
        chosen: the entries that are compared, (entries,); ``None`` for all.
    """

    def __init__(
        self,
        params: Sequence[nn.Parameter],
        closure: Closure,
        targets: Mapping[str, Tensor],
        sampled: Mapping[str, Estimator],
        deterministic: Mapping[str, Estimator],
        rounds: int,
        chosen: Tensor | None = None,
    ) -> None:
        self.params = params
        self.closure = closure
        self.targets = targets
        self.sampled = sampled
        self.deterministic = deterministic
        self.chosen = chosen
        self.costs = Costs(params, closure, rounds)

    def look(self, name: str, samples: int | None = None) -> Look:
        """An estimator with so many samples."""
        estimator = dict(self.sampled.get(name) or self.deterministic[name])
        return Look(self.params, self.closure, estimator | ({} if samples is None else {"samples": samples}))

    def row(self, budget: float | None, name: str, samples: int | None, measured: float) -> Row:
        """What an estimator is worth."""
        look = self.look(name, samples)
        draws = [self._entries(look.diagonal()) for _ in range(1 if samples is None else DRAWS)]
        scores = {
            target: (statistics.mean(error(d, exact) for d in draws), statistics.mean(cosine(d, exact) for d in draws))
            for target, exact in self.targets.items()
        }
        return Row(budget, name, samples, look.nominal(), measured, scores)

    def affordable(self, budgets: Sequence[float]) -> dict[tuple[float, str], tuple[int, float]]:
        """Per budget and estimator the most samples that it pays for, and what they were measured to cost."""
        few, many = 1, 5
        cost = self.costs({(name, n): self.look(name, n) for name in self.sampled for n in (few, many)})
        samples: dict[tuple[float, str], int] = {}
        for budget in budgets:
            for name in self.sampled:
                each = max((cost[name, many] - cost[name, few]) / (many - few), 1e-3)
                number = few + math.floor((budget - cost[name, few]) / each)
                samples[budget, name] = max(1, min(MOST_SAMPLES, number))
        found: dict[tuple[float, str], tuple[int, float]] = {}
        while samples:  # what turns out to cost more is taken back
            cost = self.costs({key: self.look(key[1], n) for key, n in samples.items()})
            over = {key for key in samples if cost[key] > key[0]}
            found |= {key: (n, cost[key]) for key, n in samples.items() if key not in over}
            samples = {key: samples[key] - max(1, samples[key] // 20) for key in over if samples[key] > 1}
        return found

    def rows(self, budgets: Sequence[float]) -> list[Row]:
        """Of all that do not draw, and of those that do what each budget pays for."""
        cost = self.costs({name: self.look(name) for name in self.deterministic})
        rows = [self.row(None, name, None, cost[name]) for name in self.deterministic]
        found = self.affordable(budgets)
        order = list(self.sampled)
        keys = sorted(found, key=lambda key: (key[0], order.index(key[1])))
        return rows + [self.row(budget, name, *found[budget, name]) for budget, name in keys]

    def nominal_row(self, name: str, budget: float) -> Row:
        """As many samples as the budget pays for at the nominal cost."""
        number = max(1, math.floor(budget / self.look(name, 1).nominal() + 1e-9))
        return self.row(budget, name, number, self.costs({0: self.look(name, number)})[0])

    def _entries(self, diagonal: Tensor) -> Tensor:
        return diagonal if self.chosen is None else diagonal[self.chosen]


def error(estimate: Tensor, target: Tensor) -> float:
    """The norm of the difference over that of the target."""
    return float((estimate - target).norm() / target.norm())


def cosine(estimate: Tensor, target: Tensor) -> float:
    return float(estimate @ target / (estimate.norm() * target.norm()))

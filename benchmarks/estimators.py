"""Compare the curvature estimators at equal cost: relative error and cosine against exact diagonals.

Run as `python -m benchmarks.estimators` from the repository root, on a machine with nothing else to do. The targets are
computed by brute force, without the estimators' code.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.exact_diagonals import GGN, HESSIAN, cosine, error, targets
from benchmarks.networks import Problem, setting
from optimizers import CurvatureOptimizer

BUDGETS = (1.0, 2.5, 8.0, 25.0)  # in gradients, beyond the step's own
DRAWS = 20
TRAINING_STEPS, TRAINING_LR = 500, 1e-3
MOST_SAMPLES = 100
LIMITS = {"ggn_mc": (0.7, 2.5), "ggn_exact": (1e-5, 8.0)}  # relative error at most, at that cost at most
INITIAL = "at initialisation"
SAMPLED: dict[str, tuple[dict[str, Any], str]] = {
    "hutchinson, Rademacher": ({"name": "hutchinson"}, HESSIAN),
    "hutchinson, Gaussian": ({"name": "hutchinson", "probe": "gaussian"}, HESSIAN),
    "gnb": ({"name": "gnb"}, GGN),
    "ggn_mc": ({"name": "ggn_mc"}, GGN),
}
DETERMINISTIC: dict[str, tuple[dict[str, Any], str]] = {
    "ggn_exact": ({"name": "ggn_exact"}, GGN),
    "exact": ({"name": "exact"}, HESSIAN),
}


class Look(CurvatureOptimizer):
    """Leaves the parameters as they are and keeps the curvature: every step is a refresh and a new draw."""

    def __init__(self, network: nn.Module, problem: Problem, estimator: dict[str, Any]) -> None:
        super().__init__(network.parameters(), {}, estimator=estimator)
        self.closure = lambda: problem.loss(network)

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
        self.draw()
        return torch.cat([self.state[p]["curvature"].flatten() for p in self.param_groups[0]["params"]]).double()


class Costs:
    """Measures what a draw costs beyond a step without curvature, in gradients: one forward, one backward pass.

    Args:
        rounds: turns of all that is measured together; costs are medians over them.
    """

    def __init__(self, problem: Problem, network: nn.Module, rounds: int) -> None:
        self.problem = problem
        self.network = network
        self.rounds = rounds
        self.none = Look(network, problem, {"name": "none"})
        self.none.draw()
        self.repeats = max(1, round(0.005 / self._seconds(self._gradient, 10)))  # blocks of some 5 ms
        self.gradient_ms: list[float] = []

    def _gradient(self) -> None:
        self.network.zero_grad()
        self.problem.loss(self.network)[0].backward()

    def _seconds(self, call: Callable[[], None], repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats

    def __call__(self, looks: dict[Any, Look]) -> dict[Any, float]:
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
        samples: ``None`` where there is nothing to sample.
        nominal, measured: cost in gradients.
        own: relative error and cosine against its own target, means over the draws.
        hessian: the same against the Hessian's diagonal.
    """

    budget: float | None
    name: str
    samples: int | None
    nominal: float
    measured: float
    target: str
    own: tuple[float, float]
    hessian: tuple[float, float]


class Comparison:
    """All estimators on one network with its weights as they are."""

    def __init__(self, problem: Problem, network: nn.Module, rounds: int) -> None:
        self.problem = problem
        self.network = network
        self.targets = targets(problem, network)
        self.costs = Costs(problem, network, rounds)
        self.floor = error(self.targets[GGN], self.targets[HESSIAN]), cosine(self.targets[GGN], self.targets[HESSIAN])

    def look(self, name: str, samples: int | None = None) -> Look:
        estimator, _ = (SAMPLED | DETERMINISTIC)[name]
        return Look(self.network, self.problem, estimator | ({} if samples is None else {"samples": samples}))

    def row(self, budget: float | None, name: str, samples: int | None, measured: float) -> Row:
        look = self.look(name, samples)
        _, target = (SAMPLED | DETERMINISTIC)[name]
        draws = [look.diagonal() for _ in range(1 if samples is None else DRAWS)]

        def means(exact: Tensor) -> tuple[float, float]:
            return statistics.mean(error(d, exact) for d in draws), statistics.mean(cosine(d, exact) for d in draws)

        scores = means(self.targets[target]), means(self.targets[HESSIAN])
        return Row(budget, name, samples, look.nominal(), measured, target, *scores)

    def affordable(self) -> dict[tuple[float, str], tuple[int, float]]:
        """Per budget and estimator the most samples that it pays for, and what they were measured to cost."""
        few, many = 1, 5
        cost = self.costs({(name, n): self.look(name, n) for name in SAMPLED for n in (few, many)})
        samples = {}
        for budget in BUDGETS:
            for name in SAMPLED:
                each = max((cost[name, many] - cost[name, few]) / (many - few), 1e-3)
                number = few + math.floor((budget - cost[name, few]) / each)
                samples[budget, name] = max(1, min(MOST_SAMPLES, number))
        found = {}
        while samples:  # what turns out to cost more is taken back
            cost = self.costs({key: self.look(key[1], n) for key, n in samples.items()})
            over = {key for key in samples if cost[key] > key[0]}
            found |= {key: (n, cost[key]) for key, n in samples.items() if key not in over}
            samples = {key: samples[key] - max(1, samples[key] // 20) for key in over if samples[key] > 1}
        return found

    def rows(self) -> list[Row]:
        cost = self.costs({"ggn_exact": self.look("ggn_exact")})
        # One draw of the exact diagonal takes as long as all the others together.
        once = Costs(self.problem, self.network, 1)
        cost |= once({"exact": self.look("exact")})
        rows = [self.row(None, name, None, cost[name]) for name in DETERMINISTIC]
        found = self.affordable()
        rows += [self.row(budget, name, *found[budget, name]) for budget, name in sorted(found, key=order)]
        return rows

    def nominal_row(self, name: str, budget: float) -> Row:
        """As many samples as the budget pays for at the nominal cost."""
        number = max(1, math.floor(budget / self.look(name, 1).nominal() + 1e-9))
        return self.row(budget, name, number, self.costs({0: self.look(name, number)})[0])


def order(key: tuple[float, str]) -> tuple[float, int]:
    return key[0], list(SAMPLED).index(key[1])


def train(problem: Problem, network: nn.Module) -> None:
    """For a while, on other batches."""
    optimizer = torch.optim.Adam(network.parameters(), lr=TRAINING_LR)
    for other in problem.batches(TRAINING_STEPS):
        optimizer.zero_grad()
        other.loss(network)[0].backward()
        optimizer.step()


def checks(comparison: Comparison, rows: list[Row]) -> list[tuple[bool, str]]:
    """The limits, by measured and by nominal cost: whether each is met, and a sentence."""
    found = []
    for name, (worst, budget) in LIMITS.items():
        measured = [r for r in rows if r.name == name and r.budget in (None, budget)]
        nominal = measured if name in DETERMINISTIC else [comparison.nominal_row(name, budget)]
        for kind, candidates in (("measured", measured), ("nominal", nominal)):
            met = [r for r in candidates if r.own[0] < worst and getattr(r, kind) <= budget]
            seen = "; ".join(
                f"{number(r.own[0])} with {r.samples or 'no'} samples at {number(r.nominal)} gradients nominal, "
                f"{number(r.measured)} measured"
                for r in candidates
            )
            claim = f"{name} has a relative error under {worst:g} for at most {budget:g} gradients by {kind} cost"
            found.append((bool(met), f"{claim}: {seen or 'the budget pays for no sample'}"))
    return found


def number(value: float) -> str:
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"


def table(rows: list[Row]) -> list[str]:
    lines = [
        "| budget | estimator | samples | nominal cost | measured cost | target | error | cosine | error, Hessian "
        "| cosine, Hessian |",
        "| ---: | --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = [f"{row.budget:g}" if row.budget else "any", row.name, row.samples or "-"]
        cells += [number(row.nominal), number(row.measured), row.target]
        cells += [number(row.own[0]), f"{row.own[1]:.2f}", number(row.hessian[0]), f"{row.hessian[1]:.2f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


NOTES = f"""\
The relative error of an estimate h is ||h - target|| / ||target||, over all parameters of the network; error and cosine
are means over {DRAWS} draws, in float32, against targets computed by brute force in float64. Each estimator is compared
with what it estimates, the diagonal of the Hessian or of the generalised Gauss-Newton matrix (GGN), and in the last two
columns with the Hessian's. "The GGN itself" below each title is how far apart the two are: no Gauss-Newton estimator
comes closer to the Hessian, except by chance. Where a network is not at its initialisation it has {TRAINING_STEPS}
steps of Adam behind it, at {TRAINING_LR:g}. Curvature is that of one batch of its own data, in training mode.

Costs are in gradients (one forward and one backward pass), beyond the gradient that the step takes anyway. The nominal
cost is what the estimator itself counts: 2 for a Hessian-vector product, 2/3 for a backward pass. The measured cost is
the time of a refresh less that of a step without curvature, over that of a gradient, the median of several rounds; the
first refresh, which looks the network over, is not in it. A budget pays for as many samples as fit it by measured cost,
at most {MOST_SAMPLES}; an estimator that is missing costs more than that with one sample. On networks as
small as these a large part of every measured cost is the overhead of calls: on the perceptron a whole gradient is some
twenty calls on tensors of a few thousand entries.

`ggn_mc` and `ggn_exact` treat the samples of a batch as independent. In training mode BatchNorm makes every sample's
loss depend on the others' inputs, so that on the BatchNorm network both are approximations by nature: the error of
`ggn_exact` there is that of the approximation alone, and more samples of `ggn_mc` do not get below it. `gnb` takes the
coupling in and has no such limit."""

PROBLEMS: dict[str, tuple[Callable[[], Problem], tuple[str, ...]]] = {
    "perceptron": (networks.mnist1d, (INITIAL, "trained")),
    "convolutional": (networks.small_cnn, ("trained",)),
    "batchnorm": (networks.batch_norm_cnn, ("trained",)),
    "attention": (networks.small_transformer, ("trained",)),
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser("benchmarks.estimators", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--threads", type=int, metavar="N", help="of PyTorch (default: its own choice)")
    parser.add_argument("--rounds", type=int, default=15, metavar="R", help="timings of each cost (default: 15)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the tables there, in Markdown")
    args = parser.parse_args()
    if args.rounds < 1 or (args.threads or 1) < 1:
        parser.error("--rounds and --threads must be at least 1")
    if args.threads:
        torch.set_num_threads(args.threads)
    command = " ".join(["python -m benchmarks.estimators", *sys.argv[1:]])
    lines = ["# Curvature estimators at equal cost", "", f"Written by `{command}`.", ""]
    lines += [f"- {line}" for line in setting("cpu")] + ["", NOTES]
    checked: list[tuple[bool, str]] = []
    for name, (make, states) in PROBLEMS.items():
        problem = make()
        network = problem.network()
        for state in states:
            started = time.perf_counter()
            torch.manual_seed(0)
            if state == "trained":
                train(problem, network)
            comparison = Comparison(problem, network, args.rounds)
            rows = comparison.rows()
            if state == INITIAL:
                checked = checks(comparison, rows)
            when = f"after {TRAINING_STEPS} steps of Adam" if state == "trained" else state
            lines += ["", f"## {problem.title[0].upper()}{problem.title[1:]}, {when}", ""]
            lines += [
                f"A gradient takes {statistics.median(comparison.costs.gradient_ms):.3g} ms. The GGN itself against"
                f" the Hessian: error {number(comparison.floor[0])}, cosine {comparison.floor[1]:.2f}.",
                "",
            ]
            lines += table(rows)
            say(f"{name}, {state}: {time.perf_counter() - started:.0f} s")
    lines += ["", "## Checks, on the perceptron at its initialisation", ""]
    lines += [f"- {'met' if met else 'NOT MET'}: {text}" for met, text in checked]
    text = "\n".join(lines)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    return 0 if all(met for met, _ in checked) else 1


if __name__ == "__main__":
    sys.exit(main())

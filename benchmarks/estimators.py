"""Compare the curvature estimators at equal cost: relative error and cosine against exact diagonals.

Run as `python -m benchmarks.estimators` from the repository root, on a machine with nothing else to do. The targets are
computed by brute force, without the estimators' code.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks import networks
from benchmarks.exact_diagonals import GGN, HESSIAN, targets
from benchmarks.networks import Problem, setting
from tuner.hessian import along
from tuner.hessian.along import DETERMINISTIC
from tuner.hessian.compared import DRAWS, MOST_SAMPLES, Comparison, Row, cosine, error

BUDGETS = (1.0, 2.5, 8.0, 25.0)  # in gradients, beyond the step's own
TRAINING_STEPS, TRAINING_LR = 500, 1e-3
INITIAL = "at initialisation"
SAMPLED = {
    "hutchinson, Rademacher": along.SAMPLED["hutchinson"],
    "hutchinson, Gaussian": {"name": "hutchinson", "probe": "gaussian"},
    **{name: estimator for name, estimator in along.SAMPLED.items() if name != "hutchinson"},
}
GAUSS_NEWTON = ("gnb", "ggn_mc", "ggn_exact")
"""What they estimate is the GGN's diagonal."""
Limit = tuple[str, str, str, float, float]
"""Problem, estimator, target; a relative error, and the cost in gradients for which it is to be at most that."""
LIMITS: tuple[Limit, ...] = (
    ("perceptron", "ggn_mc", GGN, 0.7, 2.5),
    ("perceptron", "ggn_exact", GGN, 1e-5, 8.0),
    ("tanh, one hidden layer", "hessian_mc", HESSIAN, 0.3, 8.0),
    ("tanh, two hidden layers", "hessian_mc", HESSIAN, 0.5, 8.0),
)


def train(problem: Problem, network: nn.Module) -> None:
    """For a while, on other batches."""
    optimizer = torch.optim.Adam(network.parameters(), lr=TRAINING_LR)
    for other in problem.batches(TRAINING_STEPS):
        optimizer.zero_grad()
        other.loss(network)[0].backward()
        optimizer.step()


def checks(name: str, comparison: Comparison, rows: list[Row]) -> list[tuple[bool, str]]:
    """The limits, by measured and by nominal cost: whether each is met, and a sentence."""
    found = []
    for problem, estimator, target, worst, budget in LIMITS:
        if problem != name:
            continue
        measured = [r for r in rows if r.name == estimator and r.budget in (None, budget)]
        nominal = measured if estimator in DETERMINISTIC else [comparison.nominal_row(estimator, budget)]
        for kind, candidates in (("measured", measured), ("nominal", nominal)):
            met = [r for r in candidates if r.scores[target][0] < worst and getattr(r, kind) <= budget]
            seen = "; ".join(
                f"{number(r.scores[target][0])} with {r.samples or 'no'} samples at {number(r.nominal)} gradients "
                f"nominal, {number(r.measured)} measured"
                for r in candidates
            )
            claim = (
                f"{problem}: {estimator} has a relative error to the {target} under {worst:g} for at most {budget:g} "
                f"gradients by {kind} cost"
            )
            found.append((bool(met), f"{claim}: {seen or 'the budget pays for no sample'}"))
    return found


def number(value: float) -> str:
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"


def table(rows: list[Row]) -> list[str]:
    lines = [
        "| budget | estimator | samples | nominal cost | measured | error, Hessian | cosine, Hessian | error, GGN |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        (worst, angle), (of_ggn, _) = row.scores[HESSIAN], row.scores[GGN]
        cells = [f"{row.budget:g}" if row.budget else "any", row.name, row.samples or "-"]
        cells += [number(row.nominal), number(row.measured), number(worst), f"{angle:.2f}"]
        cells.append(number(of_ggn) if row.name in GAUSS_NEWTON else "")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


NOTES = f"""\
The relative error of an estimate h is ||h - target|| / ||target||, over all parameters of the network; error and cosine
are means over {DRAWS} draws, in float32, against targets computed by brute force in float64. Each estimator is compared
with the Hessian's diagonal; those that estimate the diagonal of the generalised Gauss-Newton matrix (GGN), in the last
column, with that too. "The GGN itself" below each title is how far apart the two are: what no Gauss-Newton estimator
can see of this Hessian. Where a network is not at its initialisation it has {TRAINING_STEPS} steps of Adam behind it,
at {TRAINING_LR:g}. Curvature is that of one batch of its own data, in training mode.

Costs are in gradients (one forward and one backward pass), beyond the gradient that the step takes anyway. The nominal
cost is what the estimator itself counts: 2 for a Hessian-vector product, 2/3 for a backward pass. The measured cost is
the time of a refresh less that of a step without curvature, over that of a gradient, the median of several rounds; the
first refresh, which looks the network over, is not in it. A budget pays for as many samples as fit it by measured cost,
at most {MOST_SAMPLES}; an estimator that is missing costs more than that with one sample. On networks as
small as these a large part of every measured cost is the overhead of calls: on the perceptron a whole gradient is some
twenty calls on tensors of a few thousand entries.

`hessian_mc` is unbiased for the whole Hessian's diagonal wherever a network does not normalise over its batch; with
`carried` what Gauss-Newton misses is added without chance, exactly up to two hidden layers and approximately beyond;
`hesscale` carries the whole diagonal so. All but `hutchinson` and `gnb` treat the samples of a batch as independent. In
training mode BatchNorm makes every sample's loss depend on the others' inputs, so that on the BatchNorm network they
are approximations by nature: the error of `ggn_exact` there is that of the approximation alone, and more samples of
`ggn_mc` and `hessian_mc` do not get below it. `gnb` takes the coupling in and has no such limit."""

PROBLEMS: dict[str, tuple[Callable[[], Problem], tuple[str, ...]]] = {
    "perceptron": (networks.mnist1d, (INITIAL, "trained")),
    "tanh, one hidden layer": (partial(networks.smooth_perceptron, nn.Tanh, 32), (INITIAL, "trained")),
    "tanh, two hidden layers": (partial(networks.smooth_perceptron, nn.Tanh, 16, 16), (INITIAL, "trained")),
    "tanh, four hidden layers": (partial(networks.smooth_perceptron, nn.Tanh, 12, 12, 12, 12), (INITIAL, "trained")),
    "GELU, four hidden layers": (partial(networks.smooth_perceptron, nn.GELU, 12, 12, 12, 12), (INITIAL, "trained")),
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
    parser.add_argument("--only", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), help="of the networks")
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
    for name in args.only:
        make, states = PROBLEMS[name]
        for state in states:
            started = time.perf_counter()
            found, of_this = section(name, make(), state, args.rounds)
            lines += found
            checked += of_this
            say(f"{name}, {state}: {time.perf_counter() - started:.0f} s")
    lines += ["", "## Checks, of networks at their initialisation", ""]
    lines += [f"- {'met' if met else 'NOT MET'}: {text}" for met, text in checked]
    text = "\n".join(lines)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    return 0 if all(met for met, _ in checked) else 1


def section(name: str, problem: Problem, state: str, rounds: int) -> tuple[list[str], list[tuple[bool, str]]]:
    """One network in one state: a table, and what is demanded of it."""
    network = problem.network()
    torch.manual_seed(0)
    if state == "trained":
        train(problem, network)
    exact = targets(problem, network)
    closure, params = partial(problem.loss, network), list(network.parameters())
    comparison = Comparison(params, closure, exact, SAMPLED, DETERMINISTIC, rounds)
    rows = comparison.rows(BUDGETS)
    when = f"after {TRAINING_STEPS} steps of Adam" if state == "trained" else state
    gradient = statistics.median(comparison.costs.gradient_ms)
    lines = [
        *("", f"## {problem.title[0].upper()}{problem.title[1:]}, {when}", ""),
        f"A gradient takes {gradient:.3g} ms. The GGN itself against the Hessian: error "
        f"{number(error(exact[GGN], exact[HESSIAN]))}, cosine {cosine(exact[GGN], exact[HESSIAN]):.2f}.",
        *("", *table(rows)),
    ]
    return lines, checks(name, comparison, rows) if state == INITIAL else []


if __name__ == "__main__":
    sys.exit(main())

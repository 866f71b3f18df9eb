"""The protocol of HesScale's paper: L1 errors of cheap estimates of the Hessian's diagonal on small networks.

Run as `python -m benchmarks.hesscale --out docs/hesscale.md` from the repository root. Networks, inputs and labels are
as in the authors' own experiment: 6-16-16-16-10 with tanh, PyTorch's initialisation, normal inputs, random labels, one
example at a time. Where their package is installed (github.com/mohmdelsayed/HesScale, on BackPACK), it is measured on
the same examples.

Source: Elsayed, Farrahi, Dangel, Mahmood, "Revisiting scalable Hessian diagonal approximations for applications in
reinforcement learning", 2024 (arXiv 2406.03276), section 3.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian, vmap

from benchmarks.networks import setting
from tuner.hessian.compared import Look

SIZES, SEEDS, EXAMPLES = (6, 16, 16, 16, 10), 40, 25
OURS: dict[str, dict[str, Any]] = {
    "hesscale": {"name": "hesscale"},
    "ggn_exact, residual carried": {"name": "ggn_exact", "residual": "carried"},
    "ggn_mc, residual carried, 1 sample": {"name": "ggn_mc", "residual": "carried"},
    "hessian_mc, 1 sample": {"name": "hessian_mc"},
    "hessian_mc, 50 samples": {"name": "hessian_mc", "samples": 50},
    "ggn_exact": {"name": "ggn_exact"},
    "ggn_mc, 1 sample": {"name": "ggn_mc"},
    "ggn_mc, 50 samples": {"name": "ggn_mc", "samples": 50},
    "hutchinson (AdaHessian's), 1 sample": {"name": "hutchinson"},
    "hutchinson (AdaHessian's), 50 samples": {"name": "hutchinson", "samples": 50},
}
SQUARE = "the squared gradient"
THEIRS = "HesScale's own package"
NOTES = f"""\
The paper's experiment on the quality of approximations: a perceptron {"-".join(map(str, SIZES))} with tanh and
PyTorch's initialisation, inputs drawn from a normal distribution and labels at random, and the cross-entropy of one
example at a time. The L1 error is the sum of |estimate - Hessian's diagonal| over all parameters, against the Hessian
by brute force in float64, here the mean over {SEEDS} seeds of network and data with {EXAMPLES} examples each (the
authors: 40 seeds of 1,000); beside it the standard error over the seeds, and the error over that of `hesscale`.

The paper's order, from its figure: HesScale has the least error of all cheap approximations, those of Gauss-Newton come
next, and Hutchinson's (AdaHessian's) and the squared gradient are worst."""


def network(seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, inputs and labels of a seed."""
    torch.manual_seed(seed)
    layers = [layer for a, b in pairwise(SIZES) for layer in (nn.Linear(a, b), nn.Tanh())]
    inputs = torch.randn(EXAMPLES, SIZES[0])
    return nn.Sequential(*layers[:-1]), inputs, torch.randint(SIZES[-1], (EXAMPLES,))


def exact(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """The Hessian's diagonal at each example, (examples, parameters)."""
    params = {name: param.detach().double() for name, param in model.named_parameters()}
    sizes = [param.numel() for param in params.values()]

    def loss(flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
        parts = zip(params.items(), flat.split(sizes), strict=True)
        given = {name: part.view_as(param) for (name, param), part in parts}
        return nn.functional.cross_entropy(functional_call(model, given, (x[None],)), y[None])

    flat = torch.cat([param.flatten() for param in params.values()])
    own: Callable[..., Tensor] = vmap(lambda x, y: hessian(loss)(flat, x, y).diagonal())
    return own(inputs.double(), labels)


def errors(seed: int) -> Iterator[tuple[str, float]]:
    """The mean L1 error of each method."""
    model, inputs, labels = network(seed)
    target = exact(model, inputs, labels)
    found: dict[str, list[Tensor]] = {name: [] for name in (*OURS, SQUARE)}
    place = 0

    def closure() -> tuple[Tensor, Tensor]:
        outputs = model(inputs[place : place + 1])
        return nn.functional.cross_entropy(outputs, labels[place : place + 1]), outputs

    looks = {name: Look(model.parameters(), closure, estimator) for name, estimator in OURS.items()}
    for place in range(EXAMPLES):  # noqa: B007
        for name, look in looks.items():
            found[name].append(look.diagonal())
        gradient = torch.cat([param.grad.flatten() for param in model.parameters() if param.grad is not None])
        found[SQUARE].append(gradient.double().square())
    if (theirs := their_diagonals(model, inputs, labels)) is not None:
        found[THEIRS] = theirs
    for name, estimates in found.items():
        yield name, float((torch.stack(estimates) - target).abs().sum(1).mean())


def their_diagonals(model: nn.Module, inputs: Tensor, labels: Tensor) -> list[Tensor] | None:
    """By the authors' package; ``None`` where that is not installed."""
    try:
        from backpack import backpack, extend
        from hesscale import HesScale
    except ImportError:
        return None
    twin, criterion = extend(nn.Sequential(*model)), extend(nn.CrossEntropyLoss())
    found = []
    for x, y in zip(inputs.split(1), labels.split(1), strict=True):
        with backpack(HesScale()):
            criterion(twin(x), y).backward()
        found.append(torch.cat([param.hesscale.flatten() for param in twin.parameters()]).double())
    return found


def main() -> int:
    parser = argparse.ArgumentParser("benchmarks.hesscale", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=f"of networks (default: {SEEDS})")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there, in Markdown")
    args = parser.parse_args()
    by_name: dict[str, list[float]] = {}
    for seed in range(args.seeds):
        for name, value in errors(seed):
            by_name.setdefault(name, []).append(value)
    text = "\n".join(page(by_name))
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    others = ("hutchinson (AdaHessian's), 1 sample", "ggn_mc, 1 sample", SQUARE, "ggn_exact")
    best = min(statistics.mean(by_name[name]) for name in others)
    return 0 if statistics.mean(by_name["hesscale"]) < best else 1


def page(by_name: dict[str, list[float]]) -> list[str]:
    """The table."""
    command = " ".join(["python -m benchmarks.hesscale", *sys.argv[1:]])
    lines = ["# HesScale's protocol", "", f"Written by `{command}`.", "", *(f"- {line}" for line in setting("cpu")), ""]
    lines += [NOTES, "", "| estimate | L1 error | standard error | over hesscale's |", "| --- | ---: | ---: | ---: |"]
    reference = statistics.mean(by_name["hesscale"])
    for name, values in sorted(by_name.items(), key=lambda item: statistics.mean(item[1])):
        mean, error = statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5
        lines.append(f"| {name} | {mean:.4g} | {error:.2g} | {mean / reference:.2f} |")
    if THEIRS not in by_name:
        lines += ["", f"{THEIRS} was not installed."]
    return lines


if __name__ == "__main__":
    sys.exit(main())

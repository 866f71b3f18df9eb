"""Count what a training step of every optimizer asks of a GPU: kernel launches, synchronisations, memory.

Run as `python -m benchmarks.launches` from the repository root. It needs no GPU, and counts on the null GPU of the
tests (tests/null_gpu), PyTorch's own CUDA code on a GPU that computes nothing: with gcc and the CUDA build of PyTorch.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks import roofline
from tests.null_gpu.build import UnavailableError, environment

PERIOD = 10
WARM = 4 * PERIOD  # steps before those that are counted: in the first ones a stack records what it replays
CAPTURED_WARM = 40  # rounds of a refresh and what follows: of each kind of step the first ones are compared
TASKS = {"mnist1d": "fp32", "cifar_cnn": "tf32", "resnet18": "tf32", "transformer": "fp32"}
STACKS = (4, 32)
CURVED = ("sophia", "diag_hessian", "adahessian", "sadh", "ssdh", "ssvp")
NOT_COUNTED = {
    "subsampled_newton": "its Hessian blocks do not fit beside a larger network",
    "shampoo": "its roots of matrices are solved in steps of their own",
    "soap": "its eigenvectors are found in steps of their own",
}

NOTES = """\
A step on a GPU is as long as its kernels or as their launches, some 5 us each, whichever is longer: for small networks
the launches. Plain is a step between refreshes, refresh one that estimates curvature; "x Adam" is the mean over
{period} steps, one of them a refresh, over Adam's step; captured is the same mean where steps are CUDA graphs
(`train.capture`), where they can be, of which each is one launch. Waits are the times that a step (plain and refresh
together) waited for the device. Memory is the highest over both, all that is on the device included. Optimizers are as
shipped, but for an update_period of {period} and the estimator that is named; torch.optim's run their foreach kernels,
and in a graph the fused ones of those that have some. Precision is fp32 on {fp32}, tf32 on {tf32}.
Not counted:

{left_out}
"""


@dataclass
class Row:
    """An optimizer, and what was counted.

    Attributes:
        arguments: in place of those of its YAML file.
        members: of a stack; 1 for a run alone.
        counted: plain, refresh, mean launches, waits, MB.
        captured: mean launches where steps are CUDA graphs.
        failed: why there is nothing.
    """

    optimizer: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    members: int = 1
    counted: tuple[int, int, float, int, float] | None = None
    captured: float = 0.0
    failed: str = ""

    @property
    def estimator(self) -> str:
        return str(self.arguments.get("estimator", "-"))


def rows() -> Iterator[Row]:
    """All shipped optimizers, Adam first; those with curvature with the estimators that a search may choose."""
    yield Row("adam")
    for optimizer in CURVED:
        estimators = ["hutchinson", "gnb", *{"sophia": ("ggn_mc",), "ssvp": ("hvp",)}.get(optimizer, ())]
        for estimator in estimators:
            yield Row(optimizer, {"estimator": estimator, "update_period": PERIOD})
    for optimizer in shipped():
        if optimizer not in ("adam", *CURVED, *NOT_COUNTED):
            yield Row(optimizer)


def stack_rows(members: int) -> Iterator[Row]:
    yield Row("adam", members=members)
    for optimizer in ("sophia", "diag_hessian"):
        for estimator in ("hutchinson", "gnb", "ggn_mc"):
            yield Row(optimizer, {"estimator": estimator, "update_period": PERIOD}, members)
    yield Row("rmsprop", members=members)


def shipped() -> list[str]:
    folder = Path(__file__).resolve().parent.parent / "configs" / "optimizers"
    return sorted(path.stem for path in folder.glob("*.yaml"))


def count(task: str, row: Row) -> None:
    """Fill in what was counted."""
    from tests.null_gpu.runs import steps_of
    from tuner.training.engine import Engine

    gc.collect()
    torch.cuda.empty_cache()
    period = row.arguments.get("update_period", 1)
    both = (Engine(precision=TASKS[task], capture=capture) for capture in ("off", "auto"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what cannot be captured is seen in its count
            steps, captured = (
                steps_of(task, row.optimizer, row.arguments, engine, members=row.members, warm=rounds)
                for engine, rounds in zip(both, (WARM // period, CAPTURED_WARM), strict=True)
            )
    except (RuntimeError, ImportError, AssertionError) as error:
        row.failed = str(error).partition("\n")[0][:100]
        return
    waits = steps.refresh.synchronisations + steps.plain.synchronisations * (steps.plain is not steps.refresh)
    row.captured = captured.mean_launches
    row.counted = steps.plain.launches, steps.refresh.launches, steps.mean_launches, waits, steps.peak_mb


def table(counted: Sequence[Row]) -> list[str]:
    lines = [
        "| optimizer | estimator | plain | refresh | mean | x Adam | captured | waits | MB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    assert counted[0].counted is not None, counted[0].failed
    adam = counted[0].counted[2]
    for row in counted:
        name = f"| {row.optimizer} | {row.estimator}"
        if row.counted is None:
            lines.append(f"{name} | - | - | - | - | - | - | - |")
            continue
        plain, refresh, mean, waits, memory = row.counted
        means = f"{mean:.1f} | {mean / adam:.2f} | {row.captured:.1f}"
        lines.append(f"{name} | {plain} | {refresh} | {means} | {waits} | {memory:.0f} |")
    failed = [f"{row.optimizer}: {row.failed}." for row in counted if row.counted is None]
    return [*lines, *(["", *failed] if failed else [])]


def sections(tasks: Sequence[str]) -> Iterator[str]:
    means: dict[tuple[str, str, str], tuple[float, float]] = {}
    for task in tasks:
        counted = list(rows())
        for row in counted:
            count(task, row)
            print(f"{task} {row.optimizer} {row.estimator}: {row.counted or row.failed}", file=sys.stderr, flush=True)
        yield "\n".join(["", f"## {task}", "", *table(counted)])
        for row in filter(lambda row: row.counted, counted):
            means[task, row.optimizer, row.estimator] = row.counted[2], row.captured
    for members in STACKS if "mnist1d" in tasks else ():
        counted = list(stack_rows(members))
        for row in counted:
            count("mnist1d", row)
        yield "\n".join(["", f"## mnist1d, a stack of {members}", "", *table(counted)])
    if {whole.task for whole in roofline.WHOLES} <= {*tasks}:
        yield "\n".join(["", *roofline.section(means, TASKS)])


def heading() -> list[str]:
    left_out = "\n".join(f"- {name}: {why}" for name, why in NOT_COUNTED.items())
    by_precision = {kind: " and ".join(t for t, own in TASKS.items() if own == kind) for kind in ("fp32", "tf32")}
    command = " ".join(["python -m benchmarks.launches", *sys.argv[1:]])
    written = f"Written by `{command}` on the null GPU of the tests, with torch {version('torch')}: counts, not times."
    return ["# Launches of a training step on a GPU", "", written, "", NOTES.format(
        period=PERIOD, left_out=left_out, **by_precision
    ).rstrip()]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser("benchmarks.launches", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: all")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the tables there, in Markdown")
    args = parser.parse_args()
    if "NULL_GPU" not in os.environ:
        try:
            null_gpu = environment()
        except UnavailableError as why:
            print(f"nothing is counted: {why}", file=sys.stderr)
            return 2
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.launches", *sys.argv[1:]], os.environ | null_gpu)
    text = heading()
    print("\n".join(text))
    for section in sections(args.tasks):
        print(section, flush=True)
        text.append(section)
    if args.out:
        args.out.write_text("\n".join(text) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

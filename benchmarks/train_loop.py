"""Time this project's training loop against loops written by hand in plain PyTorch, task by task.

Run as `python -m benchmarks.train_loop` from the repository root, on a machine with nothing else to do. The two loops
of a task take turns, and each turn of one is compared with the other's beside it. Before any time is reported, both
are checked to train the same. With `--device cuda` it also times epochs of the image tasks in each precision.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.loop_subjects import CASES, CHECKED_STEPS, SEED, BenchmarkError, Subject, configured, prepare
from benchmarks.networks import setting
from benchmarks.plain_loops import OPTIMIZERS
from tasks.base import Task
from tuner.errors import UserError
from tuner.training import build
from tuner.training.engine import Engine
from tuner.training.single import MakeOptimizer, Trainer

LIMITS = {"bare": 0.95, "whole": 0.9}  # least throughput, of the hand-written loop's
FEWEST_ROUNDS = 3
EPOCHS_OF = ("resnet18", "cifar_cnn")  # timed on a GPU
PRECISIONS = ("fp32", "tf32", "bf16")
WARM_UP_STEPS = 10


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        plain: seconds of a step in the loop written by hand, of each round.
        throughput: "bare" and "whole" -> this project's over the hand-written loop's, of each round.
    """

    subject: Subject
    plain: list[float]
    throughput: dict[str, list[float]]

    def failures(self) -> list[str]:
        """What is too slow, a sentence each."""
        medians = {kind: statistics.median(values) for kind, values in self.throughput.items()}
        return [
            f"{self.subject.title}, {kind}: {medians[kind]:.3f}, expected at least {limit}"
            for kind, limit in LIMITS.items()
            if medians[kind] < limit
        ]


def measure(subject: Subject, seconds: float) -> Row:
    """Let both loops take turns for so long; each begins every other round."""
    row = Row(subject, [], {kind: [] for kind in LIMITS})
    started = time.perf_counter()
    subject.check()
    while time.perf_counter() - started < seconds or len(row.plain) < FEWEST_ROUNDS:
        if len(row.plain) % 2:
            bare, whole = subject.ours()
            plain = subject.plain()
        else:
            plain = subject.plain()
            bare, whole = subject.ours()
        row.plain.append(plain / subject.steps)
        row.throughput["bare"].append(plain / bare)
        row.throughput["whole"].append(plain / whole)
    say(f"{subject.title}: {len(row.plain)} rounds in {time.perf_counter() - started:.0f} s")
    return row


def table(rows: list[Row]) -> list[str]:
    lines = [
        "| task | data | optimizer | timed | rounds | by hand, ms/step | bare | lowest to highest | whole | lowest to "
        "highest |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        of = row.subject
        timed = "whole runs" if of.timed == of.full else f"{of.recipe.steps} steps"
        cells = [of.name, of.data, of.recipe.optimizer, f"{timed} of batch {of.task.batch_size}"]
        cells += [str(len(row.plain)), f"{1e3 * statistics.median(row.plain):.3g}"]
        for values in row.throughput.values():
            cells += [f"{statistics.median(values):.3f}", f"{min(values):.2f} to {max(values):.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


# Epochs on a GPU.


def epochs_table(name: str, device: str, data_dir: Path | None, settings: tuple[str, ...] = ()) -> list[str]:
    """Seconds of an epoch in each way to run the model, as the training clock counts them.

    Args:
        settings: further ``key=value`` of the task's configuration.
    """
    config = configured(name, "adam", device, data_dir, settings)
    task = build.make_task(config)
    build.set_up(task, config)
    make, hp = build.optimizer_maker("adam", config.optimizers["adam"]), config.optimizers["adam"].first_point()
    images, width = len(task.splits["train"][0]), config.task.args["width"]
    lines = [
        f"{name} of width {width} on {task.data_summary['name']}, {images:,} training images, batch {task.batch_size}:",
        "",
        "| precision | model | memory format | s/epoch | images/s |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    for precision, compiled, channels_last in itertools.product(PRECISIONS, (False, True), (False, True)):
        engine = Engine(precision=precision, compile=compiled, channels_last=channels_last)  # type: ignore[arg-type]
        seconds = seconds_per_epoch(task, make, hp, engine)
        cells = [precision, "compiled" if compiled else "eager", "channels last" if channels_last else "usual"]
        lines.append("| " + " | ".join([*cells, f"{seconds:.3g}", f"{images / seconds:,.0f}"]) + " |")
        say(f"{name}: {lines[-1]}")
    return lines


def seconds_per_epoch(task: Task, make: MakeOptimizer, hp: dict[str, Any], engine: Engine) -> float:
    """Of an epoch after steps that warm up, an incomplete last batch among them: it may be compiled for itself."""
    torch.compiler.reset()
    with engine.settings():
        trainer = Trainer(task, make, hp, SEED, engine, epochs=2)
        first = list(itertools.islice(task.batches(SEED, 0), WARM_UP_STEPS))
        last = deque(task.batches(SEED, 0), maxlen=1)[0]
        warm_up: Iterator[Any] = iter([*first, last, first[0]])
        trainer.take_steps(warm_up, len(first) + 2)
        if task.device.type == "cuda":
            torch.cuda.synchronize()
        before = trainer.seconds[0]
        trainer.take_steps(iter(task.batches(SEED, 1)), trainer.steps + task.steps_per_epoch)
        if not trainer.active:
            raise BenchmarkError(f"an epoch of {type(task).__name__} diverged with {engine}")
        return trainer.seconds[0] - before


NOTES = """\
By hand: the same network from the same weights, rows already on the device, torch.randperm once an epoch, forward,
backward and step, the schedule and the clipping of the task's default preset, and no look at a loss before the end.
Images are scaled once, or cropped, mirrored and normalised batch by batch where the preset says so. A loop that is
given all rows in every batch shuffles nothing. Before the measurement both loops take {steps} steps on the same
batches and must come to the same loss.

"bare" is the throughput of this project's training steps, by its training clock, over that of the loop by hand: 1 is
as fast, at least {bare} is demanded. "whole" is that of a whole retraining run of the default preset: the network's
construction, every evaluation, that of the test split among them, and the record that a worker keeps; at least {whole}
is demanded. "whole runs" were timed as they are. Of the larger tasks a round is an epoch of as many steps as stated, of
the default preset's network and batch size on a fixed part of the rows, and the whole run is put together from its
steps and from the time of an evaluation per row, for all rows of the data that is named.

Both figures are medians over rounds; a round is one turn of each loop, right after the other. Both use one thread."""
GPU_NOTES = """\
Seconds of one epoch with Adam by the training clock, evaluation not counted, after {warm_up} steps that warm up and
compile. Compiled means `train.compile`, channels last `train.channels_last`."""


def verdict(rows: list[Row]) -> list[str]:
    claim = f"bare throughput at least {LIMITS['bare']} of the loop's by hand, whole at least {LIMITS['whole']}"
    bad = [failure for row in rows for failure in row.failures()]
    return [f"Met: {claim}."] if not bad else [f"NOT MET: {claim}. These do not:", "", *(f"- {line}" for line in bad)]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.train_loop", description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    add("--tasks", nargs="+", choices=CASES, default=list(CASES), help="default: all")
    add("--optimizers", nargs="+", choices=OPTIMIZERS, default=["adam"], help="default: adam")
    add("--seconds", type=float, default=25.0, metavar="S", help="of turns, for each task and optimizer (default: 25)")
    add("--data-dir", type=Path, metavar="DIR", help="CIFAR-10 for the image tasks (default: scikit-learn's digits)")
    add("--text-dir", type=Path, metavar="DIR", help="text for the transformer (default: Python's own source)")
    add("--epochs-only", action="store_true", help="on a GPU: time its epochs and leave out the loops by hand")
    add("--out", type=Path, metavar="FILE", help="write the tables there, in Markdown")
    return parser


def main() -> int:
    parser = make_parser()
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU")
    if args.epochs_only and args.device == "cpu":
        parser.error("--epochs-only: needs --device cuda")
    try:
        return run(args)
    except (BenchmarkError, UserError) as error:
        say(f"error: {error}")
        return 2


def run(args: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    folders = {name: args.text_dir if name == "transformer" else args.data_dir for name in args.tasks}
    command = " ".join(["python -m benchmarks.train_loop", *sys.argv[1:]])
    text = ["# The training loop against loops written by hand", "", f"Written by `{command}`.", ""]
    text += [f"- {line}" for line in setting(args.device)]
    bad = False
    if not args.epochs_only:
        pairs = itertools.product(args.tasks, args.optimizers)
        rows = [measure(prepare(name, rule, args.device, folders[name]), args.seconds) for name, rule in pairs]
        bad = any(row.failures() for row in rows)
        text += [
            "",
            NOTES.format(steps=CHECKED_STEPS, **LIMITS),
            "",
            *table(rows),
            "",
            "## Verdict",
            "",
            *verdict(rows),
        ]
    if args.device == "cuda":
        text += ["", f"## Epochs on {torch.cuda.get_device_name()}", "", GPU_NOTES.format(warm_up=WARM_UP_STEPS)]
        for name in EPOCHS_OF:
            if name in args.tasks:
                text += ["", *epochs_table(name, args.device, args.data_dir)]
    print("\n".join(text))
    if args.out:
        args.out.write_text("\n".join(text) + "\n", encoding="utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

"""Time a training step of every rule against Adam and against another package's rules, and measure its memory.

Run as `python -m benchmarks.optimizer_step` from the repository root, on a machine with nothing else to do. The peers
are those of pytorch_optimizer, an optional package. All optimizers take turns, in blocks of whole update periods; every
block is compared with the blocks of Adam right before and after it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler that counts memory also logs

import torch

from benchmarks import networks
from benchmarks.networks import Problem, setting
from benchmarks.step_rows import EVERY, JUDGED, LR, PERIOD, Entry, Step, entries

LIMIT = 1.3  # times Adam's step, at PERIOD
BETWEEN = 4  # blocks from one of Adam's to the next


class Bench:
    """Measures entries on one problem.

    Args:
        device: "cpu" or "cuda".
        block: steps of a block.
    """

    def __init__(self, problem: Problem, device: str, block: int) -> None:
        self.problem = problem.to(device)
        self.device = device
        self.block = block

    def step(self, entry: Entry) -> Step:
        return entry.make(self.problem.network(self.device), self.problem)

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def time(self, step: Step, steps: int) -> float:
        """Seconds per step."""
        self.wait()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        self.wait()
        return (time.perf_counter() - start) / steps

    def times(self, rows: list[Entry], rounds: int) -> None:
        """Fill in the times of all rows. The first is what the others are compared with."""
        torch.manual_seed(0)
        reference, *others = [(row, self.step(row), self._steps(row)) for row in rows]
        for _, step, steps in (reference, *others):
            self.time(step, 1 if steps < self.block else PERIOD + 1)  # both kinds of steps
        for number in range(rounds):
            shift = number * len(others) // rounds
            turn = [*others[shift:], *others[:shift]]
            before = self.time(*reference[1:])
            for start in range(0, len(turn), BETWEEN):
                blocks = [(row, self.time(step, steps)) for row, step, steps in turn[start : start + BETWEEN]]
                after = self.time(*reference[1:])
                for row, seconds in blocks:
                    row.ms.append(1e3 * seconds)
                    row.ratios.append(2 * seconds / (before + after))
                rows[0].ms.append(1e3 * before)
                rows[0].ratios.append(2 * before / (before + after))
                before = after

    def _steps(self, row: Entry) -> int:
        """A block where every step is a refresh need not be as long."""
        return max(1, self.block * 3 // PERIOD) if row.period == 1 else self.block

    def memory(self, row: Entry) -> int:
        """Peak bytes of tensors from the network's construction to the end of its second refresh."""
        steps = (row.period or 1) + 1
        torch.manual_seed(0)
        if self.device == "cuda":
            held = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self.run(row, steps)
            return torch.cuda.max_memory_allocated() - held
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profiler:
            self.run(row, steps)
        # The only record of every allocation in its order; the public summary adds up whole operations.
        events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
        held = peak = 0
        for event in sorted(events, key=lambda e: e.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        return peak

    def run(self, row: Entry, steps: int) -> None:
        step = self.step(row)
        for _ in range(steps):
            step()
        self.wait()


def measure(title: str, bench: Bench, rounds: int, compiled: bool) -> list[Entry]:
    """All rows of one network."""
    rows = list(entries(title, compiled))
    started = time.perf_counter()
    known: dict[tuple[str, str], int] = {}
    for row in rows:
        key = (row.optimizer, row.estimator.partition(",")[0])
        if key not in known:
            known[key] = bench.memory(row)
        row.memory = known[key]
    say(f"{title}: memory of {len(rows)} optimizers in {time.perf_counter() - started:.0f} s")
    started = time.perf_counter()
    bench.times(rows, rounds)
    say(f"{title}: {rounds} rounds in {time.perf_counter() - started:.0f} s")
    return rows


def failures(title: str, rows: list[Entry]) -> list[str]:
    """What is too slow, a sentence each."""
    found = [f"{title}: {row}: {row.ratio:.2f} times Adam" for row in rows if row.judged and row.ratio > LIMIT]
    for row, other, ratio in against_peers(rows):
        if row.judged and other.estimator == EVERY and ratio >= 1:
            found.append(f"{title}: {row}: {ratio:.2f} times {other.optimizer} ({other.estimator})")
    return found


def against_peers(rows: list[Entry]) -> list[tuple[Entry, Entry, float]]:
    """Each rule with the peer that does the same, and its time over the peer's."""
    return [
        (row, other, statistics.median(a / b for a, b in zip(row.ratios, other.ratios, strict=True)))
        for row in rows
        for other in rows
        if row.same and other.optimizer == f"pytorch_optimizer {row.same}" and other.period == row.period
    ]


def peers_table(rows: list[Entry]) -> list[str]:
    lines = ["", "| rule | peer | time over the peer's |", "| --- | --- | ---: |"]
    for row, other, ratio in against_peers(rows):
        lines.append(f"| {row} | {other.optimizer}, {other.estimator} | {ratio:.2f} |")
    return lines


def table(rows: list[Entry]) -> list[str]:
    lines = [
        "| optimizer | estimator | update_period | ms/step | x Adam | lowest to highest | peak memory MB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        spread = f"{min(row.ratios):.2f} to {max(row.ratios):.2f}"
        cells = [row.optimizer, row.estimator, row.period or "-", f"{statistics.median(row.ms):.3g}"]
        cells += [f"{row.ratio:.2f}", spread, f"{row.memory / 1e6:.1f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


NOTES = f"""\
A step is forward, backward and the optimizer's own work; `hutchinson` and `hvp` differentiate the gradient on a
refresh, `gnb` takes a second backward pass. All optimizers of a table take turns, a block of steps each; "x Adam" is
the median over the rounds of a block's time over the mean of the blocks of Adam right before and after it, and lowest
and highest are over the rounds. Adam's own row compares its blocks with each other: its spread is the noise of the
measurement; whole runs on one machine differ by up to 0.03 as well: DiagHessian with hutchinson on the transformer
came out at 1.28 to 1.31 times Adam at update_period 10. Every learning rate is {LR:g}, and the batch is always the
same; everything else is each optimizer's default.

pytorch_optimizer's rules are used as their documentation says, with `loss.backward(create_graph=True)` at every step,
and at update_period {PERIOD} also with that graph on the refreshes only, which is their best.

Peak memory is {{memory}}. It
counts network, batch gradients, optimizer state and activations, from the network's construction to the end of the
second refresh, in a pass of its own for each optimizer, alone. It is that of a refresh, and so measured once for all
update periods."""
MEMORY = {
    "cpu": "the highest that the sum of PyTorch's tensor allocations reaches, as its profiler records them",
    "cuda": "the highest that PyTorch's CUDA allocator had given out",
}
NETWORKS = {
    "perceptron": (networks.mnist1d, 100),
    "convolutional": (networks.cifar_cnn, 10),
    "transformer": (networks.transformer, 20),
}


def verdict(measured: list[str], bad: list[str]) -> list[str]:
    judged = [f"the {title}{' network' if title == 'convolutional' else ''}" for title in measured if title in JUDGED]
    if not judged:
        return ["Neither of the larger networks was measured: nothing is judged."]
    claim = (
        f"at update_period {PERIOD}, on {' and '.join(judged)}, every rule with hutchinson or gnb takes at most "
        f"{LIMIT} times Adam's step, and less time than the peer that does the same, used as documented"
    )
    return [f"Met: {claim}."] if not bad else [f"NOT MET: {claim}. These do not:", "", *(f"- {line}" for line in bad)]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser("benchmarks.optimizer_step", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--threads", type=int, metavar="N", help="of PyTorch (default: its own choice)")
    parser.add_argument("--rounds", type=int, default=5, metavar="R", help="turns of all optimizers (default: 5)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="default: all")
    parser.add_argument("--compile", action="store_true", help="also rows for compile=True, which take minutes")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the tables there, in Markdown")
    args = parser.parse_args()
    if args.rounds < 1 or (args.threads or 1) < 1:
        parser.error("--rounds and --threads must be at least 1")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU")
    try:
        import pytorch_optimizer  # noqa: F401
    except ImportError:
        print("error: the peers are pytorch_optimizer's: pip install pytorch_optimizer", file=sys.stderr)
        return 2
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")

    command = " ".join(["python -m benchmarks.optimizer_step", *sys.argv[1:]])
    text = ["# Time and memory of a training step", "", f"Written by `{command}`; rounds: {args.rounds}.", ""]
    text += [f"- {line}" for line in setting(args.device)] + ["", NOTES.format(memory=MEMORY[args.device])]
    print("\n".join(text))
    bad: list[str] = []
    for title in args.networks:
        make, block = NETWORKS[title]
        problem = make()
        rows = measure(title, Bench(problem, args.device, block), args.rounds, args.compile)
        bad += failures(title, rows)
        section = ["", f"## {problem.title[0].upper()}{problem.title[1:]}", "", *table(rows), *peers_table(rows)]
        print("\n".join(section), flush=True)
        text += section
    section = ["", "## Verdict", "", *verdict(args.networks, bad)]
    print("\n".join(section))
    if args.out:
        args.out.write_text("\n".join([*text, *section]) + "\n", encoding="utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

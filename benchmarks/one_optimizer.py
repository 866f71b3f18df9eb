"""How many trials a minute searches of one optimizer do, R studies at once, with cohorts and one at a time."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench_processes import Bench, BenchmarkError, Claim, say, told

STUDIES, TRIALS = 5, 20
FEWER = {"rahimi_recht": 4, "mnist1d": TRIALS}
"""Trials of a study that are done one at a time: as many as last long beside the second worker's start."""
TASKS = ("rahimi_recht", "mnist1d")
PURE = ("adam", "sgdm", "sophia", "diag_hessian")
OTHERS = ("lion", "rmsprop", "soap", "schedule_free", "own_class")
WANTED = {"rahimi_recht": 10, "mnist1d": 5}
WANTED_OF_OTHERS = 3
OWN_CLASS = """
    import torch


    class Mine(torch.optim.Optimizer):
        def __init__(self, params, lr=1e-3, beta=0.9):
            super().__init__(params, {"lr": lr, "beta": beta})

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    state = self.state[p]
                    if not state:
                        state["m"], state["size"] = torch.zeros_like(p), torch.zeros_like(p)
                    state["m"].mul_(group["beta"]).add_(p.grad, alpha=1 - group["beta"])
                    state["size"] = torch.maximum(state["size"] * 0.99, p.grad.abs())
                    p.sub_(group["lr"] * state["m"] / (state["size"] + 1e-8))
"""
OWN_YAML = """
    class: my_class.Mine
    space:
      lr: {low: 1.0e-5, high: 1.0e-1, log: true}
      beta: {low: 0.5, high: 0.99}
    defaults:
      - {lr: 1.0e-3, beta: 0.9}
"""


@dataclass(frozen=True)
class Pace:
    """Of a search: trials per minute from the first's begin to the last's end, ms of training a trial, sizes."""

    rate: float
    training_ms: float
    cohorts: str
    diverged: int


def measure(bench: Bench, task: str, optimizer: str, cohort: str) -> Pace:
    """One search.

    Raises:
        BenchmarkError: a trial failed or is missing.
    """
    trials = TRIALS if cohort == "auto" else FEWER[task]
    say(f"{task} with {optimizer}, --cohort {cohort}: {STUDIES} x {trials} trials ...")
    named = ("--task", task, "--optimizers", optimizer, "--trials", str(trials), "--studies", str(STUDIES))
    run, _ = bench.search(*named, "--cohort", cohort, "--no-report", "--configs", str(own_folder(bench.scratch)))
    rows = run.trials()
    if len(rows) != STUDIES * trials or (rows["state"] == "failed").any():
        raise BenchmarkError(f"{task} with {optimizer}: not {STUDIES * trials} trials without a fault")
    ends = [end for *_, end in told(run)]
    first = rows.iloc[0]
    span = max(ends) - (min(ends) - first["seconds"] * first["cohort"])
    sizes = ", ".join(map(str, sorted({int(size) for size in rows["cohort"]}, reverse=True)))
    diverged = int((rows["state"] == "diverged").sum())
    return Pace(60 * len(rows) / span, 1e3 * float(rows["seconds"].mean()), sizes, diverged)


def fewer_of_tasks() -> str:
    """How many trials of a study are done one at a time, in words."""
    return " and ".join(f"{trials} a study of {task}" for task, trials in FEWER.items())


def own_folder(scratch: Path) -> Path:
    """A folder for --configs with a user's class."""
    folder = scratch / "own"
    (folder / "optimizers").mkdir(parents=True, exist_ok=True)
    (folder / "my_class.py").write_text(textwrap.dedent(OWN_CLASS), encoding="utf-8")
    (folder / "optimizers" / "own_class.yaml").write_text(textwrap.dedent(OWN_YAML), encoding="utf-8")
    return folder


def section(bench: Bench) -> tuple[list[str], list[Claim]]:
    """A table of all, and what is demanded."""
    lines = [
        "| task | optimizer | trials/min, `--cohort auto` | `--cohort 1` | ratio | training, ms/trial | one at a time "
        "| cohorts | diverged |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    claims = []
    for task in TASKS:
        for optimizer in (*PURE, *OTHERS):
            together, single = (measure(bench, task, optimizer, cohort) for cohort in ("auto", "1"))
            ratio = together.rate / single.rate
            wanted = WANTED[task] if optimizer in PURE else WANTED_OF_OTHERS
            text = f"{task}, searches of {optimizer}: {ratio:.1f} times the trials per minute, wanted at least {wanted}"
            claims.append(Claim(text, ratio >= wanted))
            say(str(claims[-1]))
            numbers = (together.rate, single.rate, ratio, together.training_ms, single.training_ms)
            cells = [
                task,
                optimizer,
                *(f"{number:,.4g}" for number in numbers),
                together.cohorts,
                str(together.diverged),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines, claims

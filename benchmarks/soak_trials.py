"""The trials of `benchmarks.soak`: what goes wrong in which of them, and whether a run's files say just that.

The optimizer is a user's own, named by its dotted path; which trials it spoils follows from their learning rates, so
that the checks reckon the same from trials.csv without having been there.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_processes import Claim
from tuner.store.run import Run
from tuner.training import build

OPTIMIZER = "faulty_adam"
DEFAULT_LR = 1e-3  # never spoilt: the steps timed before the run are with it
AT_STEP = 3
SAME = 1e-3  # relative, of a stack's member to the same run alone; one trained alone is the same to the bit
YAML = """\
class: benchmarks.soak_trials.faulty_adam
args: {{share: {share}, marks: {marks}}}
space:
  lr: {{low: 1e-4, high: 1e-2, log: true}}
defaults:
  - {{lr: {lr}}}
"""


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a trial.

    Attributes:
        what: these trials do.
        part: of all trials with a fault.
        state, error: what trials.csv must say; the error as a pattern.
        curve: whether evaluations before the fault must be in the curves: not where they went with the worker.
    """

    name: str
    part: float
    what: str
    state: str
    error: str = ""
    curve: bool = True


FAULTS = (
    Fault("exception", 0.40, "raise an exception", "failed", "RuntimeError: injected at step 3"),
    Fault("nan", 0.25, "make the weights NaN", "diverged"),
    Fault(
        "memory", 0.10, "raise `MemoryError`, also alone", "failed",
        "out of memory, with nothing beside it: MemoryError: injected at step 3",
    ),
    Fault("memory_once", 0.10, "raise `MemoryError` the first time", "complete"),
    Fault("killed_once", 0.08, "kill their worker with SIGKILL the first time", "complete"),
    Fault(
        "killed", 0.03, "kill their worker with SIGKILL each time", "failed", "the worker was lost 3 times: .+",
        curve=False,
    ),
    Fault("hang", 0.04, "hang", "failed", r"took longer than faults\.trial_limit_s, \d+ s", curve=False),
)  # fmt: skip
SOUND = Fault("none", 0.0, "do nothing wrong", "complete")


def fault_of(lr: float, share: float) -> Fault:
    """What goes wrong in the trial with this learning rate, of which there are no two.

    Args:
        share: of trials with a fault.
    """
    drawn = int.from_bytes(hashlib.sha256(repr(lr).encode()).digest()[:8], "big") / 2**64
    for fault in FAULTS:
        drawn -= share * fault.part
        if drawn < 0 and lr != DEFAULT_LR:
            return fault
    return SOUND


def write_configs(folder: Path, share: float, marks: Path) -> None:
    """A --configs folder with the optimizer.

    Args:
        marks: an existing folder in which trials that fail once note that they have.
    """
    (folder / "optimizers").mkdir(parents=True)
    text = YAML.format(share=share, marks=json.dumps(str(marks)), lr=DEFAULT_LR)
    (folder / "optimizers" / f"{OPTIMIZER}.yaml").write_text(text, encoding="utf-8")


def faulty_adam(
    params: Iterable[torch.nn.Parameter], lr: float, share: float = 0.0, marks: str = ""
) -> torch.optim.Adam:
    """Adam, spoilt where the learning rate says so. Sound ones are plain and can train as a stack."""
    fault = fault_of(lr, share)
    mark = Path(marks) / f"{fault.name}-{lr!r}"
    if fault is SOUND or (fault.state == "complete" and mark.exists()):
        return torch.optim.Adam(params, lr=lr)
    return Spoilt(params, lr, fault.name, mark)


def plain_adam(params: Iterable[torch.nn.Parameter], hp: dict[str, Any]) -> torch.optim.Adam:
    return torch.optim.Adam(params, **hp)


class Spoilt(torch.optim.Adam):
    """Does its harm at one step."""

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float, fault: str, mark: Path) -> None:
        super().__init__(params, lr=lr)
        self.fault, self.mark = fault, mark
        self.steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        if self.steps == AT_STEP:
            self.harm()
        return super().step(closure)

    def harm(self) -> None:
        self.mark.touch()
        match self.fault:
            case "exception":
                raise RuntimeError(f"injected at step {AT_STEP}")
            case "nan":
                with torch.no_grad():
                    for param in self.param_groups[0]["params"]:
                        param.fill_(torch.nan)
            case "memory" | "memory_once":
                raise MemoryError(f"injected at step {AT_STEP}")
            case "killed" | "killed_once":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(3600)


@dataclass(frozen=True)
class Row:
    """A line of trials.csv."""

    trial: int
    state: str
    value: float | None
    error: str
    lr: float
    cohort: int
    fault: Fault


def read_rows(run: Run, share: float) -> list[Row]:
    """Trials in the order of their lines, read without the project's own reader."""
    path = run.path / "trials.csv"
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return [
        Row(int(line["trial"]), line["state"], float(line["value"]) if line["value"] else None, line["error"],
            float(line["hp.lr"]), int(line["cohort"]), fault_of(float(line["hp.lr"]), share))
        for line in lines
    ]  # fmt: skip


def claims(run: Run, share: float, trials: int) -> list[Claim]:
    """All that must hold of a run that has ended, whatever befell it."""
    rows = read_rows(run, share)
    checks: list[tuple[str, Callable[[], Iterator[str]]]] = [
        (f"trials.csv has trials 0 to {trials - 1}, each once", lambda: numbers(rows, trials)),
        ("states and errors are those that the learning rates tell", lambda: states(rows)),
        ("values are those of the same trials trained anew", lambda: values(run, rows)),
        ("study.db has the same states, values and learning rates, and no trial that runs", lambda: study(run, rows)),
        ("curves.parquet has each trial's curve, and nothing twice", lambda: curves(run, rows)),
        ("best.json is the best line of trials.csv", lambda: best(run, rows)),
        ("logs/ has a text for each failed trial and for no other", lambda: logs(run, rows)),
        ("the run directory has no file of an unfinished write and no checkpoint", lambda: leavings(run)),
    ]
    return [claim(text, list(check())) for text, check in checks]


def claim(text: str, wrong: list[str]) -> Claim:
    """That nothing is wrong."""
    return Claim(text + (f" ({len(wrong)} wrong: {'; '.join(wrong[:3])})" if wrong else ""), not wrong)


def numbers(rows: list[Row], trials: int) -> Iterator[str]:
    found = Counter(row.trial for row in rows)
    yield from (f"trial {n} is there {found[n]} times" for n in sorted(set(range(trials)) | set(found))
                if found[n] != (n < trials))  # fmt: skip


def states(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        if row.state != row.fault.state or not re.fullmatch(row.fault.error, row.error):
            yield f"trial {row.trial} ({row.fault.name}) is {row.state} {row.error!r}"


def values(run: Run, rows: list[Row]) -> Iterator[str]:
    """Trained in this process, by the same loop: what was retried or resumed is as if nothing had happened."""
    from tuner.training import single

    config = run.config()
    task, engine = build.make_task(config), build.make_engine(config)
    build.set_up(task, config)
    budget = single.Budget(config.train.epochs, config.train.evaluations)
    worst = task.worst[config.task.metric.split("_", 1)[1]]
    for row in rows:
        expected: float | None = {"diverged": worst, "failed": None}.get(row.state)
        if row.state == "complete":
            result = single.train(task, plain_adam, {"lr": row.lr}, config.search.seed, budget, engine=engine)
            expected = result.metrics[config.task.metric]
            if row.cohort > 1 and row.value is not None and abs(row.value - expected) <= SAME * abs(expected):
                continue
        if row.value != expected:
            yield f"trial {row.trial}: {row.value}, anew {expected}"


def study(run: Run, rows: list[Row]) -> Iterator[str]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    [name] = optuna.get_all_study_names(run.study_url)
    recorded = optuna.load_study(study_name=name, storage=run.study_url).trials
    found = [(trial.number, trial.state.name, trial.value, trial.params.get("lr")) for trial in recorded]
    names = {"complete": "COMPLETE", "diverged": "COMPLETE", "failed": "FAIL"}
    wanted = [(row.trial, names.get(row.state), row.value, row.lr) for row in rows]
    yield from (f"only in one of the two: {difference}" for difference in sorted(set(found) ^ set(wanted), key=str))
    if len(found) != len(wanted):
        yield f"{len(found)} trials"


def curves(run: Run, rows: list[Row]) -> Iterator[str]:
    """Every evaluation of a trial that ended by itself; those before the fault of one that raised."""
    import pandas as pd

    table = pd.read_parquet(run.path / "curves.parquet")
    key = ["phase", "optimizer", "trial", "seed", "step", "split", "metric"]
    if twice := int(table.duplicated(key).sum()):
        yield f"{twice} rows are there twice"
    config = run.config()
    split, metric = config.task.metric.split("_", 1)
    looks = table[(table["phase"] == "search") & (table["split"] == split) & (table["metric"] == metric)]
    own: dict[Any, list[float]] = {
        trial: list(found["value"]) for trial, found in looks.sort_values("step").groupby("trial")
    }
    for row in rows:
        wanted = 1 + config.train.evaluations if row.state == "complete" else int(row.fault.curve)
        found = own.pop(row.trial, [])
        if len(found) != wanted or (row.state == "complete" and found[-1] != row.value):
            yield f"trial {row.trial} ({row.fault.name}) has {len(found)} evaluations, the last {found[-1:]}"
    yield from (f"there is no trial {trial}" for trial in own)


def best(run: Run, rows: list[Row]) -> Iterator[str]:
    found = json.loads((run.path / "best.json").read_text(encoding="utf-8"))["optimizers"][OPTIMIZER]
    first = min((row for row in rows if row.state == "complete"), key=lambda row: row.value or 0.0)
    count = Counter(row.state for row in rows)
    wanted = {
        "hp": {"lr": first.lr}, "value": first.value, "trial": first.trial, "n_trials": len(rows),
        "n_diverged": count["diverged"], "n_failed": count["failed"],
    }  # fmt: skip
    yield from (f"{name} is {found.get(name)}, not {value}" for name, value in wanted.items() if found[name] != value)


def logs(run: Run, rows: list[Row]) -> Iterator[str]:
    found = {path.name for path in run.logs.glob("*.log") if path.stat().st_size}
    wanted = {f"{OPTIMIZER}-trial-{row.trial}.log" for row in rows if row.state == "failed"}
    yield from (f"only in one of the two: {name}" for name in sorted(found ^ wanted))


def leavings(run: Run) -> Iterator[str]:
    for path in [*run.path.rglob("*.partial"), *run.path.parent.glob(".*.partial"), run.path / "checkpoints"]:
        if path.exists():
            yield str(path.relative_to(run.path.parent))

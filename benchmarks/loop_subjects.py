"""A task of the default preset as this project trains it, and as a loop written by hand does."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import plain_loops
from benchmarks.plain_loops import Batch, Loop, Recipe, fit
from tasks.base import SPLITS, Task
from tuner.config import layers
from tuner.config.schema import Config
from tuner.training import build
from tuner.training.engine import Engine
from tuner.training.records import Budget
from tuner.training.single import MakeOptimizer, Trainer, training

SEED = 0
CHECKED_STEPS = 2
SAME_LOSS = 1e-3  # relative: sums run in another order on a GPU
SAME_SPREAD = 0.05  # relative, of an epoch's inputs: crops differ
HELD_OUT = 100  # rows to validate and to test on, where the task is cut


@dataclass(frozen=True)
class Case:
    """A task to measure.

    Attributes:
        loop: the one written by hand.
        embedded: the dataset that needs no file; None: the task has no other kind.
        steps: how many to time on a CPU and on a GPU, where a whole run would take too long; None: a whole run.
    """

    loop: Callable[[Any], Loop]
    embedded: str | None = None
    steps: Mapping[str, int] | None = None


CASES = {
    "mnist1d": Case(plain_loops.classes),
    "rahimi_recht": Case(plain_loops.linear),
    "tabular_mlp": Case(plain_loops.table),
    "quadratic_deep": Case(plain_loops.quadratic),
    "cifar_cnn": Case(plain_loops.images, "digits", {"cpu": 8, "cuda": 700}),
    "resnet18": Case(plain_loops.augmented_images, "digits", {"cpu": 2, "cuda": 170}),
    "transformer": Case(plain_loops.text, "stdlib", {"cpu": 3, "cuda": 200}),
}


class BenchmarkError(Exception):
    """The two loops train something else, or a run diverged."""


@dataclass(frozen=True)
class Run:
    """How much a retraining run of the default preset does.

    Attributes:
        rows: of each split.
        epochs: passes over the training rows.
        evaluations: of train and val, beside the one before the first step and that of test at the end.
    """

    rows: Mapping[str, int]
    epochs: int
    evaluations: int

    @property
    def evaluated(self) -> int:
        """Rows, over all evaluations."""
        return (self.evaluations + 1) * (self.rows["train"] + self.rows["val"]) + self.rows["test"]


@dataclass
class Subject:
    """A task with its data and one optimizer, and how both loops train it.

    Attributes:
        timed: what a turn does; the same as ``full`` where the task is not cut.
        full: a whole run.
        data: what it trains on.
    """

    name: str
    task: Task
    engine: Engine
    make: MakeOptimizer
    hp: dict[str, Any]
    loop: Loop
    recipe: Recipe
    timed: Run
    full: Run
    data: str

    @property
    def title(self) -> str:
        return f"{self.name} with {self.recipe.optimizer}"

    @property
    def steps(self) -> float:
        """Of a whole run."""
        return self.scale * self.recipe.steps

    def plain(self) -> float:
        """Seconds of the steps of a whole run in the loop written by hand, without making the network."""
        model = self.task.build(SEED).train()
        with self.engine.settings():
            self.wait()
            started = time.perf_counter()
            fit(self.loop, model, self.recipe)
            return self.scale * (time.perf_counter() - started)

    def ours(self) -> tuple[float, float]:
        """Seconds of the same steps in this project's loop; and of everything that a run does.

        Where the task is cut, the second is put together: an evaluation's time is proportional to its rows.
        """
        self.wait()
        started = time.perf_counter()
        budget = Budget(self.timed.epochs, self.timed.evaluations, test=True)
        run = training(self.task, self.make, self.hp, SEED, budget, self.engine)
        kept = [asdict(next(run))]  # as a worker keeps them
        begun = time.perf_counter()
        while True:
            try:
                kept.append(asdict(next(run)))
            except StopIteration as stop:
                result = stop.value
                break
        ended = time.perf_counter()
        if result.status != "complete":
            raise BenchmarkError(f"{self.name}: a run diverged")
        bare = result.clocks.seconds
        if self.timed == self.full:
            return bare, ended - started
        rows = self.timed.rows
        per_row = (ended - begun - bare) / sum(rows.values())
        start = begun - started - per_row * (rows["train"] + rows["val"])
        return self.scale * bare, self.scale * bare + start + per_row * self.full.evaluated

    @property
    def scale(self) -> float:
        """Training rows of a whole run over those that are timed."""
        return (self.full.epochs * self.full.rows["train"]) / (self.timed.epochs * self.timed.rows["train"])

    def wait(self) -> None:
        if self.task.device.type == "cuda":
            torch.cuda.synchronize()

    def check(self) -> None:
        """Refuse a loop written by hand that trains something else. Warms both up.

        Raises:
            BenchmarkError: after some steps on the same batches the losses differ, or the batches are unlike.
        """
        steps = min(CHECKED_STEPS, self.recipe.steps)
        given = list(itertools.islice(self.epochs_of_task(), steps))
        model = self.task.build(SEED).train()
        with self.engine.settings():
            torch.manual_seed(SEED)  # of dropout, as the trainer does
            there = fit(replace(self.loop, batches=lambda: given), model, replace(self.recipe, epochs=1))
            trainer = Trainer(self.task, self.make, self.hp, SEED, self.engine, self.timed.epochs)
            here = [trainer.step(batch) for batch in given][-1].item()
        if not math.isclose(there, here, rel_tol=SAME_LOSS):
            raise BenchmarkError(f"{self.name}: the loss is {there:g} by hand and {here:g} here after the same batches")
        (rows, spread), (own_rows, own_spread) = _spread(self.loop.batches()), _spread(self.task.batches(SEED, 0))
        if rows != own_rows or not math.isclose(spread, own_spread, rel_tol=SAME_SPREAD):
            raise BenchmarkError(
                f"{self.name}: an epoch is {rows} rows with mean square {spread:g} by hand, {own_rows} with "
                f"{own_spread:g} here"
            )

    def epochs_of_task(self) -> Iterator[Batch]:
        return (batch for epoch in itertools.count() for batch in self.task.batches(SEED, epoch))


def _spread(batches: Iterable[Batch]) -> tuple[int, float]:
    """Rows, and the mean square of the inputs."""
    sums = [(len(x), x.double().square().sum().item(), x.numel()) for x, _ in batches]
    rows, squares, numbers = (sum(column) for column in zip(*sums, strict=True))
    return int(rows), squares / numbers


def configured(name: str, optimizer: str, device: str, data_dir: Path | None, settings: tuple[str, ...] = ()) -> Config:
    """The default preset of a task, on the embedded data where no folder is given and the task has another kind."""
    flags: dict[str, Any] = {"task.name": name, "search.optimizers": [optimizer]}
    flags["resources.gpus_per_trial"] = 1 if device == "cuda" else 0
    embedded = CASES[name].embedded
    if embedded and data_dir is None:
        flags["task.dataset"] = embedded
    elif embedded:
        flags["task.data_dir"] = str(data_dir)
    return layers.resolve(flags, settings)


def prepare(name: str, optimizer: str, device: str, data_dir: Path | None) -> Subject:
    """A task of the default preset with its data loaded, cut where a whole run would take too long."""
    case = CASES[name]
    whole = cut = configured(name, optimizer, device, data_dir)
    if case.steps:
        cut = configured(name, optimizer, device, data_dir, _cut(whole, case.steps[device] * whole.train.batch_size))
    task = build.make_task(cut)
    build.set_up(task, cut)
    rows = {split: len(task.splits[split][0]) for split in SPLITS}
    timed = full = Run(rows, whole.retrain_epochs, whole.train.evaluations)
    data = task.data_summary["name"]
    if case.steps:
        loaded = build.make_task(whole).load(data_dir)
        data, timed = loaded.name, Run(rows, epochs=1, evaluations=1)
        full = replace(full, rows={split: len(loaded.splits[split][0]) for split in SPLITS})
    train, spec = whole.train, whole.optimizers[optimizer]
    hp = spec.first_point()
    recipe = Recipe(
        optimizer=optimizer,
        lr=hp["lr"],
        epochs=timed.epochs,
        steps=timed.epochs * task.steps_per_epoch,
        final_lr=train.final_lr if train.schedule == "cosine" else None,
        clip=train.clip_grad_norm,
    )
    engine, make = build.make_engine(cut), build.optimizer_maker(optimizer, spec)
    return Subject(name, task, engine, make, hp, case.loop(task), recipe, timed, full, data)


def _cut(whole: Config, rows: int) -> tuple[str, ...]:
    """The settings that leave so many rows to train on, and few to evaluate."""
    if "rows" in whole.task.args:
        held_out = (f"task.args.rows.{split}={HELD_OUT}" for split in ("val", "test"))
        return (f"task.args.rows.train={rows}", *held_out)
    length = whole.task.args["length"]
    return (f"task.args.tokens={rows * length + 1}", f"task.args.held_out_tokens={HELD_OUT * length + 1}")

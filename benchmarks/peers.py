"""What `benchmarks.search_throughput` holds this project against: the scripts that people write today.

`python -m benchmarks.peers NAME '{"argument": ...}' RESULT.json` runs one function of this module and writes what it
returns. Heavy imports stand inside the functions, so that each process imports what it uses.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from tasks.base import Task

# What the YAML of tasks and optimizers says; that all train the same is checked.
SEED = 1000
EVALUATIONS = 10  # over a trial, beside the one before the first step; epochs are a multiple of it
EPOCHS = {"rahimi_recht": 150, "mnist1d": 10}
SPACES = {
    "adam": {"lr": (1e-5, 1e-1)},
    "diag_hessian": {"lr": (1e-7, 1e-1), "diff": (0.05, 1.0), "square": (1.0, 10.0)},
}
FIRST = {"adam": {"lr": 1e-3}, "diag_hessian": {"lr": 1e-4, "diff": 0.3, "square": 5.0}}  # published; ours have it too
LOG = {"lr"}

Point = dict[str, float]


@dataclass(frozen=True)
class Trial:
    """What one trial did.

    Attributes:
        hp: the hyperparameters.
        value: what the search ranks by, at the end.
        steps, evaluations: how many.
        seconds: of training, evaluation not counted; of a stack's, an equal share.
        begin, end: from before the first evaluation to after the last one, in seconds since the epoch.
        state: "complete", or "diverged", after fewer steps.
        cohort: how many trained as one stack with it, itself included.
    """

    optimizer: str
    hp: Point
    value: float
    steps: int
    evaluations: int
    seconds: float
    begin: float
    end: float
    state: str = "complete"
    cohort: int = 1


def ray(task: str, optimizer: str, trials: int, slots: int) -> list[dict[str, Any]]:
    """The plain Ray Tune script: a function, OptunaSearch, every other setting as it comes."""
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    def trainable(config: dict[str, Any]) -> None:
        tune.report(asdict(train_plainly(make_task(task), optimizer, config, EPOCHS[task])))

    def dimension(name: str, low: float, high: float) -> Any:
        return tune.loguniform(low, high) if name in LOG else tune.uniform(low, high)

    with tempfile.TemporaryDirectory(prefix="plain-") as folder:  # not the default, ~/ray_results, which would stay
        results = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space={name: dimension(name, *bounds) for name, bounds in SPACES[optimizer].items()},
            tune_config=tune.TuneConfig(
                metric="value",
                mode="min",
                search_alg=OptunaSearch(points_to_evaluate=[FIRST[optimizer]]),
                num_samples=trials,
                max_concurrent_trials=slots,
            ),
            run_config=tune.RunConfig(storage_path=folder),
        ).fit()
    return [{name: result.metrics[name] for name in Trial.__annotations__} for result in results]


def loop(task: str, optimizer: str, trials: int, slots: int) -> list[dict[str, Any]]:
    """The plain Optuna loop: one process, one trial after the other (whatever ``slots``), the data made once."""
    import optuna

    data = make_task(task)
    done: list[dict[str, Any]] = []

    def objective(trial: optuna.Trial) -> float:
        hp = {n: trial.suggest_float(n, low, high, log=n in LOG) for n, (low, high) in SPACES[optimizer].items()}
        done.append(asdict(train_plainly(data, optimizer, hp, EPOCHS[task])))
        return done[-1]["value"]

    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler())
    study.enqueue_trial(FIRST[optimizer])
    study.optimize(objective, n_trials=trials)
    return done


def repeat(task: str, points: list[tuple[str, Point]]) -> list[float]:
    """The values of plain trials of these optimizers and hyperparameters, for the checks."""
    data = make_task(task)
    return [train_plainly(data, optimizer, hp, EPOCHS[task]).value for optimizer, hp in points]


def calibrate(task: str, optimizer: str, seconds: float) -> dict[str, float]:
    """How many epochs train for about that long on one core, and the seconds of one evaluation."""
    data = make_task(task)
    short = EPOCHS[task]
    fastest = min(train_plainly(data, optimizer, FIRST[optimizer], short).seconds for _ in range(5))
    return {
        "epochs": EVALUATIONS * max(1, round(seconds / fastest * short / EVALUATIONS)),
        "evaluation_s": statistics.median(evaluation_seconds(data) for _ in range(50)),
    }


def make_task(name: str) -> Task:
    """The default preset's problem with its data, on the CPU."""
    import torch

    from tasks.mnist1d import MNIST1D
    from tasks.rahimi_recht import RahimiRecht

    torch.set_num_threads(1)
    task: Task
    if name == "mnist1d":
        task = MNIST1D(metric="val_loss", mode="min", batch_size=32)
    else:
        task = RahimiRecht(dataset="cond29", metric="train_loss", mode="min", batch_size=128)
    task.setup(None, torch.device("cpu"))
    return task


def evaluation_seconds(task: Task) -> float:
    """Of one evaluation of the training and validation rows, as ``tuner.training.single`` has them."""
    model = task.build(SEED)
    started = time.perf_counter()
    for split in ("train", "val"):
        task.evaluate(model, split)
    return time.perf_counter() - started


def train_plainly(task: Task, optimizer: str, hp: Point, epochs: int) -> Trial:
    """One trial as an ordinary PyTorch loop, evaluating the rows as ``tuner.training.single`` does."""
    import torch

    torch.manual_seed(SEED)  # of an optimizer's probes
    model = task.build(SEED)
    step = OPTIMIZERS[optimizer](task, model, hp)
    steps, seconds, metrics = 0, 0.0, {}
    begin = time.time()
    for split in ("train", "val"):
        task.evaluate(model, split)
    for look in range(EVALUATIONS):
        started = time.perf_counter()
        for epoch in range(look * epochs // EVALUATIONS, (look + 1) * epochs // EVALUATIONS):
            for batch in task.batches(SEED, epoch):
                step(batch)
                steps += 1
        seconds += time.perf_counter() - started
        metrics = {f"{split}_{n}": v for split in ("train", "val") for n, v in task.evaluate(model, split).items()}
    end = time.time()
    return Trial(optimizer, dict(hp), metrics[task.metric], steps, EVALUATIONS + 1, seconds, begin, end)


def _adam(task: Task, model: torch.nn.Module, hp: Point) -> Callable[[Any], None]:
    import torch

    optimizer = torch.optim.Adam(model.parameters(), **hp)

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        loss, _ = task.loss(model, batch)
        loss.backward()
        optimizer.step()

    return step


def _diag_hessian(task: Task, model: torch.nn.Module, hp: dict[str, Any]) -> Callable[[Any], None]:
    from optimizers import DiagHessian

    optimizer = DiagHessian(model.parameters(), **hp, estimator="hutchinson", update_period=1)
    return lambda batch: optimizer.step(lambda: task.loss(model, batch))


OPTIMIZERS = {"adam": _adam, "diag_hessian": _diag_hessian}


if __name__ == "__main__":
    name, arguments, result = sys.argv[1:]
    Path(result).write_text(json.dumps(globals()[name](**json.loads(arguments))), encoding="utf-8")

"""What `benchmarks.search_throughput` holds this project against: the scripts that people write today.

`python -m benchmarks.peers ray|loop|calibrate|repeat '{"argument": ...}' RESULT.json` runs one function of this module
and writes what it returns. Heavy imports stand inside the functions, so that each process imports what it uses.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.rahimi_recht import RahimiRecht

DATASET, BATCH_SIZE, SEED = "cond29", 128, 1000
EVALUATIONS = 10  # over a trial, beside the one before the first step; epochs are a multiple of it
LR_LOW, LR_HIGH = 1e-5, 1e-1  # with the next line, what configs/optimizers/adam.yaml says
FIRST_LR = 1e-3


@dataclass(frozen=True)
class Trial:
    """What one trial did.

    Attributes:
        lr: the one hyperparameter.
        value: the training loss at the end.
        steps, evaluations: how many.
        seconds: of training, evaluation not counted.
        begin, end: from before the first step to after the last evaluation, in seconds since the epoch.
    """

    lr: float
    value: float
    steps: int
    evaluations: int
    seconds: float
    begin: float
    end: float


def ray(trials: int, slots: int, epochs: int) -> list[dict[str, Any]]:
    """The plain Ray Tune script: a function, OptunaSearch, every other setting as it comes."""
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    def trainable(config: dict[str, Any]) -> None:
        tune.report(asdict(train_plainly(make_task(), config["lr"], epochs)))

    with tempfile.TemporaryDirectory(prefix="plain-") as folder:  # not the default, ~/ray_results, which would stay
        results = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space={"lr": tune.loguniform(LR_LOW, LR_HIGH)},
            tune_config=tune.TuneConfig(
                metric="value",
                mode="min",
                search_alg=OptunaSearch(points_to_evaluate=[{"lr": FIRST_LR}]),
                num_samples=trials,
                max_concurrent_trials=slots,
            ),
            run_config=tune.RunConfig(storage_path=folder),
        ).fit()
    return [{name: result.metrics[name] for name in Trial.__annotations__} for result in results]


def loop(trials: int, slots: int, epochs: int) -> list[dict[str, Any]]:
    """The plain Optuna loop: one process, one trial after the other (whatever ``slots``), the data made once."""
    import optuna

    task = make_task()
    done: list[dict[str, Any]] = []

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", LR_LOW, LR_HIGH, log=True)
        done.append(asdict(train_plainly(task, lr, epochs)))
        return done[-1]["value"]

    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler())
    study.enqueue_trial({"lr": FIRST_LR})
    study.optimize(objective, n_trials=trials)
    return done


def calibrate(seconds: float) -> dict[str, int]:
    """How many epochs, and steps, train for about that long on one core: the fastest of many short trials counts."""
    task = make_task()
    short = 5 * EVALUATIONS
    fastest = min(train_plainly(task, FIRST_LR, short).seconds for _ in range(40))
    epochs = EVALUATIONS * max(1, round(seconds / fastest * short / EVALUATIONS))
    return {"epochs": epochs, "steps": epochs * task.steps_per_epoch}


def repeat(lrs: list[float], epochs: int) -> list[float]:
    """The values of plain trials with these learning rates, for the checks."""
    task = make_task()
    return [train_plainly(task, lr, epochs).value for lr in lrs]


def make_task() -> RahimiRecht:
    """The problem with its data, on the CPU."""
    import torch

    from tasks.rahimi_recht import RahimiRecht

    torch.set_num_threads(1)
    task = RahimiRecht(dataset=DATASET, metric="train_loss", mode="min", batch_size=BATCH_SIZE)
    task.setup(None, torch.device("cpu"))
    return task


def train_plainly(task: RahimiRecht, lr: float, epochs: int) -> Trial:
    """One trial as an ordinary PyTorch loop, evaluating the training and validation rows as ``tuner.train`` does."""
    import torch

    model = task.build(SEED)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for split in ("train", "val"):
        task.evaluate(model, split)
    steps, seconds, evaluations, value = 0, 0.0, 1, float("nan")
    begin = time.time()
    for look in range(EVALUATIONS):
        started = time.perf_counter()
        for epoch in range(look * epochs // EVALUATIONS, (look + 1) * epochs // EVALUATIONS):
            for batch in task.batches(SEED, epoch):
                optimizer.zero_grad()
                loss, _ = task.loss(model, batch)
                loss.backward()
                optimizer.step()
                steps += 1
        seconds += time.perf_counter() - started
        value = task.evaluate(model, "train")["loss"]
        task.evaluate(model, "val")
        evaluations += 1
    return Trial(lr, value, steps, evaluations, seconds, begin, time.time())


if __name__ == "__main__":
    name, arguments, result = sys.argv[1:]
    Path(result).write_text(json.dumps(globals()[name](**json.loads(arguments))), encoding="utf-8")

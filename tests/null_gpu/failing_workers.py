"""A program: workers whose GPU fails them at one place after the other; what they report, a line of JSON each.

Each in a process of its own, since nobody tidies up what a CUDA error leaves behind in one.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_context
from pkgutil import resolve_name
from typing import Any
from unittest import mock

from tests.null_gpu.counting import poison
from tuner.config.layers import resolve
from tuner.jobs import Job
from tuner.planning.messages import Report, Request
from tuner.workers.trainable import Worker

PLACES = {
    "loading": "tasks.base.Task.on_device",
    "building": "tasks.base.Task.build",
    "step": "torch.optim.Adam.step",
    "stacked step": "optimizers.stacking.optimizer.StackedOptimizer.step",
    "evaluation": "tasks.base.Task.evaluate",
    "snapshot": "tuner.training.checkpoint.pack",
    "the end": "tuner.workers.gpu.finish",
    "isolation": "torch.cuda.get_rng_state_all",
}
CASES = [
    ("loading", 1), ("loading", 3), ("building", 3), ("step", 1), ("stacked step", 3), ("evaluation", 1),
    ("evaluation", 3), ("snapshot", 1), ("isolation", 1), ("isolation", 3), ("the end", 1),
]  # fmt: skip
"""Places, and how many jobs there are."""
CALLS = {"isolation": 2}
"""The call at which it fails, where it is not the first."""


@cache
def config_yaml() -> str:
    flags = {"task.name": "tabular_mlp", "search.optimizers": ["adam"], "resources.gpus_per_trial": 1.0}
    return resolve(flags, ["train.epochs=4", "train.evaluations=2", "faults.checkpoint_s=1.0e-9"]).to_yaml()


def request(number: int) -> dict[str, Any]:
    return Request([Job("search", "adam", n, 1000, {"lr": 1e-3 * (n + 1)}) for n in range(number)]).to_dict()


@contextmanager
def failing_at(place: str) -> Iterator[None]:
    """Every call of the CUDA runtime fails from then on, to the end of the block."""
    owner, _, name = PLACES[place].rpartition(".")
    calls = 0

    def failing(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == CALLS.get(place, 1):
                poison()
            return original(*args, **kwargs)

        return call

    target = resolve_name(owner)
    with mock.patch.object(target, name, failing(getattr(target, name))):
        yield


def said(report: Report) -> dict[str, Any]:
    return {
        "errors": {index: outcome.error or outcome.state for index, outcome in report.outcomes.items()},
        "unusable": report.worker_unusable, "retires": report.retires, "singly": report.singly,
    }  # fmt: skip


def reports(place: str, number: int) -> list[dict[str, Any]]:
    """What a worker with such a cohort says, up to the end or to its retirement; and what of the next, if it came."""
    worker: Worker = object.__new__(Worker)
    with failing_at(place):
        worker.setup(request(number), {"": config_yaml()})
        every = [Report.taken_from(worker.step())]
        while not (every[-1].done or every[-1].retires):
            every.append(Report.taken_from(worker.step()))
        if every[-1].done:
            worker.reset_config(request(2))
            every.append(Report.taken_from(worker.step()))
    return [said(report) for report in every if report.outcomes or report.worker_unusable]


def told(case: tuple[str, int]) -> str:
    place, number = case
    return json.dumps({"place": place, "jobs": number, "reports": reports(place, number)})


if __name__ == "__main__":
    import torch

    import tuner.workers.gpu  # noqa: F401

    torch.optim.SGD([torch.zeros(1)], lr=0.0)  # what takes seconds is imported once
    config_yaml()
    gc.freeze()
    with get_context("fork").Pool(1, maxtasksperchild=1) as processes:
        for line in processes.imap(told, CASES):
            print(line, flush=True)

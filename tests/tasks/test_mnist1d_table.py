"""MNIST-1D's published table (Greydanus and Kobak 2020): test accuracies of four networks, within two points."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tasks.base import Task
from tuner.config.layers import resolve
from tuner.training.build import make_task

PUBLISHED = {"logistic": 0.32, "mlp": 0.68, "cnn": 0.94, "gru": 0.91}
WITHIN = 0.02
EPOCHS = 150
"""Of 40 batches of 100: the published 6,000 steps."""
SETTINGS: dict[str, dict[str, Any]] = {
    "logistic": {"lr": 1e-2, "weight_decay": 0.0, "schedule": False},
    "mlp": {"lr": 1e-2, "weight_decay": 0.1, "schedule": False},
    "cnn": {"lr": 2e-2, "weight_decay": 0.0, "schedule": True},
    "gru": {"lr": 3e-2, "weight_decay": 0.0, "schedule": False},
}


def task_of(network: str) -> Task:
    task = make_task(resolve({"task.name": f"mnist1d_{network}", "preset": "paper"}))
    task.setup(None, torch.device("cpu"))
    return task


@pytest.mark.slow
@pytest.mark.parametrize("network", PUBLISHED)
def test_the_published_table_comes_out(network: str) -> None:
    """With an average of the weights, as train.ema=0.99 has it; in a loop of its own."""
    task, chosen = task_of(network), SETTINGS[network]
    model = task.build(0)
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=chosen["lr"], weight_decay=chosen["weight_decay"])
    total, step = EPOCHS * task.steps_per_epoch, 0
    decayed = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total if chosen["schedule"] else 10**9)
    for epoch in range(EPOCHS):
        for batch in task.batches(0, epoch):
            optimizer.zero_grad()
            task.loss(model, batch)[0].backward()
            optimizer.step()
            decayed.step()
            decay = min(0.99, (1 + step) / (10 + step))
            step += 1
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    assert step == 6000
    assert abs(task.evaluate(average, "test")["acc"] - PUBLISHED[network]) <= WITHIN

"""Weights & Biases is told of training runs by its package, which may also keep them in files. No torch."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from tuner.trackers.backend import Backend, Ended


class WandB(Backend):
    """A Weights & Biases run per training run and attempt; WANDB_MODE=offline keeps them in RUN/wandb."""

    package = "wandb"
    patience_s = 20  # its own, which holds up the end of the process too, is 90 s and for ever

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.project = os.environ.get("WANDB_PROJECT") or "tuner"
        self.wandb = importlib.import_module("wandb")
        self.settings = self.wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True,
            init_timeout=self.patience_s, finish_timeout=self.patience_s, finish_timeout_raises=True,
        )  # fmt: skip
        mode = self.wandb.setup(settings=self.wandb.Settings(silent=True)).settings.mode
        if mode not in ("offline", "dryrun", "disabled") and not self.wandb.login(prompt=False):
            raise RuntimeError("no API key: wandb login, or WANDB_MODE=offline")  # init would ask, on the terminal

    def record(self, run: Ended) -> None:
        logged = self.wandb.init(
            project=self.project, group=self.directory.name, name=run.name, config=run.settings | run.tags,
            dir=str(self.directory), reinit="create_new", settings=self.settings,
        )  # fmt: skip
        for point in run.points:
            logged.log(point.values, step=point.step)
        logged.finish(exit_code=int(run.failed))

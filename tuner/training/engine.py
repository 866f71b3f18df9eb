"""The engine runs a model the same way for every optimizer: the ``train`` section's options."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from tuner.config.engine_options import TRAINING, EngineOptions
from tuner.config.space import is_of_training
from tuner.errors import UserError
from tuner.training.float32 import float32_products

DECAY_SHARE = 0.2
"""Of a run with the schedule wsd, for its decay: from a fifth on, more is of little use (Haegele et al., section 3)."""


class Engine(EngineOptions):
    """The options, and what each of them does."""

    @property
    def scheduled(self) -> bool:
        """Whether the learning rate changes."""
        return self.schedule != "constant" or bool(self.warmup_epochs)

    def of(self, hp: Mapping[str, Any]) -> Engine:
        """The engine of a training run with these hyperparameters, some of which may be of training."""
        tuned = {name.removeprefix(TRAINING): value for name, value in hp.items() if is_of_training(name)}
        return Engine(**(self.model_dump() | tuned)) if tuned else self

    def warmup_steps(self, steps: int, steps_per_epoch: int) -> float:
        """Of a run of ``steps`` steps."""
        if isinstance(self.warmup_epochs, str):
            return steps * float(self.warmup_epochs.removesuffix("%")) / 100
        return self.warmup_epochs * steps_per_epoch

    def lr_factor(self, step: int, steps: int, warmup_steps: float) -> float:
        """What the learning rate of step ``step`` (from 0) of ``steps`` is multiplied with.

        The cosine is Loshchilov and Hutter's, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017,
        equation 5, without restarts. Warm-up, stable, decay (wsd) is that of Haegele et al., "Scaling laws and
        compute-optimal training beyond fixed training durations", NeurIPS 2024, equation 1: constant until the last
        ``DECAY_SHARE`` of the run, then linear.
        """
        if step < warmup_steps:
            return min(1.0, (step + 1) / warmup_steps)
        if self.schedule == "constant":
            return 1.0
        start = max(warmup_steps, (1 - DECAY_SHARE) * steps) if self.schedule == "wsd" else warmup_steps
        progress = min(1.0, max(0.0, step - start) / max(1.0, steps - start))
        left = (1 + math.cos(math.pi * progress)) / 2 if self.schedule == "cosine" else 1 - progress
        return self.final_lr + (1 - self.final_lr) * left

    def scheduler(
        self, optimizer: torch.optim.Optimizer, steps: int, steps_per_epoch: int
    ) -> torch.optim.lr_scheduler.LRScheduler | None:
        """The schedule of a run of ``steps`` steps; ``None`` where the learning rate stays as it is.

        Raises:
            UserError: the optimizer has no learning rate.
        """
        if not self.scheduled:
            return None
        if not isinstance(optimizer, torch.optim.Optimizer) or any("lr" not in g for g in optimizer.param_groups):
            raise UserError(f"train.schedule: {type(optimizer).__name__} has no lr; use constant, without warm-up")
        warmup_steps = self.warmup_steps(steps, steps_per_epoch)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.lr_factor(step, steps, warmup_steps))

    @contextmanager
    def settings(self) -> Iterator[None]:
        """PyTorch's process-wide settings for the time of a run. Only with fp32 is a GPU's float32 never TF32."""
        cudnn, deterministic = torch.backends.cudnn, torch.utils.deterministic
        before = (cudnn.deterministic, deterministic.fill_uninitialized_memory, torch.get_deterministic_debug_mode())
        cudnn.deterministic = self.deterministic
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first matrix product on a GPU
            deterministic.fill_uninitialized_memory = False  # by a kernel for each; nothing should read it
        torch.use_deterministic_algorithms(self.deterministic)
        try:
            with float32_products(tf32=self.precision != "fp32"):
                yield
        finally:
            cudnn.deterministic, deterministic.fill_uninitialized_memory, mode = before
            torch.set_deterministic_debug_mode(mode)


class Runner:
    """A model as an engine runs it.

    Attributes:
        exact: in full precision and not compiled, for steps that estimate curvature from the forward pass.
        trained: for all other steps.
        evaluated: in the precision of those, not compiled.
    """

    def __init__(self, engine: Engine, model: nn.Module) -> None:
        self.engine = engine
        if engine.channels_last:
            model.to(memory_format=torch.channels_last).register_forward_pre_hook(_images_in_channels_last)
        self.exact = self.evaluated = self.trained = model
        if engine.compile:
            self.trained = cast(nn.Module, torch.compile(model))
        if engine.precision == "bf16":
            self.evaluated, self.trained = Autocast(self.evaluated), Autocast(self.trained)


class Autocast(nn.Module):
    """A model under autocast to bfloat16, with outputs in float32 for losses and metrics."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return self.model(inputs).float()


def _images_in_channels_last(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs)

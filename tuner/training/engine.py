"""The engine runs a model the same way for every optimizer: the ``train`` section's options."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from tuner.config.schema import EngineOptions
from tuner.errors import UserError


class Engine(EngineOptions):
    """The options, and what each of them does."""

    @property
    def scheduled(self) -> bool:
        """Whether the learning rate changes."""
        return self.schedule != "constant" or bool(self.warmup_epochs)

    def lr_factor(self, step: int, steps: int, warmup_steps: float) -> float:
        """What the learning rate of step ``step`` (from 0) of ``steps`` is multiplied with.

        The cosine is Loshchilov and Hutter's, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017,
        equation 5, without restarts.
        """
        if step < warmup_steps:
            return min(1.0, (step + 1) / warmup_steps)
        if self.schedule == "constant":
            return 1.0
        progress = (step - warmup_steps) / max(1.0, steps - warmup_steps)
        return self.final_lr + (1 - self.final_lr) * (1 + math.cos(math.pi * min(1.0, progress))) / 2

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
        warmup_steps = self.warmup_epochs * steps_per_epoch
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.lr_factor(step, steps, warmup_steps))

    @contextmanager
    def settings(self) -> Iterator[None]:
        """PyTorch's process-wide settings for the time of a run."""
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic)
        mode = torch.get_deterministic_debug_mode()
        matmul.allow_tf32 = cudnn.allow_tf32 = self.precision == "tf32"
        cudnn.deterministic = self.deterministic
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first matrix product on a GPU
        torch.use_deterministic_algorithms(self.deterministic)
        try:
            yield
        finally:
            matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = before
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

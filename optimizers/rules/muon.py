"""MuonWithAdamW: Muon for the matrices of a network, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers import apply
from optimizers.parts import OfParts


class MuonWithAdamW(OfParts):
    r"""``torch.optim.Muon`` for two-dimensional parameters, ``torch.optim.AdamW`` for all others.

    ``torch.optim.Muon`` refuses what is not a matrix. Its steps are scaled to AdamW's root mean square
    (``adjust_lr_fn="match_rms_adamw"``), so that one learning rate serves both. Convolutions' kernels, which are not
    two-dimensional, are AdamW's.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; scaling of Liu et al.,
    "Muon is scalable for LLM training", 2025 (arXiv 2502.16982).

    Args:
        params: parameters.
        lr: learning rate of both.
        momentum: Muon's momentum.
        betas: AdamW's decay rates.
        weight_decay: decoupled weight decay of both.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        params = list(params)
        if any(not isinstance(param, Tensor) for param in params):
            raise ValueError("MuonWithAdamW takes parameters, not parameter groups")
        matrices, others = [p for p in params if p.ndim == 2], [p for p in params if p.ndim != 2]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            muon = torch.optim.Muon(matrices, lr, weight_decay, momentum, adjust_lr_fn="match_rms_adamw")
            self.parts.append(muon)
        if others:
            self.parts.append(torch.optim.AdamW(others, lr, betas, weight_decay=weight_decay))
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step of each. Returns what the closure, PyTorch's usual one, returned."""
        loss = apply.evaluate(closure)
        for part in self.parts:
            part.step()
        return loss

    def parts_of_step(self) -> list[torch.optim.Optimizer]:
        return self.parts

    def state_dict(self) -> dict[str, Any]:
        """Those of the two."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"parts": self.parts}

"""An optimizer may be made of others, whose steps it takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class OfParts(torch.optim.Optimizer):
    """Its step is of what it does to gradients and states of its own, as tensors, and of the steps of its parts."""

    def parts_of_step(self) -> Sequence[torch.optim.Optimizer]:
        """Those whose ``step`` it calls, without a closure."""
        raise NotImplementedError

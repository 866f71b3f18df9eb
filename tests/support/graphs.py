"""A stand-in for a CUDA graph, on a CPU: its results are one memory, which each replay overwrites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from optimizers.stacking.cuda_graph import Held
from optimizers.stacking.replay import Results


class StandIn:
    """What ``CudaGraph`` is on a GPU.

    Attributes:
        made: all of them, for tests that clear it first.
    """

    made: ClassVar[list[StandIn]] = []

    def __init__(self, device: torch.device, pool: Any, held: Held) -> None:
        self.changed = held.changed
        self.replays = 0
        StandIn.made.append(self)

    def capture(self, run: Callable[[], Results]) -> Results:
        """Places for what ``run`` returns; nothing is done yet."""
        self._run = run
        before = [tensor.detach().clone() for tensor in self.changed]
        self._results = [None if result is None else torch.full_like(result, 7) for result in run()]
        with torch.no_grad():
            for tensor, content in zip(self.changed, before, strict=True):
                tensor.copy_(content)
        return self._results

    def replay(self) -> None:
        """Fill them."""
        self.replays += 1
        for place, result in zip(self._results, self._run(), strict=True):
            if place is not None and result is not None:
                place.copy_(result)

"""Stand-ins for a CUDA graph, on a CPU: their results are one memory, which each replay overwrites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
        before = [tensor.detach().clone() for tensor in self.changed]
        self._results = self._taken(run)
        with torch.no_grad():
            for tensor, content in zip(self.changed, before, strict=True):
                tensor.copy_(content)
        return self._results

    def _taken(self, run: Callable[[], Results]) -> Results:
        self._run = run
        return [None if result is None else torch.full_like(result, 7) for result in run()]

    def replay(self) -> None:
        """Fill them."""
        self.replays += 1
        for place, result in zip(self._results, self._run(), strict=True):
            if place is not None and result is not None:
                place.copy_(result)


class Tape(StandIn):
    """One that knows no more than a graph does: operations, their numbers, and where the tensors were."""

    def _taken(self, run: Callable[[], Results]) -> Results:
        with Taping() as taping:
            results = run()
        self._done = taping.done
        return results

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for func, args, kwargs, results in self._done:
                for place, result in zip(_tensors(results), _tensors(func(*args, **kwargs)), strict=True):
                    if place.data_ptr() != result.data_ptr():
                        place.copy_(result)


class Taping(TorchDispatchMode):
    """Keeps what is done while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, results))
        return results


def _tensors(results: Any) -> list[Tensor]:
    return [leaf.detach() for leaf in tree_leaves(results) if isinstance(leaf, Tensor)]

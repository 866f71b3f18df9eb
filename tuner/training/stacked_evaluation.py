"""The members of a stack are evaluated at once, and their metrics read together; one by one where that cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from optimizers import CurvatureOptimizer
from optimizers.stacking.of_members import OfMembers
from tasks.base import Task, evaluating, read
from tuner.text import fault
from tuner.training.metrics import evaluate
from tuner.training.stacked_model import Bound, StackedModel

AT_ONCE_BYTES, AT_ONCE_BYTES_ON_GPU = 2**22, 2**28
"""So much may the largest tensor hold of the members that are evaluated at once: what a processor's cache holds, and
some milliseconds' work for a GPU, whose memory holds a few of them."""
WORTH = 8
"""Where fewer than so many fit, the time is that of the arithmetic, and members are evaluated one by one."""
NOISE = 32
"""So many roundings of the largest metric may any differ by: one may be of rounding errors alone."""

Metrics = dict[str, float]
"""Named ``<split>_<metric>``."""


@dataclass
class Way:
    """How the members of stacks of a task are evaluated, as it was found out.

    Attributes:
        why_apart: why one by one; empty where they are not, or where nothing was tried.
        largest: of the splits that were tried, the bytes of the largest tensor of one member's evaluation.
    """

    why_apart: str = ""
    largest: dict[str, int] = field(default_factory=dict)

    def at_once(self, splits: tuple[str, ...], device: torch.device) -> int:
        """So many members are evaluated at once on splits that were tried; 0 for one by one."""
        most = AT_ONCE_BYTES_ON_GPU if device.type == "cuda" else AT_ONCE_BYTES
        fit = most // max(1, *(self.largest[split] for split in splits))
        return 0 if self.why_apart or fit < WORTH else fit


WAYS: WeakKeyDictionary[Task, dict[str, Way]] = WeakKeyDictionary()
"""By precision; the stacks of a task share what was found out."""


def way_of(model: StackedModel) -> Way:
    return WAYS.setdefault(model.task, {}).setdefault(model.runner.engine.precision, Way())


def evaluate_rows(
    model: StackedModel, params: Sequence[Tensor], rows: Sequence[int], splits: tuple[str, ...]
) -> list[Metrics]:
    """The metrics of some of a stack's members.

    The first time that several are evaluated on a split it is done both ways. What counts is what counts ever after: a
    worker's first stack comes to the same bits as any other.

    Args:
        params: what is evaluated, (members, ...) each.
        rows: which members.
    """
    way = way_of(model)
    asked = Asked(model, params, model.buffers, rows, splits)
    known = all(split in way.largest for split in splits)
    if len(rows) > 1 and known and (at_once := way.at_once(splits, model.task.device)):
        return asked.together(at_once)
    trying = len(rows) > 1 and not known and not way.why_apart
    before = [buffer.clone() for buffer in model.buffers] if trying else []
    apart = []
    for row in rows:
        model.load(row, params)
        apart.append(evaluate(model.task, model.runner.evaluated, splits))
    together = _tried(replace(asked, buffers=before), apart) if trying else None
    return apart if together is None else together


def diagnostics_of_rows(optimizer: OfMembers, rows: Sequence[int]) -> dict[int, dict[str, float]]:
    """What the optimizers of some of a stack's members say of themselves, if they do; read at once."""
    said = {}
    for row in rows:
        if isinstance(optimizer.members[row], CurvatureOptimizer):
            said[row] = cast(CurvatureOptimizer, optimizer.member_optimizer(row)).diagnostics()
    numbers = read({(row, name): value for row, named in said.items() for name, value in named.items()})
    return {row: {name: float(numbers[row, name]) for name in named} for row, named in said.items()}


@dataclass(frozen=True)
class Asked:
    """Some of a stack's members, and splits that they are evaluated on.

    Attributes:
        params, buffers: what is evaluated, (members, ...) each.
        rows: which members.
    """

    model: StackedModel
    params: Sequence[Tensor]
    buffers: Sequence[Tensor]
    rows: Sequence[int]
    splits: tuple[str, ...]

    def together(self, at_once: int) -> list[Metrics]:
        """The metrics of members, so many evaluated at once, and all read once."""
        columns = self.stacked(at_once)
        numbers = torch.stack([column.double() for column in columns.values()], dim=1).tolist()
        return [dict(zip(columns, row, strict=True)) for row in numbers]

    def stacked(self, at_once: int) -> dict[str, Tensor]:
        """Each metric of all members, (members,)."""
        task, network = self.model.task, self.model.runner.evaluated
        names = [name for name, _ in [*network.named_parameters(), *network.named_buffers()]]

        def member(*tensors: Tensor) -> dict[str, Tensor]:
            state = dict(zip(names, tensors, strict=True))
            found = {split: task.score(Bound(network, dict(state)), split) for split in self.splits}
            return {f"{split}_{name}": _scalar(value) for split in self.splits for name, value in found[split].items()}

        with evaluating(network), _batchable():
            return torch.vmap(member, chunk_size=at_once)(*_rows([*self.params, *self.buffers], self.rows))


def _tried(asked: Asked, expected: Sequence[Metrics]) -> list[Metrics] | None:
    """The metrics of members that are evaluated at once; ``None`` where they are not, and why is then known.

    Args:
        asked: with the buffers as they were before ``expected`` was found.
    """
    model, splits = asked.model, asked.splits
    way = way_of(model)
    if getattr(model.task.evaluate, "__func__", None) is not Task.evaluate:
        way.why_apart = "it has an `evaluate` of its own"
    elif not all(map(_same, asked.buffers, model.buffers)):
        way.why_apart = "an evaluation changes a buffer of the network"
    if way.why_apart:
        return None
    try:
        for split in splits:
            with Largest() as seen:
                replace(asked, rows=asked.rows[:1], splits=(split,)).stacked(1)
            way.largest[split] = seen.bytes
        if not (at_once := way.at_once(splits, model.task.device)):
            return None
        found = asked.together(at_once)
    except Exception as error:
        way.why_apart = fault(error)
        return None
    if not _alike(found, expected, _rounding(model)):
        way.why_apart = "the metrics of all members at once are others"
    return None if way.why_apart else found


def _scalar(value: Any) -> Any:
    """As ``vmap`` can return it, if it is a tensor of one real number; it refuses all that is no tensor."""
    if isinstance(value, Tensor) and (value.numel() != 1 or value.is_complex()):
        raise ValueError(f"a metric is {tuple(value.shape)} numbers")
    return value.reshape(()) if isinstance(value, Tensor) else value


def _rows(tensors: Sequence[Tensor], rows: Sequence[int]) -> list[Tensor]:
    if list(rows) == list(range(len(tensors[0]))):
        return list(tensors)
    chosen = torch.tensor(rows, device=tensors[0].device)
    return [tensor[chosen] for tensor in tensors]


@contextmanager
def _batchable() -> Iterator[None]:
    """Within it PyTorch takes no way that ``vmap`` has no batching rule for, if there is another."""
    fast, falls_back = torch.backends.mha.get_fastpath_enabled(), torch._C._functorch._is_vmap_fallback_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._functorch._set_vmap_fallback_enabled(False)  # member by member, with a warning
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._functorch._set_vmap_fallback_enabled(falls_back)


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that is made while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        made = [leaf.nbytes for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        self.bytes = max(self.bytes, *made, 0)
        return output


def _same(one: Tensor, other: Tensor) -> bool:
    """To the bit; a member that has diverged may have NaN in both."""
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _rounding(model: StackedModel) -> float:
    """The relative size of a rounding error in a step of the network."""
    reduced = model.runner.engine.precision != "fp32"
    return torch.finfo(torch.bfloat16 if reduced else model.params[0].dtype).eps


def _alike(found: Sequence[Metrics], expected: Sequence[Metrics], rounding: float) -> bool:
    """Whether each metric is the same, up to rounding, for most members.

    For most: by a rounding error a row may be classified otherwise here and there. What ``vmap`` does otherwise than
    member by member it does so for all.
    """
    if any(one.keys() != other.keys() for one, other in zip(found, expected, strict=True)):
        return False
    ones, others = (torch.tensor([list(row.values()) for row in rows]).double() for rows in (found, expected))
    allowed = others.abs() * rounding**0.5 + NOISE * rounding * others.abs().amax(dim=1, keepdim=True)
    same = ((ones - others).abs() <= allowed) | (ones == others) | (ones.isnan() & others.isnan())
    return bool((2 * same.sum(dim=0) > len(same)).all())

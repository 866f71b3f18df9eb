"""An optimizer may do what it does to each entry of a tensor alone: then it is the same for tensors side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch

from optimizers.stacking.as_one import OF_THE_PROCESS, POINTWISE, READS, AsOne, NotAsOneError, base_name, words
from optimizers.stacking.direct import Stacked

ALIKE_FACTS = words(
    "dtype device layout is_sparse is_cuda is_complex is_floating_point element_size grad data requires_grad is_leaf "
    "grad_fn"
)
"""What does not depend on how tensors are cut, as long as nobody looks into the shape."""
NUMBERS = frozenset({"tensor", "as_tensor", "scalar_tensor"})
MAKES = words("zeros ones full empty new_zeros new_ones new_full new_empty")
"""What makes tensors of a shape."""


class Shape(tuple[int, ...]):
    """That of tensors side by side: tensors can be made of it, but nobody may know it."""

    def refuse(self, *_: Any) -> NoReturn:
        raise NotAsOneError("it looks at shapes")

    __len__ = __iter__ = __getitem__ = __contains__ = __hash__ = __eq__ = __ne__ = refuse
    __add__ = __mul__ = __rmul__ = __lt__ = __le__ = __gt__ = __ge__ = __repr__ = index = count = refuse


class Entries(Stacked):
    """Tensors side by side, (members, width)."""

    @property
    def shape(self) -> Any:
        return Shape(super().shape)

    def __len__(self) -> int:
        raise NotAsOneError("it looks at shapes")


class EntriesAlone(AsOne):
    """As ``AsOne``, for what treats each entry of members' tensors as every other.

    Anything else, which looks at shapes or reduces, is a ``NotAsOneError``.
    """

    kind = Entries

    def _way(self, func: Any) -> Callable[[Any, Any, Mapping[str, Any]], Any]:
        name = func.__self__.__name__ if func.__name__ in ("__get__", "__set__") else func.__name__
        way = super()._way(func)
        if name in MAKES:
            return lambda func, args, kwargs: way(func, _shaped(args), kwargs)
        pointwise = base_name(name.removeprefix("_foreach_")) in POINTWISE
        if not (pointwise or name.startswith(OF_THE_PROCESS) or name in ALIKE_FACTS | READS | NUMBERS):
            raise NotAsOneError(f"{name} is not of each entry alone")
        return way

    def _read(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        if isinstance(args[0], Stacked) and args[0].dim() > 1:
            raise NotAsOneError("it reads a tensor's entries")
        return super()._read(func, args, kwargs)


def _shaped(args: tuple[Any, ...]) -> list[Any]:
    """Arguments of what makes a tensor, one of which must be a ``Shape``."""
    if not any(type(x) is Shape for x in args):
        raise NotAsOneError("it makes tensors of a shape of its own")
    return [torch.Size(tuple.__iter__(x)) if type(x) is Shape else x for x in args]

"""Functions of one member's tensors are done for all members by PyTorch's batching rules.

``torch.vmap`` looks through its arguments and results as trees, several times a call: more time than a small tensor's
operation takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import _add_batch_dim, _remove_batch_dim
from torch._functorch.vmap import lazy_load_decompositions, vmap_increment_nesting


def leaves(value: Any) -> Iterator[Any]:
    """What is in lists, tuples and mappings."""
    if isinstance(value, list | tuple):
        for x in value:
            yield from leaves(x)
    elif isinstance(value, dict):
        for x in value.values():
            yield from leaves(x)
    else:
        yield value


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """What is in lists, tuples and mappings, changed."""
    if type(value) is torch.Size:
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(x, change) for x in value))
    if isinstance(value, list | tuple):
        return type(value)([mapped(x, change) for x in value])
    if isinstance(value, dict):
        return {key: mapped(x, change) for key, x in value.items()}
    return change(value)


def batched(
    function: Callable[..., Any],
    args: Any,
    kwargs: Mapping[str, Any],
    members: int,
    of_members: Callable[[Any], Tensor | None],
    made: type[Tensor],
) -> Any:
    """What a function returns for each member; tensors among it are stacked.

    Args:
        of_members: the stacked tensor, (members, ...), that an argument is; ``None`` for what all members have alike.
        made: what stacked results are.
    """
    lazy_load_decompositions()
    with vmap_increment_nesting(members, "error") as level:

        def lowered(value: Any) -> Any:
            stacked = of_members(value)
            return value if stacked is None else _add_batch_dim(stacked, 0, level)

        def stacked(result: Any) -> Any:
            if not isinstance(result, Tensor):
                return result
            return _remove_batch_dim(result, level, members, 0).as_subclass(made)

        return mapped(function(*mapped(args, lowered), **mapped(dict(kwargs), lowered)), stacked)

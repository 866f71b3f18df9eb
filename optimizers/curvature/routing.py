"""Some operations move entries to where other entries say, so that rows may be of other samples at each batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ROUTING = {
    *("gather", "index_select", "masked_select", "take", "take_along_dim", "scatter", "masked_scatter", "index_put"),
    *("index_copy", "index_add", "scatter_add", "scatter_reduce", "index_reduce", "sort", "topk"),
    "_pack_padded_sequence",
}
"""Names of functions, without the underscore of those in place, that move entries to where other entries say."""


def is_routing(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a call may give a row another sample than it has in another batch."""
    name = getattr(func, "__name__", "")
    if name in ("__getitem__", "__setitem__"):
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(hasattr(part, "__len__") for part in index)
    if name in ("cat", "concat", "concatenate"):
        return kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0)) == 0
    return name.removesuffix("_") in ROUTING

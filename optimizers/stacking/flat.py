"""A stack's tensors lie side by side in one buffer, so that an elementwise rule is one call for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ALIGNED = 16
"""Entries whose multiple each tensor's place is: kernels read several at a time."""
ATEN = torch.ops.aten
MAKES = frozenset(
    getattr(ATEN, name)
    for name in (
        *(
            "clone",
            "detach",
            "alias",
            "lift_fresh",
            "_to_copy",
            "copy_",
            "scalar_tensor",
            "zeros",
            "ones",
            "full",
            "empty",
        ),
        *("zeros_like", "ones_like", "full_like", "empty_like"),
    )
)
"""What is as elementwise as PyTorch's pointwise operations, which it calls so."""


class Places:
    """Where each of a stack's tensors lies in a buffer, (members, width).

    Args:
        shapes: a member's.
    """

    def __init__(self, shapes: Sequence[torch.Size]) -> None:
        self.shapes = list(shapes)
        self.sizes = [math.prod(shape) for shape in shapes]
        self.gaps = [-size % ALIGNED for size in self.sizes]
        self.width = sum(self.sizes) + sum(self.gaps)

    def buffer(self, tensors: Sequence[Tensor]) -> Tensor:
        """A new one of these, (members, ...) each, with zeros between them."""
        return torch.cat(self.parts(tensors, tensors[0].new_zeros(1, 1)), 1)

    def parts(self, tensors: Sequence[Tensor], zero: Tensor) -> list[Tensor]:
        """What lies in a buffer, (members, ...) each, one beside the other.

        Args:
            zero: (1, 1)
        """
        parts: list[Tensor] = []
        for tensor, gap in zip(tensors, self.gaps, strict=True):
            parts.append(tensor.reshape(len(tensor), -1))
            if gap:
                parts.append(zero.expand(len(tensor), gap))
        return parts

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The tensors, (members, ...) each, that lie in a buffer."""
        pieces = buffer.split([n for both in zip(self.sizes, self.gaps, strict=True) for n in both], 1)
        return [piece.view(len(buffer), *shape) for piece, shape in zip(pieces[::2], self.shapes, strict=True)]


class Room:
    """A buffer that stays, for tensors that are brought there at every step.

    Args:
        like: one of them, (members, ...).

    Attributes:
        buffer: (members, width), zero between the tensors.
    """

    def __init__(self, places: Places, like: Tensor) -> None:
        self.buffer = like.new_zeros(len(like), places.width)
        self._places, self._views = places, places.views(self.buffer)
        self._zero = like.new_zeros(1, 1)

    def filled(self, tensors: Sequence[Tensor]) -> Tensor:
        """The buffer, with these."""
        if self.buffer.is_cuda:  # where copies to places with gaps are launched one by one
            return torch.cat(self._places.parts(tensors, self._zero), 1, out=self.buffer)
        torch._foreach_copy_(self._views, list(tensors))
        return self.buffer


class Operations(TorchDispatchMode):
    """Notes what is done while it is entered, below ``vmap``.

    Args:
        members: the size of the first dimension of all that is stacked.

    Attributes:
        done: names of operations with their numbers.
        elementwise: whether each entry of all results depends on the same entry of what went in alone, and on numbers
            of its member.
    """

    def __init__(self, members: int) -> None:
        super().__init__()
        self._members = members
        self.done: list[Any] = []
        self.elementwise = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        numbers = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, bool | int | float)]
        of_members = all(tensor.numel() in (1, self._members) for tensor in tensors)
        known = torch.Tag.pointwise in func.tags or func.overloadpacket in MAKES
        self.elementwise = self.elementwise and (known or of_members)
        if not of_members:  # numbers of members are brought to the shape of what they are for
            self.done.append((str(func), numbers if known else []))
        return func(*args, **kwargs)

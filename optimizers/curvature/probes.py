"""Probes are random vectors that an estimator multiplies with the Hessian, drawn for each member from a stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

FEW = 2**13
"""Signs that randint draws sooner than they are looked up."""
Draw = Callable[[Sequence[Tensor], torch.Generator], list[Tensor]]
"""Random tensors like those given."""


@dataclass
class Streams:
    """The random streams of a stack's members; members of the same seed share one.

    Attributes:
        generators: one per seed.
        stream_of: which of them each member has, (members,).
    """

    generators: list[torch.Generator]
    stream_of: Tensor

    def draw(self, draw: Draw, like: Sequence[Tensor]) -> list[Tensor]:
        """What each member would draw for itself, stacked.

        Args:
            draw: for one member's tensors.
            like: the stack's, (members, ...) each.
        """
        member = [tensor[0] for tensor in like]
        drawn = [draw(member, generator) for generator in self.generators]
        if len(drawn) == 1:
            return [tensor.expand_as(stack) for tensor, stack in zip(drawn[0], like, strict=True)]
        return [torch.stack(tensors)[self.stream_of] for tensors in zip(*drawn, strict=True)]


def rows_of_members(
    draw: Callable[[Sequence[int], torch.Generator], Tensor], shape: Sequence[int], generator: torch.Generator | Streams
) -> Tensor:
    """A random tensor of a row for each sample; of a stack, whose members' samples follow one another, what each member
    would draw for its own.

    Args:
        draw: a tensor of a shape.
        shape: (samples, ...), or (members * samples, ...).
    """
    if not isinstance(generator, Streams):
        return draw(shape, generator)
    own = (shape[0] // len(generator.stream_of), *shape[1:])
    return torch.stack([draw(own, each) for each in generator.generators])[generator.stream_of].flatten(0, 1)


def _apart(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The entries of a tensor, (entries,), in the shapes and dtypes of others."""
    parts = torch._C._nn.unflatten_dense_tensors(flat, list(like))  # of those without entries it loses the shape
    alike = (part.dtype is t.dtype and part.shape == t.shape for part, t in zip(parts, like, strict=True))
    return [p if same else p.view(t.shape).to(t.dtype) for p, t, same in zip(parts, like, alike, strict=True)]


def random_normals(like: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Normal numbers, of the shapes, dtypes and device of ``like``; drawn all at once."""
    first, count = like[0], sum(tensor.numel() for tensor in like)
    return _apart(torch.randn(count, dtype=first.dtype, device=first.device, generator=generator), like)


def random_signs(like: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Entries -1 or 1 with equal probability, of the shapes, dtypes and device of ``like``; a random bit each."""
    return _apart(_flat_signs(sum(tensor.numel() for tensor in like), like[0].dtype, generator), like)


def _flat_signs(count: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    if count <= FEW:  # the high end of randint is exclusive: (0, 2) draws 0 and 1
        bits = torch.randint(0, 2, (count,), dtype=dtype, device=generator.device, generator=generator)
        return torch.rsub(bits, -1, alpha=-2)  # in one kernel
    words = torch.empty(-(-count // 64), dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)
    return _signs_of_bytes(dtype, words.device).index_select(0, words.view(torch.uint8).int()).flatten()[:count]


@lru_cache(maxsize=8)
def _signs_of_bytes(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The bits of every byte as signs, ``(256, 8)``."""
    bits = (torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device)) & 1
    return (2 * bits - 1).to(dtype)

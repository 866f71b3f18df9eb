"""Per-sample squares of all members of a stack are summed at once: one backward pass, and a member's sums under vmap.

The members' forward pass runs under ``vmap``, where a layer is given tensors that look like one member's. Behind each
lies the stack's, with a dimension more: that one has the place in the graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_batchedtensor, maybe_get_bdim

from optimizers.curvature.graph import place_of
from optimizers.curvature.interface import Refresh
from optimizers.curvature.layer_records import Recorder, Use
from optimizers.curvature.per_sample import Grads, PerSample, Summed, Uses


class StackedUse:
    """One use of a parameter by a layer, of each member.

    Args:
        use: its tensors look like one member's, as its numbers do.
        output: the layer's output, likewise.

    Attributes:
        tensors: the stack's behind those of the use, by name.
        dims: which dimension of each the members are; ``None`` where they share one.
        output_dim: the same of the output.
    """

    def __init__(self, use: Use, output: Tensor) -> None:
        self.use = use
        tensors = {name: value for name, value in vars(use).items() if isinstance(value, Tensor)}
        self.tensors = {name: get_unwrapped(t) if is_batchedtensor(t) else t for name, t in tensors.items()}
        self.dims = {name: maybe_get_bdim(t) if is_batchedtensor(t) else None for name, t in tensors.items()}
        self.output_dim: int = maybe_get_bdim(output)

    def with_tensors(self, tensors: dict[str, Tensor], members: int = 1) -> Use:
        """The use by one member, whose tensors these are, or look like it under a ``vmap`` over so many."""
        own = copy.copy(self.use)
        vars(own).update(tensors, members=members)
        return own

    def of_member(self, row: int) -> Use:
        """The use by one member."""
        dims = self.dims
        return self.with_tensors({name: _row(tensor, dims[name], row) for name, tensor in self.tensors.items()})


class MembersRecorder(Recorder):
    """A ``Recorder`` of the forward passes of all members under one ``vmap``.

    Args:
        params: the stack's, (members, ...) each.

    Attributes:
        stacked: what is known of each use that was noted.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        super().__init__(params)
        self.stacked: dict[Use, StackedUse] = {}

    def _read(self, reader: Callable[..., None], output: Tensor, args: Any, kwargs: Any) -> None:
        whole = _of_stack(output)
        if whole is not None and whole.requires_grad:
            self._edge = place_of(whole)
            reader(self, output, *args, **kwargs)

    def _note(self, use: type[Use], param: Tensor | None, output: Tensor, *args: Any, **kwargs: Any) -> None:
        whole = None if param is None else _of_stack(param)
        if param is not None and id(whole) in self.uses:
            noted = use(param, output, self._edge, *args, **kwargs)
            self.uses[id(whole)].append(noted)
            self.stacked[noted] = StackedUse(noted, output)


class PerSampleOfMembers(PerSample):
    """``PerSample`` of a stack: parameters and sums are (members, ...), and outputs those of all members' samples.

    What is decided by reading numbers is so by those of the first member that says something: members' networks differ
    in their weights alone.
    """

    stack_dims = 1

    def __init__(self, refresh: Refresh, name: str, instead: str = "gnb's estimate") -> None:
        self.stacked: dict[Use, StackedUse] = refresh.record.stacked
        super().__init__(refresh, name, instead, members=len(refresh.params[0]))

    def sums_of(self, grads: Grads, params: Sequence[Tensor], uses: Uses, summed: Summed) -> list[Tensor]:
        given = {key: grad for key, grad in grads.items() if grad is not None}
        stacked = {place: self.stacked[use] for place, (use, _) in uses.items()}
        output_dims = {use.use.edge: use.output_dim for use in stacked.values()}
        sums = super().sums_of

        def of_member(
            own_grads: list[Tensor], own_params: list[Tensor], tensors: dict[int, dict[str, Tensor]]
        ) -> list[Tensor]:
            own_uses = {
                place: (use.with_tensors(tensors[place], self.members), uses[place][1])
                for place, use in stacked.items()
            }
            own = dict.fromkeys(grads) | dict(zip(given, own_grads, strict=True))
            return sums(own, own_params, own_uses, summed)

        dims = {place: use.dims for place, use in stacked.items()}
        in_dims = [output_dims.get(key, 0) + 1 for key in given], 0, dims  # a dimension of vectors comes first
        tensors = {place: use.tensors for place, use in stacked.items()}
        return list(torch.vmap(of_member, in_dims=in_dims)(list(given.values()), list(params), tensors))

    def of_each_member(
        self, use: Use, grad: Tensor, rows: Tensor, scaled_rows: Tensor
    ) -> Iterator[tuple[Use, Tensor, Tensor, Tensor]]:
        stacked = self.stacked[use]
        dim = stacked.output_dim + 1
        for row in range(self.members):
            yield stacked.of_member(row), grad.select(1, row), rows.select(dim, row), scaled_rows.select(dim, row)


def _of_stack(tensor: Tensor) -> Tensor | None:
    """What lies behind a tensor that looks like one member's; ``None`` where another ``vmap`` lies between, or none."""
    if not is_batchedtensor(tensor):
        return None
    whole: Tensor = get_unwrapped(tensor)
    return None if is_batchedtensor(whole) else whole


def _row(tensor: Tensor, dim: int | None, row: int) -> Tensor:
    return tensor if dim is None else tensor.select(dim, row)

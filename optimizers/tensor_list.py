"""A list of tensors is treated as one by a rule that was written for a tensor: side by side in one flat tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

LARGEST_SEGMENT = 2**16
"""Entries that one block of threads reduces about as fast as a kernel is launched."""


class TensorList(Sequence[Tensor]):
    """Tensors of one dtype and device that compute as one; each result is again a list.

    Operators, tensor methods and torch functions act on every tensor. Other operands are lists of the same length, or
    one number or 0-dim tensor for all. What works entry by entry is done once, on the entries of all tensors side by
    side in one flat tensor; the least, the largest and the norm of each tensor are foreach kernels on a GPU; the rest
    runs on one tensor after the other. Tensors that were computed side by side are found so again.

    Args:
        tensors: all of them; ``None`` to have them made of ``flat`` when they are asked for.
        places: where each lies among the others, if known; of tensors of the same shapes.
        flat: the entries of all, (entries,), if known.
    """

    def __init__(
        self, tensors: Iterable[Tensor] | None, places: Places | None = None, flat: Tensor | None = None
    ) -> None:
        self._tensors = None if tensors is None else list(tensors)
        self._flat = flat
        self.places = Places(self.tensors) if places is None else places

    @property
    def tensors(self) -> list[Tensor]:
        if self._tensors is None:
            assert self._flat is not None
            self._tensors = self.places.apart(self._flat)
        return self._tensors

    @property
    def flat(self) -> Tensor:
        if self._flat is None:
            self._flat = self.places.together(self.tensors)
        return self._flat

    @property
    def dtype(self) -> torch.dtype:
        return self._any.dtype

    @property
    def device(self) -> torch.device:
        return self._any.device

    @property
    def _any(self) -> Tensor:
        return self.tensors[0] if self._flat is None else self._flat

    def __len__(self) -> int:
        return len(self.places.shapes)

    def __getitem__(self, index: Any) -> Any:
        return self.tensors[index]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> TensorList:
        return _apply(func.__name__, func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        method = getattr(Tensor, name)
        if not callable(method):
            return getattr(self.tensors[0], name)
        return partial(_apply_method, name, method, self)

    def least(self, at_most: float) -> TensorList:
        """``amin().clamp(max=at_most)`` of each tensor."""
        if not self._any.is_cuda or not self._any.is_floating_point():
            return self.amin().clamp(max=at_most)
        found = least_of_each(self.flat, self.places.sizes, at_most)
        return TensorList(list(found.unbind()), flat=found)

    def side_by_side(self) -> list[Tensor]:
        """The tensors as views of the flat one, if that is known."""
        return self.tensors if self._flat is None else self.places.apart(self._flat)

    def __neg__(self) -> TensorList:
        return _apply("neg", torch.neg, (self,), {})

    def __add__(self, other: Any) -> TensorList:
        return _apply("add", torch.add, (self, other), {})

    def __sub__(self, other: Any) -> TensorList:
        return _apply("sub", torch.sub, (self, other), {})

    def __mul__(self, other: Any) -> TensorList:
        return _apply("mul", torch.mul, (self, other), {})

    def __truediv__(self, other: Any) -> TensorList:
        return _apply("div", torch.div, (self, other), {})

    def __rsub__(self, other: Any) -> TensorList:
        return -self + other

    def __rtruediv__(self, other: Any) -> TensorList:
        return self.reciprocal() * other  # as PyTorch divides a number by a tensor

    __radd__ = __add__
    __rmul__ = __mul__


class Places:
    """Where the entries of each of several tensors lie in a flat one: in the order in which it has them in memory."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)
        self.shapes = [tensor.shape for tensor in tensors]
        self.sizes = [tensor.numel() for tensor in tensors]
        self.orders = None if all(t.is_contiguous() for t in tensors) else [_order(tensor) for tensor in tensors]

    @property
    def numbers(self) -> bool:
        """Whether each tensor is a number, of no dimension."""
        return all(not shape for shape in self.shapes)

    def together(self, tensors: list[Tensor]) -> Tensor:
        """The entries of tensors of these shapes, (entries,); not a copy where they lie there already."""
        if self.orders is not None:
            tensors = [tensor.permute(order) for tensor, order in zip(tensors, self.orders, strict=True)]
        found = self._found(tensors)
        return torch._C._nn.flatten_dense_tensors(tensors) if found is None else found

    def apart(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat tensor, of these shapes."""
        if self.orders is None:
            return list(torch._C._nn.unflatten_dense_tensors(flat, self.tensors))
        views = []
        for line, shape, order in zip(flat.split(self.sizes), self.shapes, self.orders, strict=True):
            back = sorted(range(len(order)), key=order.__getitem__)
            views.append(line.view([shape[dim] for dim in order]).permute(back))
        return views

    def spread(self, numbers: Sequence[Tensor]) -> Tensor:
        """A number of each tensor, at all its entries: (entries,)."""
        return torch.cat([number.expand(size) for number, size in zip(numbers, self.sizes, strict=True)])

    def _found(self, tensors: list[Tensor]) -> Tensor | None:
        """The flat tensor that they are views of, if they are."""
        first, width = tensors[0], tensors[0].element_size()
        start = end = first.data_ptr()
        for tensor, size in zip(tensors, self.sizes, strict=True):
            if tensor.data_ptr() != end or not tensor.is_contiguous():
                return None
            end += size * width
        storage = first.untyped_storage()  # side by side they may also lie by chance
        if end > storage.data_ptr() + storage.nbytes():
            return None
        return first.as_strided(((end - start) // width,), (1,), first.storage_offset())


def least_of_each(flat: Tensor, sizes: Sequence[int], at_most: float) -> Tensor:
    """The least entry of each tensor that lies in a flat one, or a number where that is less, in few kernels."""
    for ends in _segments(tuple(sizes), LARGEST_SEGMENT, flat.device):
        flat = torch.segment_reduce(flat, "min", offsets=ends, axis=0, unsafe=True, initial=at_most)
    return flat


@cache  # for good: a CUDA graph reads them where they are
def _segments(sizes: tuple[int, ...], largest: int, device: torch.device) -> list[Tensor]:
    """Where segments begin, and the last ends, whose reductions lead to a number of each tensor of these sizes: in two
    steps where there are large ones."""
    starts, parts = list(accumulate(sizes, initial=0)), [-(-size // largest) for size in sizes]
    cut = [start + largest * i for start, n in zip(starts, parts, strict=False) for i in range(n)]
    steps = [starts] if max(parts) == 1 else [[*cut, starts[-1]], list(accumulate(parts, initial=0))]
    return [torch.tensor(step, device=device) for step in steps]


def _order(tensor: Tensor) -> list[int]:
    """Its dimensions from the slowest to the fastest."""
    return sorted(range(tensor.ndim), key=lambda dim: -tensor.stride(dim))


ENTRY_BY_ENTRY = {
    *("abs", "neg", "sign", "sqrt", "rsqrt", "square", "reciprocal", "exp", "expm1", "log", "log1p", "tanh"),
    *("add", "sub", "mul", "div", "pow", "addcdiv", "addcmul", "lerp", "clamp", "maximum", "minimum", "copysign"),
    *("gt", "ge", "lt", "le", "eq", "ne", "isfinite", "isnan", "logical_not", "where", "nan_to_num"),
    *("clone", "zeros_like", "ones_like", "full_like"),
}
"""Names of functions that work entry by entry."""


def _apply_method(name: str, method: Callable[..., Any], this: TensorList, *args: Any, **kwargs: Any) -> TensorList:
    return _apply(name, method, (this, *args), kwargs)


def _apply(name: str, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> TensorList:
    if name in ENTRY_BY_ENTRY:
        flats = _side_by_side(args, kwargs)
        if flats is not None:
            places, given, named = flats
            return TensorList(None, places, func(*given, **named))
    lists = [operand for operand in (*args, *kwargs.values()) if isinstance(operand, TensorList)]
    if len(lists) == 1 and lists[0] is args[0] and lists[0].device.type == "cuda":
        if name == "amin" and not args[1:] and not kwargs:
            return -(-lists[0]).amax()
        numbers = _number_of_each(name, lists[0].tensors, args[1:], kwargs)
        if numbers is not None:
            return TensorList(numbers)

    def one(i: int) -> Tensor:
        given = [o[i] if isinstance(o, TensorList) else o for o in args]
        return func(*given, **{k: o[i] if isinstance(o, TensorList) else o for k, o in kwargs.items()})

    done = [one(i) for i in range(len(lists[0]))]
    if name.endswith("_"):
        lists[0]._flat = None  # a copy, maybe, of what was changed in place
    return TensorList(done)


def _side_by_side(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Places, list[Any], dict[str, Any]] | None:
    """The operands as flat tensors, and where a list's tensors lie in them; ``None`` where they do not fit."""
    first = next(operand for operand in (*args, *kwargs.values()) if isinstance(operand, TensorList))
    for operand in (*args, *kwargs.values()):
        if isinstance(operand, Tensor) and operand.ndim:
            return None
        if isinstance(operand, TensorList) and operand.places is not first.places:
            common = _common_places([o for o in (*args, *kwargs.values()) if isinstance(o, TensorList)])
            if common is None:
                return None
            return common, [_entries(o, common) for o in args], {k: _entries(o, common) for k, o in kwargs.items()}
    return (
        first.places,
        [o.flat if isinstance(o, TensorList) else o for o in args],
        {k: o.flat if isinstance(o, TensorList) else o for k, o in kwargs.items()} if kwargs else kwargs,
    )


def _common_places(lists: list[TensorList]) -> Places | None:
    """Those of lists of the same shapes, beside which there may be lists of numbers of their dtype."""
    first = next((each for each in lists if not each.places.numbers), lists[0])
    places = first.places
    for each in lists:
        if each.places is places:
            continue
        if len(each) != len(first):
            raise ValueError(f"lists of {len(first)} and {len(each)} tensors")
        if each.places.shapes != places.shapes and not (each.places.numbers and each.dtype == first.dtype):
            return None  # a number of a wider dtype would widen the others in a tensor of one dimension
    return places


def _entries(operand: Any, places: Places) -> Any:
    if not isinstance(operand, TensorList):
        return operand
    if operand.places is places:
        return operand.flat
    if operand.places.shapes == places.shapes:
        return operand.flat if operand.places.orders == places.orders else places.together(operand.tensors)
    return places.spread(operand.tensors)


def _number_of_each(name: str, tensors: list[Tensor], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """A number of each tensor, by foreach kernels; ``None`` where there is none."""
    if name == "norm" and not args and kwargs.keys() <= {"p", "dtype"} and isinstance(kwargs.get("p", 2), int | float):
        return torch._foreach_norm(tensors, kwargs.get("p", 2), dtype=kwargs.get("dtype"))
    if name == "amax" and not args and not kwargs:
        return torch._foreach_max(tensors)
    return None

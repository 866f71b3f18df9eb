"""What is written for one member's tensors is done for those of all members of a stack, call by call.

An optimizer that was never written for it takes its step with tensors that stand for all members': each function of
PyTorch that it calls is found here, and done once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from optimizers.stacking.batching import batched, leaves, mapped
from optimizers.stacking.columns import ALIKE, lists_alike, with_column, with_columns
from optimizers.stacking.direct import BY_MATRIX, DIRECT, Stacked, takes
from optimizers.stacking.member_numbers import DisagreeError, MemberNumbers


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


POINTWISE = words(
    "add sub subtract rsub mul multiply div divide true_divide neg negative abs absolute sqrt rsqrt square pow "
    "exp expm1 log log1p sign sgn clamp clamp_min clamp_max clip maximum minimum fmax fmin where lerp addcmul "
    "addcdiv reciprocal sigmoid tanh erf atan atan2 hypot copysign eq ne lt le gt ge greater less logical_and "
    "logical_or logical_not logical_xor isnan isfinite isinf nan_to_num copy zero fill masked_fill clone "
    "detach zeros_like ones_like empty_like full_like to float double half bfloat16 type_as contiguous __add__ "
    "__radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ __rmul__ __imul__ __truediv__ __rtruediv__ "
    "__itruediv__ __neg__ __abs__ __pow__ __rpow__ __ipow__ __gt__ __ge__ __lt__ __le__ __eq__ __ne__ __and__ "
    "__or__ __invert__ __xor__ "
)
"""Functions, without the underscore of those in place, whose every entry depends on the same entries alone."""
SCALED = {"add": 1, "sub": 1, "addcmul": 1, "addcdiv": 1}
"""What takes a number as ``alpha`` or ``value``, and which operand that number scales."""
VIEWS = frozenset({"T", "mT", "H", "mH", "real", "imag"})
ROW_FACTS = words(
    "__len__ size dim ndimension numel nelement stride is_contiguous element_size is_floating_point is_complex "
    "get_device result_type is_same_size type"
)
"""Functions that ask for shapes and types alone."""
OF_THE_PROCESS = ("_set_grad_enabled", "is_grad_enabled", "_record_function", "_is_compiling")
"""Functions whose names begin so have to do with no tensor."""
READS = frozenset({"item", "tolist", "__float__", "__int__", "__bool__", "__index__", "is_nonzero"})
MOST_NUMBERS = 256
"""So many tensors of numbers are kept."""
WHOLE_FACTS: dict[str, Callable[[Tensor], Any]] = {
    "device": lambda tensor: tensor.device,
    "is_complex": lambda tensor: tensor.is_complex(),
    "is_floating_point": lambda tensor: tensor.is_floating_point(),
    "ndim": lambda tensor: tensor.dim() - 1,
    "dim": lambda tensor: tensor.dim() - 1,
    "size": lambda tensor: tensor.size()[1:],
    "numel": lambda tensor: tensor.numel() // tensor.size(0),
}
"""What a member's tensor is, of the stacked one."""


class NotAsOneError(RuntimeError):
    """This cannot be done for all members in one."""


class AsOne(TorchFunctionMode):
    """While it is entered, PyTorch's functions take ``Stacked`` tensors for those of one member.

    What is done with ``MemberNumbers`` is done with each member's. A new tensor is one for each member; one without
    dimensions may be all members' alike.

    Args:
        members: how many there are.
    """

    kind: type[Stacked] = Stacked
    """That new tensors are of."""

    def __init__(self, members: int) -> None:
        super().__init__()
        self.members = members
        self._numbers: dict[Any, Tensor] = {}
        self._ways: dict[Any, Callable[[Any, Any, Mapping[str, Any]], Any]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        way = self._ways.get(func)
        if way is None:
            way = self._ways[func] = self._way(func)
        return way(func, args, kwargs or {})

    def _way(self, func: Any) -> Callable[[Any, Any, Mapping[str, Any]], Any]:
        """How a function is done."""
        name = func.__name__
        if name.startswith(OF_THE_PROCESS):
            return lambda func, args, kwargs: func(*args, **kwargs)
        if name in ("__get__", "__set__"):
            return self._attribute
        if name.startswith("_foreach_"):
            return self._foreach
        if base_name(name) in POINTWISE:
            return self._pointwise
        if name in ROW_FACTS:
            return self._of_a_row
        if name in READS:
            return self._read
        if name in DIRECT or name in BY_MATRIX:
            return self._directly
        return self._batched

    def _directly(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """By a function that does it for stacked tensors, where there is one for these."""
        name = func.__name__
        if "out" in kwargs and kwargs["out"] is None:
            kwargs = {key: x for key, x in kwargs.items() if key != "out"}
        if name in BY_MATRIX:
            if args and isinstance(args[0], Stacked) and args[0].dim() > 2 and _alike((*args[1:], *kwargs.values())):
                return mapped(func(*args, **kwargs), lambda tensor: tensor.as_subclass(self.kind))
        elif takes(name, len(args), tuple(kwargs)):
            done = DIRECT[name](*args, **kwargs)
            if done is not None:
                return done.as_subclass(self.kind)
        return self._batched(func, args, kwargs)

    def _attribute(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        name, tensor = func.__self__.__name__, args[0]
        if not isinstance(tensor, Stacked):
            return func(*args, **kwargs)
        if name == "data":
            return tensor if func.__name__ == "__get__" else tensor.copy_(args[1])
        if name in ("requires_grad", "is_leaf"):
            return tensor.trained
        if name == "grad_fn":
            return None
        if func.__name__ == "__set__":
            raise NotAsOneError(f"sets .{name} of a tensor")
        return self._batched(func, args, kwargs) if name in VIEWS else self._of_a_row(func, args, kwargs)

    def _of_a_row(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Of the first member's: what all have alike."""
        name = func.__self__.__name__ if func.__name__ == "__get__" else func.__name__
        if name in WHOLE_FACTS and isinstance(args[0], Stacked) and (len(args) == 1 or func.__name__ == "__get__"):
            return WHOLE_FACTS[name](args[0])
        return func(*(x.as_subclass(Tensor)[0] if isinstance(x, Stacked) else x for x in args), **kwargs)

    def _read(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Values on the host: what all members have alike, or each its own number."""
        if not isinstance(args[0], Stacked):
            return func(*args, **kwargs)
        tensor = args[0].as_subclass(Tensor)
        values = (tensor.view(-1) if tensor.numel() == self.members else tensor).tolist()
        if all(value == values[0] for value in values):
            return func(torch.tensor(values[0], dtype=args[0].dtype), *args[1:])
        if func.__name__ == "item":
            return MemberNumbers(values)
        raise DisagreeError("members' values differ where one is asked for")

    def _pointwise(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        if _of_one_rank(args, kwargs):  # most calls
            result = func(*args, **kwargs)
            return result if result is args[0] else result.as_subclass(self.kind)
        quickly = with_column(func, args, kwargs, self.column)
        if quickly is not None:
            result = quickly[0](*quickly[1], **quickly[2])
            return args[0] if _in_place(func.__name__) or result is args[0] else result.as_subclass(self.kind)
        rank, like = _leading((*args, *kwargs.values()))
        name = func.__name__
        if like is None:
            return self._without_members(func, args, kwargs)
        base, in_place = base_name(name), _in_place(name)
        if in_place and not isinstance(args[0], Stacked):
            raise NotAsOneError("changes a tensor that all members have alike by members' own")
        given = [self._operand(x, rank, like) for x in args]
        named = {key: self._operand(x, rank, like) for key, x in kwargs.items()}
        scale = next((named.pop(key) for key in ("alpha", "value") if isinstance(named.get(key), Tensor)), None)
        if scale is not None:
            if base not in SCALED:
                raise NotAsOneError(f"{name} with a number for each member")
            given[SCALED[base]] = given[SCALED[base]] * scale
        if base in ("full_like", "fill") and isinstance(given[-1], Tensor):
            whole = given[0] if in_place else torch.empty_like(given[0])
            result = whole.copy_(given[-1].expand_as(whole))
        else:
            result = func(*given, **named)
        if in_place:
            return args[0]
        if "out" in kwargs:
            return kwargs["out"]
        if like.dtype in (torch.float16, torch.bfloat16) and any(isinstance(x, MemberNumbers) for x in args):
            result = result.to(like.dtype)  # the numbers were in single precision
        return result.as_subclass(self.kind)

    def _operand(self, value: Any, rank: int, like: Tensor) -> Any:
        """With the members first, then as many dimensions as the largest operand has."""
        if isinstance(value, MemberNumbers):
            return self.column(value, rank, like)
        if isinstance(value, Stacked):
            tensor = value.as_subclass(Tensor)
            own_rank = tensor.dim() - 1
            if own_rank < rank:
                tensor = tensor.view(self.members, *[1] * (rank - own_rank), *tensor.shape[1:])
                if own_rank == 0 and tensor.is_floating_point() and like.is_floating_point():
                    tensor = tensor.to(like.dtype)  # a 0-dim tensor does not promote
            return tensor
        if isinstance(value, Tensor) and value.dim() > rank:
            raise NotAsOneError("a tensor of all members alike has more dimensions than members' own")
        return value

    def column(self, numbers: MemberNumbers, rank: int, like: Tensor) -> Tensor:
        """Numbers for members' tensors of a rank: the same as before, or sent to the device without waiting for it."""
        kind = rank, like.dtype, like.device
        made = numbers.tensors.get(kind)
        if made is not None:
            return made
        key = numbers.floats, kind
        if key not in self._numbers:
            if len(self._numbers) >= MOST_NUMBERS:
                self._numbers.clear()
            dtype = torch.promote_types(like.dtype, torch.float32)
            dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
            column = np.array(numbers.floats).reshape(-1, *[1] * rank)  # a third of the time of torch.tensor
            tensor = torch.from_numpy(column).to(dtype)
            if like.device.type == "cuda":
                tensor = tensor.pin_memory().to(like.device, non_blocking=True)
            self._numbers[key] = tensor
        made = numbers.tensors[kind] = self._numbers[key]
        return made

    def _without_members(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Of numbers and of what all members have alike; what is new is for each member."""
        numbers = [x for x in (*args, *kwargs.values()) if isinstance(x, MemberNumbers)]
        if numbers:
            return self._batched(func, args, kwargs)
        return self._for_each(func(*args, **kwargs), in_place=_in_place(func.__name__))

    def _for_each(self, result: Any, *, in_place: bool) -> Any:
        """A new tensor, of which each member may change its own."""
        if in_place or not isinstance(result, Tensor) or isinstance(result, Stacked) or result.dim() == 0:
            return result
        return result.expand(self.members, *result.shape).clone().as_subclass(self.kind)

    def _batched(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """By PyTorch's batching rules."""
        name = func.__name__
        given = [*leaves((args, kwargs))]
        own = [leaf for leaf in given if isinstance(leaf, Stacked | MemberNumbers)]
        if not own:
            return mapped(func(*args, **kwargs), lambda x: self._for_each(x, in_place=_in_place(name)))
        if name in ("tensor", "as_tensor", "full") and any(isinstance(leaf, MemberNumbers) for leaf in own):
            return self._new(name, args, kwargs)
        default = next((x.dtype for x in given if isinstance(x, Tensor) and x.is_floating_point()), torch.float32)

        def of_members(leaf: Any) -> Tensor | None:
            if isinstance(leaf, MemberNumbers):
                return torch.as_tensor(leaf.values, dtype=default)
            return leaf if isinstance(leaf, Stacked) else None

        results = batched(func, args, kwargs, self.members, of_members, self.kind)
        if name == "__setitem__":
            return None
        return args[0] if _in_place(name) else results

    def _new(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """A tensor of members' numbers."""
        dtype = kwargs.get("dtype") or torch.get_default_dtype()
        shape = tuple(args[0]) if name == "full" else ()
        number = args[1] if name == "full" else args[0]
        if not isinstance(number, MemberNumbers):
            raise NotAsOneError(f"{name} of several members' numbers")
        values = torch.as_tensor(number.values, dtype=dtype, device=kwargs.get("device"))
        return values.view(-1, *[1] * len(shape)).expand(self.members, *shape).clone().as_subclass(self.kind)

    def _foreach(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """With lists as they are where all that is in them is members' own; else one by one."""
        name = func.__name__.removeprefix("_foreach_")
        if base_name(name) in POINTWISE:
            given: Any = (
                (func, args, kwargs) if lists_alike(args, kwargs) else with_columns(func, args, kwargs, self.column)
            )
            if given is not None:
                results = given[0](*given[1], **given[2])
                return None if results is None or _in_place(name) else [x.as_subclass(self.kind) for x in results]
        of_tensor = getattr(Tensor, name, None)
        if of_tensor is None:
            raise NotAsOneError(f"{func.__name__} of numbers that differ")
        if base_name(name) in ("addcmul", "addcdiv") and len(args) == 4:
            args, kwargs = args[:3], {"value": args[3]}
        each = []
        for i in range(len(args[0])):
            named = {key: _pick(x, i) for key, x in kwargs.items()}
            each.append(self.__torch_function__(of_tensor, (), [_pick(x, i) for x in args], named))
        return None if _in_place(name) else each


@cache
def base_name(name: str) -> str:
    """Without the underscore of a function in place."""
    return name[:-1] if _in_place(name) and not name.startswith("__") else name


@cache
def _in_place(name: str) -> bool:
    return name.startswith("__i") if name.startswith("__") else name.endswith("_")


def _of_one_rank(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether all tensors are members' own and have as many dimensions, and all numbers are alike."""
    rank = 0
    for x in args:
        if isinstance(x, Stacked):
            if rank and x.dim() != rank:
                return False
            rank = x.dim()
        elif type(x) not in ALIKE:
            return False
    return rank > 0 and all(type(x) in ALIKE for x in kwargs.values())


def _alike(values: Sequence[Any]) -> bool:
    return all(type(x) in ALIKE or type(x) is str for x in values)


def _leading(operands: Sequence[Any]) -> tuple[int, Tensor | None]:
    """The rank of a member's result, and the stacked operand whose type it has; none where none is stacked."""
    rank, like, best = 0, None, -1
    for x in operands:
        if isinstance(x, Stacked):
            own, floating = x.dim() - 1, x.is_floating_point()
            rank = max(rank, own)
            if own + 100 * floating > best:
                best, like = own + 100 * floating, x
        elif isinstance(x, Tensor):
            rank = max(rank, x.dim())
    if like is None:
        return rank, None
    return rank, like.as_subclass(Tensor)


def _pick(value: Any, i: int) -> Any:
    return value[i] if isinstance(value, list | tuple) else value

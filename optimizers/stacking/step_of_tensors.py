"""Which optimizers' steps depend on tensors and constants alone, so that a step can be done again as a CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import getattr_static, unwrap
from typing import Any

import torch
from torch import Tensor

from optimizers.base import CurvatureOptimizer
from optimizers.first_order import FirstOrderOptimizer
from optimizers.parts import OfParts
from optimizers.stacking.rule import first_order_rule

FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""PyTorch's whose fused kernels count steps on the device, and correct biases in double precision."""
CAPTURABLE = (torch.optim.RMSprop, torch.optim.Adadelta)
"""PyTorch's that count steps on the device where ``capturable`` says so, and correct no bias, which those that do
would in single precision."""
AS_IT_IS = (torch.optim.Muon,)
"""PyTorch's that count no steps."""


def stepping(optimizer: Any) -> list[torch.optim.Optimizer]:
    """The optimizer and its parts, which have all states that its step depends on; empty where more may matter."""
    if isinstance(optimizer, OfParts):
        parts = [stepping(part) for part in optimizer.parts_of_step()]
        found = [optimizer, *(each for part in parts for each in part)] if all(parts) else []
    elif isinstance(optimizer, CurvatureOptimizer):
        own = unwrap(type(optimizer)._apply) is not CurvatureOptimizer._apply
        pure = isinstance(getattr_static(optimizer, "update"), staticmethod) and not own and not optimizer.compile
        found = [optimizer] if pure else []
    elif isinstance(optimizer, FirstOrderOptimizer):
        found = [optimizer] if first_order_rule(optimizer) is not None else []
    else:
        found = [optimizer] if in_place(optimizer) else []
    hooked = any(each._optimizer_step_pre_hooks or each._optimizer_step_post_hooks for each in found)
    return [] if hooked else found


def in_place(optimizer: Any) -> bool:
    """Whether it is one of PyTorch's, which change their states where they are."""
    return type(optimizer) in (*FUSED, *CAPTURABLE, *AS_IT_IS)


def obstacle(optimizers: Sequence[torch.optim.Optimizer], scheduled: bool) -> str:
    """Why these do not step by tensors and constants after all; empty where they do.

    Args:
        scheduled: whether learning rates are to be tensors.
    """
    for optimizer in optimizers:
        who = type(optimizer).__name__
        params = [param for group in optimizer.param_groups for param in group["params"]]
        types = {param.dtype for param in params}
        if any(isinstance(value, Tensor) for group in optimizer.param_groups for value in group.values()):
            return f"a hyperparameter of {who} is a tensor"
        if _is_pytorchs(optimizer) and any(_told(group) for group in optimizer.param_groups):
            return f"{who} is told how to step"
        narrow = any(dtype.itemsize < 4 for dtype in types)
        double = type(optimizer) in FUSED and any(p.is_cuda and p.dtype != torch.float32 for p in params)
        if scheduled and (narrow or double or len(types) > 1):
            return f"a learning rate as a tensor is not that of {who} in this precision"
    return ""


def count_on_device(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Have PyTorch's own keep their counts of steps where their parameters are."""
    for optimizer in filter(_is_pytorchs, optimizers):
        _tell(optimizer, [{"fused": type(optimizer) in FUSED, "capturable": True}] * len(optimizer.param_groups))


@contextmanager
def loading(optimizer: Any) -> Iterator[None]:
    """A state that is loaded within it is the optimizer's but for how kernels run, which is a process's own."""
    own = [each for each in stepping(optimizer) if _is_pytorchs(each)]
    told = [[dict(group) for group in each.param_groups] for each in own]
    yield
    for each, of_groups in zip(own, told, strict=True):
        _tell(each, of_groups)


def _tell(optimizer: torch.optim.Optimizer, told: Sequence[Mapping[str, Any]]) -> None:
    """Have kernels run so, and counts of steps lie where these look for them."""
    for group, flags in zip(optimizer.param_groups, told, strict=True):
        group |= {name: flags[name] for name in ("fused", "capturable") if name in group}
        if group.get("capturable"):
            optimizer._warned_capturable_if_run_uncaptured = True
        on_device = group.get("fused") or group.get("capturable")
        for param in group["params"]:
            state = optimizer.state.get(param, {})
            if "step" in state:
                dtype = torch.float32 if group.get("fused") else None
                state["step"] = state["step"].to(param.device if on_device else "cpu", dtype)


def _is_pytorchs(optimizer: torch.optim.Optimizer) -> bool:
    return type(optimizer) in (*FUSED, *CAPTURABLE)


def _told(group: dict[str, Any]) -> bool:
    """Whether it is set how its kernels run."""
    return bool(group["foreach"] or group["differentiable"] or group.get("fused") is False)

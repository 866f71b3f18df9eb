"""The precision of products of float32 numbers is set and put back, by whichever of PyTorch's interfaces it was set.

What the newer one (``fp32_precision``) says has the last word, be it of one operation or of all. The older one
(``allow_tf32``) raises where it is read after the two have come apart, as ``torch.backends.cudnn.flags`` does. So
precision is set by both, after which either can be read; and put back by both, but for what the older one does not say.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import product
from typing import NamedTuple

import torch

PRECISIONS = (("generic", "all"), *product(("cuda", "mkldnn"), ("all", "matmul", "conv", "rnn")))
"""Backends and operations whose precision can be set."""


class Float32Settings(NamedTuple):
    """What the older interface says of matrix products and of cuDNN, ``None`` where it refuses; and the newer one."""

    matmul: str | None
    cudnn: bool | None
    newer: list[str]


def float32_settings() -> Float32Settings:
    matmul = cudnn = None
    with suppress(RuntimeError):
        matmul = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        cudnn = torch.backends.cudnn.allow_tf32
    return Float32Settings(matmul, cudnn, [torch._C._get_fp32_precision_getter(*of) for of in PRECISIONS])


def put_float32_settings(saved: Float32Settings) -> None:
    if saved.matmul is not None:
        torch.set_float32_matmul_precision(saved.matmul)
    if saved.cudnn is not None:
        torch.backends.cudnn.allow_tf32 = saved.cudnn
    for of, value in zip(PRECISIONS, saved.newer, strict=True):
        torch._C._set_fp32_precision_setter(*of, value)


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Matrix products and convolutions on a GPU are in TF32 in the block, or in full precision."""
    before = float32_settings()
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    for operations in (matmul, cudnn.conv, cudnn.rnn):
        operations.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        yield
    finally:
        put_float32_settings(before)

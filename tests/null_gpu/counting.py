"""What PyTorch's host code does on the null GPU is counted: launches, copies, synchronisations, memory."""

from __future__ import annotations

import ctypes
import os
import re
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
COUNTERS = (
    "launches", "library", "synchronisations", "to_device", "to_host", "on_device", "memsets", "allocations",
    "to_device_bytes", "to_host_bytes", "graphs",
)  # fmt: skip
NAMES_BYTES = 1 << 21
KERNEL = re.compile(
    r"multi_tensor_apply_kernel|(?:vectorized_|unrolled_)?elementwise_kernel|reduce_kernel|cublas\w+|cudnn\w+|"
    r"softmax_\w+|nll_loss\w+|index\w*kernel|CatArray\w+|distribution\w+|max_pool\w+|batch_norm\w+|layer_norm\w*"
)


@cache
def library() -> ctypes.CDLL:
    return ctypes.CDLL(os.environ["NULL_GPU"])


@dataclass
class Counted:
    """What happened in a block.

    Attributes:
        waits: where the host waited for the device: lines of this project -> how often.
        kernels: short names -> launches.
    """

    launches: int = 0
    library: int = 0
    synchronisations: int = 0
    to_device: int = 0
    to_host: int = 0
    on_device: int = 0
    memsets: int = 0
    allocations: int = 0
    to_device_bytes: int = 0
    to_host_bytes: int = 0
    graphs: int = 0
    waits: Counter[str] = field(default_factory=Counter)
    kernels: Counter[str] = field(default_factory=Counter)


@contextmanager
def counting() -> Iterator[Counted]:
    """Count in a block; known at its end."""
    counted = Counted()
    with _noted_waits(counted.waits):
        library().null_reset()
        yield counted
        values = (ctypes.c_long * len(COUNTERS))()
        library().null_get(values)
    for name, value in zip(COUNTERS, values, strict=True):
        setattr(counted, name, value)
    names = ctypes.create_string_buffer(NAMES_BYTES)
    library().null_names(names, ctypes.c_long(NAMES_BYTES))
    for line in names.value.decode().splitlines():
        number, _, name = line.partition(" ")
        found = KERNEL.search(name)
        counted.kernels[found[0] if found else name[:40]] += int(number)


@contextmanager
def _noted_waits(waits: Counter[str]) -> Iterator[None]:
    def note(message: object, *_: object, **__: object) -> None:
        if "synchroniz" in str(message):
            frames = [f for f in traceback.extract_stack() if f.filename.startswith(str(ROOT))]
            own = [f for f in frames if ".venv" not in f.filename and f.filename != __file__]
            waits[" < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(own[-3:]))] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is a prototype
        torch.cuda.set_sync_debug_mode("warn")
        warnings.simplefilter("always")
        warnings.showwarning = note
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


@contextmanager
def memory_of(size: int) -> Iterator[None]:
    """For a time the device has so many bytes."""
    library().null_memory(ctypes.c_size_t(size))
    try:
        yield
    finally:
        library().null_memory(ctypes.c_size_t(85_000_000_000))


def poison(error: int = 700) -> None:
    """From now on every call of the runtime fails, as after an illegal access (700): for a process of its own."""
    library().null_poison(error)

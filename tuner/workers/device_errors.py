"""What an error says of its device: that memory was short, or that the GPU does nothing more for this process. No ray.

The one place that knows by which words CUDA, its libraries and PyTorch say so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from tuner import text

OUT_OF_MEMORY = re.compile(
    r"^\w*(OutOfMemoryError|MemoryError)\b|"
    r"(?i:out of memory|(can't|cannot) allocate memory|not enough memory|bad_alloc)|"
    r"\bCU\w+_(ALLOC_FAILED|ALLOCATION_FAILED|NOT_INITIALIZED)|unable to find (a valid cuDNN algorithm|an engine)"
)
"""cuBLAS, cuDNN and cuSOLVER are "not initialized" where there is no room for what they make at their first call, and
convolutions have no algorithm where there is none for any one's workspace."""
DEVICE_FAILED = re.compile(
    r"(?i:CUDA (driver )?error|cu(DNN|BLAS|SOLVER|SPARSE|FFT|RAND)\w* error)|Triton Error \[CUDA\]|AcceleratorError|"
    r"\b(CUDNN|CUBLAS|CUSOLVER|CUSPARSE)_STATUS_\w+|device-side assert"
)

ADVICE = re.compile(r" (?:Search for `cuda|CUDA kernel errors might be)")
"""With which PyTorch goes on, whatever CUDA has said."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, on the device or on the host."""
    return any(_speaks_of_memory(each) for each in _chain(error, explicit=True))


def has_lost_device(error: BaseException) -> bool:
    """Whether the GPU does nothing more for this process: after an illegal access, say, each later call fails too.

    The GPU is asked as well, since the error may have been put into other words, or be that of memory.
    """
    chain = [each for each in _chain(error) if not _speaks_of_memory(each)]
    return any(DEVICE_FAILED.search(text.fault(each)) for each in chain) or not _answers()


def brief(error: BaseException) -> str:
    """What CUDA has said, without advice."""
    return ADVICE.split(text.fault(error))[0]


def _speaks_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or OUT_OF_MEMORY.search(text.fault(error)) is not None


def _chain(error: BaseException | None, *, explicit: bool = False) -> Iterator[BaseException]:
    """An error and those that it was raised from; if not only ``explicit`` also those in whose handling it came up."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if explicit else error.__context__)


def _answers() -> bool:
    """Whether the GPU, where this process has used one, still does what it is told; a call that fails for want of
    memory is an answer."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except Exception as error:
        return _speaks_of_memory(error)
    return True

"""Memory of a training run is measured by its peak: the device's on CUDA, the process's resident set on a CPU;
processes that share a GPU are kept within their shares."""

from __future__ import annotations

import contextlib
import gc
import resource
from pathlib import Path

import psutil
import torch

from tuner.machine.resources import at_once_on_a_gpu

MB = 2**20
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""What psutil has no peak of."""


CONTEXT_MB = 512
"""What each process holds of a GPU beside what PyTorch allocates: CUDA's context and loaded kernels."""
_held: dict[torch.device, int] = {}
"""Bytes on each GPU when the measurement began: data, recordings, what earlier runs have left."""


def reset_peak(device: torch.device) -> None:
    """Start measuring anew, on CUDA what comes on top of what is held now."""
    if device.type == "cuda":
        _held[device] = torch.cuda.memory_allocated(device)
    forget_peak(device)


def forget_peak(device: torch.device) -> None:
    """Go on measuring from the present value on, as if the peak until now had not been."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        # Linux: the peak becomes the present value. Elsewhere it is that of the process's whole life.
        with contextlib.suppress(OSError):
            CLEAR_REFS.write_text("5")


def peak_mb(device: torch.device) -> float:
    """The peak since the last reset, in MB of 2^20 bytes."""
    if device.type == "cuda":
        return max(0, torch.cuda.max_memory_allocated(device) - _held.get(device, 0)) / MB
    try:
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def allowance_mb(device: torch.device, gpu_share: float, concurrent: int) -> float:
    """What one of several concurrent training processes may use, with a reserve, in MB of 2^20 bytes."""
    if device.type == "cuda":
        return 0.8 * share_mb(_total_mb(device), gpu_share)
    return 0.5 * psutil.virtual_memory().available / MB / concurrent


def share_mb(total_mb: float, gpu_share: float) -> float:
    """What PyTorch may allocate in one of the processes that have such a share of a GPU each, so that all of them and
    their contexts fit."""
    return gpu_share * max(0.0, total_mb - at_once_on_a_gpu(gpu_share) * CONTEXT_MB)


def limit(device: torch.device, gpu_share: float, *, alone: bool) -> None:
    """Keep this process within its share of a GPU, or let it have all, where nothing else is on it."""
    if device.type == "cuda" and 0 < gpu_share < 1:
        total = _total_mb(device)
        torch.cuda.set_per_process_memory_fraction(1.0 if alone else share_mb(total, gpu_share) / total)


def give_back(device: torch.device) -> None:
    """Let others have what of a GPU nobody refers to any more, or PyTorch keeps for later."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def _total_mb(device: torch.device) -> float:
    return torch.cuda.get_device_properties(device).total_memory / MB

"""Memory of a training run is measured by its peak: the device's on CUDA, the process's resident set on a CPU."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import psutil
import torch

MB = 2**20
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""What psutil has no peak of."""


def reset_peak(device: torch.device) -> None:
    """Start measuring anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        # Linux: the peak becomes the present value. Elsewhere it is that of the process's whole life.
        with contextlib.suppress(OSError):
            CLEAR_REFS.write_text("5")


def peak_mb(device: torch.device) -> float:
    """The peak since the last reset, in MB of 2^20 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB
    try:
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def allowance_mb(device: torch.device, gpu_share: float, concurrent: int) -> float:
    """What one of several concurrent training processes may use, with a reserve, in MB of 2^20 bytes."""
    if device.type == "cuda":
        return 0.8 * min(1.0, gpu_share) * torch.cuda.get_device_properties(device).total_memory / MB
    return 0.5 * psutil.virtual_memory().available / MB / concurrent

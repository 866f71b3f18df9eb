"""Resources of a machine say how many training runs fit on it at once. Asks neither torch nor Ray."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import takewhile

import pynvml
from joblib import cpu_count

from tuner.config.schema import Config
from tuner.errors import UserError

ROUNDING = 1e-9  # 7 / 0.07 is a little less than 100


@dataclass(frozen=True)
class Machine:
    """Processors that this process may use, and NVIDIA GPUs."""

    cpus: int
    gpus: int


def this_machine() -> Machine:
    """Respects CPU affinity, control groups and CUDA_VISIBLE_DEVICES."""
    gpus = len(gpu_names())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return Machine(cpu_count(), gpus if visible is None else _visible(visible, gpus))


def gpu_names() -> list[str]:
    """NVIDIA's GPUs that this machine, or container, has; none without their driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return [pynvml.nvmlDeviceGetName(handle) for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def _visible(devices: str, gpus: int) -> int:
    """How many of the GPUs CUDA would see: those listed before the first one that is not there."""
    indices = {str(index) for index in range(gpus)}
    named = [device.strip() for device in devices.split(",")]
    return min(
        gpus, len(set(takewhile(lambda device: device in indices or device.startswith(("GPU-", "MIG-")), named)))
    )


def settle(config: Config, *nodes: Machine, owner: str = "this machine") -> Config:
    """The configuration with ``gpus_per_trial`` and ``max_concurrent`` as numbers.

    Args:
        nodes: this machine, or those of the cluster; a training run is on one of them.
        owner: what the largest of them is called in an error.

    Raises:
        UserError: not even one training run fits.
    """
    asked = config.resources
    if asked.gpus_per_trial is not None and asked.gpus_per_trial > 1:
        raise UserError(
            f"resources.gpus_per_trial: {asked.gpus_per_trial:g} asked, but a training run uses one device: 1 at most"
        )
    cpus, most_gpus = max(node.cpus for node in nodes), max(node.gpus for node in nodes)
    gpus = asked.gpus_per_trial if asked.gpus_per_trial is not None else (1.0 if most_gpus else 0.0)
    if asked.cpus_per_trial > cpus:
        raise UserError(f"resources.cpus_per_trial: {asked.cpus_per_trial:g} asked, but {owner} has {cpus}")
    if gpus > most_gpus:
        hint = "; use --gpus-per-trial 0" if not most_gpus else ""
        raise UserError(f"resources.gpus_per_trial: {gpus:g} asked, but {owner} has {most_gpus}{hint}")
    slots = sum(fits(node, asked.cpus_per_trial, gpus) for node in nodes)
    if not slots:
        raise UserError(f"resources: no node has both {asked.cpus_per_trial:g} CPUs and {gpus:g} GPUs for a trial")
    concurrent = min(slots, asked.max_concurrent or slots)
    resources = asked.model_copy(update={"gpus_per_trial": gpus, "max_concurrent": concurrent})
    return config.model_copy(update={"resources": resources})


def at_once_on_a_gpu(share: float) -> int:
    """How many training runs that have such a share of a GPU, at most all of it, are on it at once."""
    return int(1 / share + ROUNDING)


def fits(node: Machine, cpus: float, gpus: float) -> int:
    """How many training runs fit on a machine at once."""
    slots = int(node.cpus / cpus + ROUNDING)
    if not gpus:
        return slots
    return min(slots, node.gpus * at_once_on_a_gpu(gpus))  # one does not spread over what is left of several

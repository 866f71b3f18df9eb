"""GPUs that are not there, as NVIDIA's library would report them."""

from __future__ import annotations

from types import SimpleNamespace


def driver(*names: str) -> SimpleNamespace:
    """NVIDIA's library, with these GPUs; without any it is not there."""

    class NVMLError(Exception):
        pass

    def begin() -> None:
        if not names:
            raise NVMLError("Shared Library Not Found")

    return SimpleNamespace(
        NVMLError=NVMLError, nvmlInit=begin, nvmlShutdown=lambda: None, nvmlDeviceGetCount=lambda: len(names),
        nvmlDeviceGetHandleByIndex=lambda index: index, nvmlDeviceGetName=lambda handle: names[handle],
    )  # fmt: skip

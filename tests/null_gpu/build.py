"""The null GPU's libraries are built by gcc, with the headers of the CUDA build of PyTorch."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

SOURCES = Path(__file__).parent
FLAGS = ("-shared", "-fPIC", "-O1", "-w")


class UnavailableError(Exception):
    """There can be no null GPU here; it says why."""


def environment() -> dict[str, str]:
    """What a process must be started with to have one.

    Raises:
        UnavailableError: without gcc, or without the CUDA build of PyTorch.
    """
    folder = _built()
    return {
        "NULL_GPU": str(folder / "libnullcuda.so"),
        "LD_PRELOAD": str(folder / "libnullcuda.so"),
        "LD_LIBRARY_PATH": str(folder),
        "TORCH_CUDNN_V8_API_DISABLED": "1",  # version 8 asks cuDNN for engines, of which there are none
    }


def _built() -> Path:
    gcc, headers = shutil.which("gcc"), _headers()
    if gcc is None:
        raise UnavailableError("there is no gcc")
    if headers is None:
        raise UnavailableError("PyTorch is not built for CUDA: the headers of the CUDA runtime are missing")
    content = b"".join(path.read_bytes() for path in sorted(SOURCES.glob("*.[ch]")))
    folder = Path(tempfile.gettempdir()) / f"null_gpu_{hashlib.sha256(content).hexdigest()[:12]}"
    if not (folder / "libcuda.so.1").exists():  # the last one that is built
        folder.mkdir(exist_ok=True)
        runtime = [SOURCES / "runtime.c", SOURCES / "libraries.c", f"-I{headers}", "-ldl"]
        for name, sources in (("libnullcuda.so", runtime), ("libcuda.so.1", [SOURCES / "driver.c"])):
            partial = folder / f"{name}.partial"
            subprocess.run([gcc, *FLAGS, *sources, "-o", partial], check=True)
            partial.rename(folder / name)
    return folder


def _headers() -> Path | None:
    """Triton, which the CUDA build brings, has them."""
    triton = find_spec("triton")
    if triton is None or triton.origin is None:
        return None
    folder = Path(triton.origin).parent / "backends" / "nvidia" / "include"
    return folder if (folder / "cuda_runtime_api.h").exists() else None

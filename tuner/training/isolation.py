"""Isolation puts back the global settings and random streams that a training run leaves behind in its process."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.modules import module as hooks_of_modules
from torch.optim import optimizer as hooks_of_optimizers
from torch.utils import _device

from tuner.training.float32 import float32_settings, put_float32_settings
from tuner.training.watched_code import Code, listed

SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
DENORMAL = sys.float_info.min / 2
HOOKS = tuple(
    (owner, name)
    for owner in (hooks_of_modules, hooks_of_optimizers)
    for name, value in vars(owner).items()
    if name.startswith("_global_") and isinstance(value, dict)
)


class Setting(NamedTuple):
    """Something global: what it is called, how it is read, how it is put back."""

    name: str
    get: Callable[[], Any]
    put: Callable[[Any], object]


def attributes(name: str, owner: Any, *of: str) -> Iterator[Setting]:
    """Attributes of an object as settings."""
    for each in of:
        yield Setting(f"{name}.{each}", partial(getattr, owner, each), partial(setattr, owner, each))


def _function_modes() -> tuple[Any, ...]:
    """The stack of modes, of which the default device is one, and where PyTorch notes it."""
    own = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return torch.overrides._get_current_function_mode_stack(), _device.CURRENT_DEVICE, own


def _put_function_modes(saved: tuple[Any, ...]) -> None:
    modes, _device.CURRENT_DEVICE, torch._GLOBAL_DEVICE_CONTEXT.device_context = saved
    while torch._C._len_torch_function_stack():
        torch.overrides._pop_mode()
    for mode in modes:
        torch.overrides._push_mode(mode)


def _put_dispatch_modes(depth: int) -> None:
    while torch._C._len_torch_dispatch_stack() > depth:
        torch.utils._python_dispatch._pop_mode()


def _autocast() -> list[tuple[str, bool, torch.dtype]]:
    return [(on, torch.is_autocast_enabled(on), torch.get_autocast_dtype(on)) for on in ("cpu", "cuda")]


def _put_autocast(saved: list[tuple[str, bool, torch.dtype]]) -> None:
    for on, enabled, dtype in saved:
        torch.set_autocast_enabled(on, enabled)
        torch.set_autocast_dtype(on, dtype)


def _cannot(saved: object) -> None:
    raise RuntimeError("it has no way back")


def _put_hooks(saved: list[dict[int, Any]]) -> None:
    for (owner, name), content in zip(HOOKS, saved, strict=True):
        current = getattr(owner, name)
        current.clear()
        current.update(content)


def _put_warnings(saved: tuple[list[Any], Any]) -> None:
    warnings.filters[:], warnings.showwarning = saved  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _directory() -> Path | None:
    """``None`` where it is no more."""
    try:
        return Path.cwd()
    except OSError:
        return None


def _put_directory(saved: Path | None) -> None:
    if saved is not None:
        os.chdir(saved)


def _put_environment(saved: dict[str, str]) -> None:
    for name in os.environ.keys() - saved.keys():
        del os.environ[name]
    os.environ.update(saved)


def _put_handlers(saved: list[Any]) -> None:
    for number, handler in zip(SIGNALS, saved, strict=True):
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _collecting() -> tuple[bool, tuple[int, int, int]]:
    return gc.isenabled(), gc.get_threshold()


def _put_collecting(saved: tuple[bool, tuple[int, int, int]]) -> None:
    (gc.enable if saved[0] else gc.disable)()
    gc.set_threshold(*saved[1])


SETTINGS = (
    Setting("function modes or default device", _function_modes, _put_function_modes),  # first: they see every call
    Setting("dispatch modes", torch._C._len_torch_dispatch_stack, _put_dispatch_modes),
    Setting("default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    Setting("inference mode", torch.is_inference_mode_enabled, _cannot),
    Setting("hooks of saved tensors", lambda: torch._C._autograd._top_saved_tensors_default_hooks(True), _cannot),
    Setting("number of threads", torch.get_num_threads, torch.set_num_threads),
    Setting("number of interop threads", torch.get_num_interop_threads, torch.set_num_interop_threads),
    Setting(
        "anomaly mode",
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda saved: torch.set_anomaly_enabled(*saved),
    ),
    Setting(
        "deterministic algorithms",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda saved: torch.use_deterministic_algorithms(saved[0], warn_only=saved[1]),
    ),
    Setting("flushing of denormal numbers", lambda: DENORMAL * 1.0 == 0.0, torch.set_flush_denormal),
    Setting("precision of float32 products", float32_settings, put_float32_settings),
    *attributes("cudnn", torch.backends.cudnn, "enabled", "benchmark", "deterministic"),
    Setting("autocast", _autocast, _put_autocast),
    Setting("autocast's cache", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    Setting("hooks of all modules or optimizers", lambda: [dict(getattr(*hook)) for hook in HOOKS], _put_hooks),
    Setting("warnings", lambda: (list(warnings.filters), warnings.showwarning), _put_warnings),
    Setting("working directory", _directory, _put_directory),
    Setting("environment", lambda: dict(os.environ), _put_environment),
    *attributes("sys", sys, "stdin", "stdout", "stderr", "excepthook", "unraisablehook"),
    Setting("signal handlers", lambda: [signal.getsignal(number) for number in SIGNALS], _put_handlers),
    Setting("alarm", lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0, lambda _: signal.alarm(0)),
    Setting("tracing", sys.gettrace, sys.settrace),
    Setting("profiling", sys.getprofile, sys.setprofile),
    Setting("garbage collection", _collecting, _put_collecting),
    Setting("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Setting("NumPy's errors", np.geterr, lambda saved: np.seterr(**saved)),
)  # fmt: skip
STREAMS = (
    Setting("Python's random stream", random.getstate, random.setstate),
    Setting("NumPy's random stream", np.random.get_state, np.random.set_state),
    Setting("PyTorch's random stream", torch.get_rng_state, torch.set_rng_state),
    Setting(
        "the GPU's random streams",
        lambda: torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None,
        lambda saved: saved is None or torch.cuda.set_rng_state_all(saved),
    ),
)


NUMERICAL = SETTINGS[: [setting.name for setting in SETTINGS].index("warnings")]
"""Settings that decide what other runs of the process compute."""


class Unchanged:
    """What one training run of several in lockstep must leave as it is for the others: settings and functions.

    Args:
        code: the functions, as they were.
    """

    def __init__(self, code: Code) -> None:
        self._code = code
        code.changed()
        self._before = [setting.get() for setting in NUMERICAL]

    def check(self) -> None:
        """
        Raises:
            ChangedProcessError: something is no longer what it was.
        """
        changed = [s.name for s, before in zip(NUMERICAL, self._before, strict=True) if s.get() != before]
        if changed := changed + self._code.changed():
            raise ChangedProcessError(f"it changes {listed(changed)}, which other runs beside it would see")


class ChangedProcessError(RuntimeError):
    """One of several runs in lockstep changed what the others depend on."""


@contextmanager
def restored(lasting: list[str]) -> Iterator[None]:
    """Leaves settings and random streams as they were; those that it cannot put back are named in the list."""
    before = [setting.get() for setting in SETTINGS]
    streams = [stream.get() for stream in STREAMS]
    try:
        yield
    finally:
        for setting, value in zip(SETTINGS, before, strict=True):
            _put_back(setting, value, lasting, always=False)
        for stream, value in zip(STREAMS, streams, strict=True):
            _put_back(stream, value, lasting, always=True)


def _put_back(setting: Setting, value: Any, lasting: list[str], *, always: bool) -> None:
    try:
        if always or setting.get() != value:
            setting.put(value)
    except Exception:
        lasting.append(setting.name)

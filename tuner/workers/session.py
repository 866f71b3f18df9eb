"""Ray's session is started on this machine or joined, watched, ended. Beside ``tune``, this is the one module that
talks to Ray's driver side."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import psutil

from tasks.user_folders import home, is_writable
from tuner import text
from tuner.errors import MachineError, UserError
from tuner.machine import process_environment
from tuner.machine.resources import Machine
from tuner.machine.signals import NUMBERS, exit_cause, interruption
from tuner.machine.streams import STDERR, silenced

Known = TypeVar("Known")
OBJECT_STORE_BYTES = 256 * 2**20
SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our store is the record
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # we have our own
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed job has no value
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "PL_DISABLE_FORK": "1",  # as Tune has it in its workers
}
PATIENCE = {
    "RAY_agent_register_timeout_ms": "180000",
    "RAY_gcs_rpc_server_connect_timeout_s": "60",
    "RAY_worker_register_timeout_seconds": "240",
}
"""What a machine under load needs."""
WARM = {
    "RAY_preload_python_modules": "tuner.workers.warm",
    "RAY_idle_worker_killing_time_threshold_ms": "86400000",  # by itself a second, then those that have warmed are gone
}
"""What Ray's processes import as they start. It starts as many as it has CPUs, at once, and makes workers of them."""
COLD = {"RAY_prestart_worker_first_driver": "false"}
"""Where these would be more than there will be workers: it starts none before there is something to do."""
UNUSED = {
    "ray._private.utils.set_sigterm_handler": None,
    "ray._private.node.Node.start_monitor": None,
    "ray._private.services.start_api_server": (None, None),
}
"""What ``ray.init`` would call, and what it gets instead: it would answer signals; start what scales a cluster; start
the server of a dashboard, without its pages, and wait for it."""
LOG_READER = "ray._private.node.Node.start_log_monitor"
"""Starts what reads the logs that ``log_to_driver`` shows."""
LONGEST_SOCKET = (103 if sys.platform == "darwin" else 107) - len("/sockets/dash_MetricsHead.0")
SESSION_NAME = "ray/session_2026-01-01_00-00-00_000000_4194304"
LONGEST_FOLDER = LONGEST_SOCKET - len(f"/{SESSION_NAME}")
"""Bytes that the path of Ray's folder may have."""
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
VITAL = ("gcs_server", "raylet")
WATCH_S = 1.0
GRACE_S = 30.0
"""So long a cluster's head may be away: it may be started again. Ray itself ends the process after 60 s."""
SHUTDOWN_S = 10.0
STOPPED_S = 1.0
STOPPED = {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
"""States of processes that start no others."""
INTERRUPTED_S = 5.0
"""So long an interrupted loop may take to notice."""


def _set(settings: Mapping[str, str]) -> None:
    """In the environment, but for what the user has set."""
    os.environ.update({key: value for key, value in settings.items() if key not in os.environ})


_set(SETTINGS)

import ray  # noqa: E402  (reads the environment when it is imported)


@contextlib.contextmanager
def cluster(
    address: str | None, machine: Machine, workers: int, say: Callable[[str], None], *, verbose: bool
) -> Iterator[tuple[list[Machine], Path]]:
    """Ray, started here or joined; yields its nodes, and a folder for Tune's own files that goes after Ray went.

    Args:
        machine: what of this one a Ray that is started here may use.
        workers: how many there will be at once.
        say: told what is waited for.

    Raises:
        UserError: there is no cluster at the address, or no folder in which Ray can work.
        MachineError: Ray did not start.
        KeyboardInterrupt: SIGINT or SIGTERM came meanwhile.
    """
    level = logging.INFO if verbose else logging.CRITICAL
    options: dict[str, Any] = {"log_to_driver": verbose, "logging_level": level}
    interruption.last_act = abandon
    _join(address, options) if address else _start(machine, workers, options, say)
    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(level)
    patience_s = SHUTDOWN_S
    with tempfile.TemporaryDirectory(prefix="tune-", ignore_cleanup_errors=True) as scratch:
        try:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            with _hushed(verbose):
                yield [Machine(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in nodes], Path(scratch)
        except UserError:  # which a person is to read now; Ray ends meanwhile, at the latest with this process
            patience_s = 0.0
            raise
        finally:
            with contextlib.suppress(KeyboardInterrupt):  # of somebody who does not care to wait for that
                _end_session(patience_s)


def _end_session(patience_s: float) -> None:
    """Shut Ray down, or leave it alone where that takes too long, as after a signal to all of a job's processes."""

    def end() -> None:
        gc.collect()  # what Tune left speaks to Ray when it goes, which must be there then
        ray.shutdown()

    ending = threading.Thread(target=end, name="end of Ray", daemon=True)
    ending.start()
    ending.join(patience_s)
    if ending.is_alive():
        interruption.at_once = True


def _join(address: str, options: Mapping[str, Any]) -> None:
    try:
        _knock(address)
        _init(address=address, **options)
    except (OSError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(
            f"--address {address}: no Ray cluster answers there, or it wants a token (RAY_AUTH_MODE=token, and "
            f"RAY_AUTH_TOKEN or ~/.ray/auth_token): {error}"
        ) from None


def _knock(address: str) -> None:
    """Raise ``OSError`` where nothing listens: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def _start(machine: Machine, workers: int, options: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Ray on this machine alone; a second time, with more patience, where it does not come up."""
    _set(WARM if machine.cpus <= workers else WARM | COLD)
    if path := process_environment.module_path():
        os.environ["PYTHONPATH"] = path  # by which they find what they import
    folder = short_folder()
    os.environ["RAY_TMPDIR"] = folder
    home_folder = home()
    if home_folder is None or not is_writable(home_folder / ".ray"):
        _set({"RAY_AUTH_TOKEN": secrets.token_hex(16)})  # which it would keep there
    local: dict[str, Any] = {"num_cpus": machine.cpus, "num_gpus": machine.gpus, "include_dashboard": False,
             "object_store_memory": OBJECT_STORE_BYTES}  # fmt: skip
    try:
        _init(address="local", **local, **options)
    except Exception as first:  # of any kind: most often a bare Exception, after a time limit of its own
        say(f"Ray did not start ({_line(first)}); once more, with more patience ...")
        ray.shutdown()
        _set(PATIENCE)
        try:
            _init(address="local", **local, **options)
        except Exception as error:
            raise MachineError(
                f"Ray did not start, twice: {_line(error)}; is the machine under load, its memory or {folder} full? "
                f"Try again later, or set RAY_TMPDIR to a folder with room; -v and {folder}/ray/session_latest/logs "
                "say more"
            ) from error


def _init(*, log_to_driver: bool, **options: Any) -> None:
    """``ray.init`` that leaves signals as they were: Ray's own answers end the process, some without a word.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came meanwhile.
    """
    kept = {number: signal.getsignal(number) for number in NUMBERS}
    unused = UNUSED if log_to_driver else UNUSED | {LOG_READER: None}
    try:
        with contextlib.ExitStack() as stack:
            for name, answer in unused.items():
                stack.enter_context(mock.patch(name, lambda *_, answer=answer, **__: answer, create=True))
            if not log_to_driver:
                stack.enter_context(silenced(STDERR))
            ray.init(log_to_driver=log_to_driver, **options)
    finally:
        for number, handler in kept.items():  # C++ has its own, too
            signal.signal(number, handler)
    interruption.check()


def _line(error: Exception) -> str:
    return text.line(text.fault(error), 240).rstrip(".")


def short_folder() -> str:
    """The folder for Ray's files: for temporary files, but one whose path leaves room for the names of its sockets.

    Raises:
        UserError: there is none.
    """
    given = os.environ.get("RAY_TMPDIR")
    if given is not None:
        if _fits(given):
            return given
        raise UserError(
            f"RAY_TMPDIR={given}: Ray needs a folder that can be written, with a path of at most {LONGEST_FOLDER} bytes"
        )
    for folder in (tempfile.gettempdir(), *SHORT_FOLDERS):
        if _fits(folder):
            return folder
    raise UserError(
        f"Ray needs a folder that can be written, with a path of at most {LONGEST_FOLDER} bytes: set RAY_TMPDIR to one"
    )


def _fits(folder: str) -> bool:
    return len(os.fsencode(folder)) <= LONGEST_FOLDER and is_writable(Path(folder) / "ray")


@contextlib.contextmanager
def _hushed(verbose: bool) -> Iterator[None]:
    """Ray prints what happens to its processes on stdout, which is for results, and its C++ on descriptor 2."""
    with contextlib.ExitStack() as stack:
        to = sys.stderr if verbose else stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(to))
        if not verbose:
            stack.enter_context(silenced(STDERR))
        yield


@contextlib.contextmanager
def watched(address: str | None, is_interrupted: Callable[[], bool], on_stuck: Callable[[str], None]) -> Iterator[None]:
    """Call ``on_stuck`` from a thread once Ray is lost, with the reason, or an interruption has come to nothing.

    Calls into a lost Ray wait in vain, and its own code ends the process some time later, without a word. A signal to
    all of a job's processes stops Ray's as well.
    """
    over, lock = threading.Event(), threading.Lock()

    def watch() -> None:
        lost = asked = None
        while not over.wait(WATCH_S):
            with lock:
                if over.is_set():
                    return
                now, reason = time.monotonic(), why_lost(address)
                lost = (lost or now) if reason else None
                asked = (asked or now) if is_interrupted() else None
                if (lost and now - lost >= (GRACE_S if address else 0)) or (asked and now - asked >= INTERRUPTED_S):
                    on_stuck(reason)
                    return

    watcher = threading.Thread(target=watch, name="watch over Ray", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        with lock:  # which ``on_stuck`` keeps until it has ended the process
            pass


def abandon() -> None:
    """Kill Ray's process on this machine, where this one has started it, with all that it started: agents that are half
    started, or have lost the head, would stay for a minute.

    All of them are stopped first: one that starts an agent meanwhile would leave it behind.
    """
    states, before = _started(), None
    deadline = time.monotonic() + STOPPED_S
    while states != before and time.monotonic() < deadline:
        for pid in states:
            _send(pid, signal.SIGSTOP)
        states, before = _started(), states if set(states.values()) <= STOPPED else None
    for pid in states:
        _send(pid, signal.SIGKILL)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _started() -> dict[int, str]:
    """The states of Ray's process on this machine and of all that it started, by process id."""
    raylets = [process for process in psutil.Process().children() if _known(process.name) == "raylet"]
    family = [*raylets, *(child for raylet in raylets for child in _known(raylet.children, True) or [])]
    states = {process.pid: _known(process.status) for process in family}
    return {pid: state for pid, state in states.items() if state is not None}


def _known(ask: Callable[..., Known], *arguments: Any) -> Known | None:
    """What psutil says of a process; ``None`` of one that has ended meanwhile."""
    try:
        return ask(*arguments)
    except psutil.Error:
        return None


def why_lost(address: str | None) -> str:
    """What has become of Ray, started here or joined; empty where nothing has."""
    node = ray._private.worker._global_node
    if node is None:
        return "its session has ended"
    dead = {name: process.poll() for name, process in node.dead_processes() if name in VITAL}
    if dead:
        return f"its {' and '.join(f'{name} ended ({exit_cause(code)})' for name, code in dead.items())}"
    host, _, port = node.gcs_address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        slow = address is None and not isinstance(error, ConnectionRefusedError)
        return "" if slow else f"its head at {node.gcs_address} does not answer ({error.strerror or error})"
    if address is None:
        return ""
    alive = [known["Alive"] for known in ray.nodes() if known["NodeID"] == node.node_id]
    return "" if all(alive) else "the cluster takes this machine for dead"

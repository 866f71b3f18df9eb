"""Ray's start and its loss, with stand-ins for ``ray.init``; for real in tests/test_ray_session.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.commands import living
from tuner.errors import MachineError, UserError
from tuner.machine.resources import Machine
from tuner.machine.signals import interruption
from tuner.workers import session


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray's settings of a test go with it."""
    before = dict(os.environ)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    yield
    os.environ.clear()
    os.environ.update(before)
    interruption.noted = interruption.said = False


class Init:
    """``ray.init`` that does one thing after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *does: Any) -> None:
        self.does, self.calls = list(does), []
        monkeypatch.setattr(session.ray, "init", self)
        monkeypatch.setattr(session.ray, "shutdown", lambda: None)

    def __call__(self, **options: Any) -> None:
        self.calls.append({name: os.environ.get(name) for name in session.PATIENCE} | options)
        what = self.does.pop(0)
        if callable(what):
            what()
        elif what:
            raise what


def start() -> list[str]:
    said: list[str] = []
    session._start(Machine(2, 0), 2, {"log_to_driver": False}, said.append)
    return said


TIMED_OUT = "The current node timed out during startup. This could happen because the GCS has become overloaded."


def test_a_ray_that_comes_up_late_is_waited_for_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    init = Init(monkeypatch, Exception(TIMED_OUT), None)
    (line,) = start()
    assert line.startswith("Ray did not start (Exception: The current node timed out") and "more patience" in line
    first, second = init.calls
    assert all(first[name] is None and second[name] == value for name, value in session.PATIENCE.items())
    assert first["num_cpus"] == second["num_cpus"] == 2


def test_a_ray_that_never_comes_up_costs_one_sentence_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    Init(monkeypatch, Exception(TIMED_OUT), OSError("no room"))
    with pytest.raises(MachineError, match=r"Ray did not start, twice: OSError: no room; .*RAY_TMPDIR.*/logs"):
        start()


def test_an_interrupted_start_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    init = Init(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        start()
    assert len(init.calls) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_ray_swallows_is_not_forgotten(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    interruption.install()
    ours = signal.getsignal(signal.SIGTERM)

    def swallow() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        except KeyboardInterrupt:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    Init(monkeypatch, swallow)
    with pytest.raises(KeyboardInterrupt):
        start()
    assert signal.getsignal(signal.SIGTERM) == ours


# Where Ray's files lie.


@pytest.mark.parametrize("length", [1, session.LONGEST_FOLDER, session.LONGEST_FOLDER + 1, 86, 106, 200])
def test_rays_sockets_have_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    folder = "/" + "x" * (length - 1)
    monkeypatch.setattr(session.tempfile, "gettempdir", lambda: folder)
    monkeypatch.setattr(session, "is_writable", lambda path: True)
    chosen = session.short_folder()
    assert (chosen == folder) == (length <= session.LONGEST_FOLDER)
    longest = f"{chosen}/{session.SESSION_NAME}/sockets/dash_MetricsHead.0"
    assert len(longest) <= 107


def test_a_socket_of_the_longest_name_can_be_made(tmp_path: Path) -> None:
    path = "/tmp/" + "x" * (session.LONGEST_SOCKET + len("/sockets/dash_MetricsHead.0") - 5)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)
        os.unlink(path)  # noqa: PTH108
    with socket.socket(socket.AF_UNIX) as made, pytest.raises(OSError, match="too long"):
        made.bind(path + "x")


def test_a_folder_of_the_users_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 80)
    with pytest.raises(UserError, match=f"RAY_TMPDIR=/tmp/x+: .* at most {session.LONGEST_FOLDER} bytes"):
        session.short_folder()


def test_without_any_folder_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "is_writable", lambda path: False)
    with pytest.raises(UserError, match="set RAY_TMPDIR to one"):
        session.short_folder()


def test_a_token_is_given_where_ray_could_not_keep_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for home, given in ((tmp_path, False), (Path("/dev/null"), True)):
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
        Init(monkeypatch, None)
        start()
        assert (len(os.environ.get("RAY_AUTH_TOKEN", "")) == 32) == given
    monkeypatch.setenv("RAY_AUTH_TOKEN", "the user's")
    Init(monkeypatch, None)
    start()
    assert os.environ["RAY_AUTH_TOKEN"] == "the user's"


# Its loss.


def node(monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> None:
    monkeypatch.setattr(session.ray._private.worker, "_global_node", SimpleNamespace(**attributes))


def test_only_processes_without_which_ray_is_lost_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        dead = [("log_monitor", SimpleNamespace(poll=lambda: 1))]
        address = f"127.0.0.1:{server.getsockname()[1]}"
        node(monkeypatch, dead_processes=lambda: dead, gcs_address=address, node_id="a")
        assert session.why_lost(None) == ""
        dead += [("raylet", SimpleNamespace(poll=lambda: -9)), ("gcs_server", SimpleNamespace(poll=lambda: 1))]
        assert session.why_lost(None) == "its raylet ended (signal 9) and gcs_server ended (code 1)"
    monkeypatch.setattr(session.ray._private.worker, "_global_node", None)
    assert session.why_lost(None) == "its session has ended"


def test_a_head_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process may be there still: a GCS that has got a SIGTERM closes its door and stays."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        node(monkeypatch, dead_processes=list, gcs_address=f"127.0.0.1:{port}", node_id="a")
        for alive, reason in ((True, ""), (False, "the cluster takes this machine for dead")):
            known = [{"NodeID": "a", "Alive": alive}, {"NodeID": "b", "Alive": False}]
            monkeypatch.setattr(session.ray, "nodes", lambda known=known: known)
            assert session.why_lost("auto") == reason
        assert session.why_lost(None) == ""
    for address in ("auto", None):
        assert session.why_lost(address) == f"its head at 127.0.0.1:{port} does not answer (Connection refused)"


def test_a_head_under_load_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(address: object, timeout: float) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(session.socket, "create_connection", slow)
    node(monkeypatch, dead_processes=list, gcs_address="127.0.0.1:1", node_id="a")
    assert session.why_lost(None) == ""
    assert "does not answer (timed out)" in session.why_lost("auto")


def test_the_loss_is_told_once_and_not_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "WATCH_S", 0.01)
    reasons = ["", "", "gone"]
    monkeypatch.setattr(session, "why_lost", lambda address: reasons.pop(0) if len(reasons) > 1 else reasons[0])
    told, heard = [], threading.Event()
    with session.watched(None, lambda: False, lambda reason: (told.append(reason), heard.set())):
        assert heard.wait(10)
    time.sleep(0.1)
    assert told == ["gone"]
    with session.watched(None, lambda: False, told.append):
        pass
    time.sleep(0.1)
    assert told == ["gone"]


def test_a_clusters_head_may_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "WATCH_S", 0.01)
    monkeypatch.setattr(session, "GRACE_S", 0.3)
    answers, told, since = iter(["gone"] * 5 + [""]), [], time.monotonic()
    monkeypatch.setattr(session, "why_lost", lambda address: next(answers, "gone again"))
    with session.watched("auto", lambda: False, lambda reason: told.append((reason, time.monotonic() - since))):
        while not told and time.monotonic() - since < 10:
            time.sleep(0.01)
    ((reason, after),) = told
    assert reason == "gone again" and after >= 0.3


def test_an_interruption_that_the_loop_does_not_notice_is_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "WATCH_S", 0.01)
    monkeypatch.setattr(session, "INTERRUPTED_S", 0.3)
    monkeypatch.setattr(session, "why_lost", lambda address: "")
    told, heard, interrupted = [], threading.Event(), threading.Event()
    with session.watched(None, interrupted.is_set, lambda reason: (told.append(reason), heard.set())):
        assert not heard.wait(0.5)
        interrupted.set()
        assert not heard.wait(0.1)
        assert heard.wait(10)
    assert told == [""]


STARTS_MANY = """
import os, time
print(flush=True)
for _ in range(400):
    if os.fork() == 0:
        break
    time.sleep(0.001)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_is_left_of_a_ray_that_starts_its_processes_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "raylet").symlink_to(Path(sys.executable).resolve())
    with subprocess.Popen([tmp_path / "raylet", "-S", "-c", STARTS_MANY], stdout=subprocess.PIPE,
                          start_new_session=True) as raylet:  # fmt: skip
        assert raylet.stdout
        raylet.stdout.readline()
        time.sleep(0.1)
        assert len(living(raylet.pid)) > 1
        session.abandon()
        assert raylet.wait(timeout=10) == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while living(raylet.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert living(raylet.pid) == []

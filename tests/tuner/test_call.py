"""A command that a program calls is done in a child process: what is told, answered and raised, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import tuner
from tests.support.commands import ROOT, environment, python
from tuner import call, events, search
from tuner.call import Answer, Call, carry_out
from tuner.config.program import Program
from tuner.errors import MachineError, UserError
from tuner.events import Event
from tuner.planning.progress import Progress

FAKE = """
import os, pickle, signal, sys, time
from pathlib import Path
from tuner import events
from tuner.call import Answer, Call, Failure
from tuner.errors import MachineError, UserError
from tuner.planning.progress import Progress

pipe = os.fdopen(int(sys.argv[1]), "wb")
call = pickle.load(sys.stdin.buffer)
signals = []
signal.signal(signal.SIGINT, lambda *_: signals.append(1))
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])

def send(message):
    pickle.dump(message, pipe)
    pipe.flush()

def until_interrupted():
    while not signals:
        time.sleep(0.01)

def began():
    send(events.TrainingBegan("val_loss", tuple, Path("runs/a")))

def ended(state, reason=""):
    send(events.Ended(state, reason, Path("runs/a"), 3, 9, True))

exec(call.argv[0])
"""
"""Does what the first flag says."""
RESUME = r"to go on: tuner\.search\(resume='runs/a'\)"
BAD = [
    ({"task": "mnist1d", "optimizers": ["adma"]}, ["--task", "mnist1d", "--optimizers", "adma"]),
    ({}, []),
    ({"task": "mnist1d", "trials": "many"}, ["--task", "mnist1d", "--trials", "many"]),
    ({"task": "mnist1d", "out": "file", "name": "a"}, ["--task", "mnist1d", "--out", "file", "--name", "a"]),
    ({"resume": "nowhere"}, ["--resume", "nowhere"]),
]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Calls a child that does what it is told to."""
    (tmp_path / "fake_child.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(call, "CHILD", "fake_child")

    def answer(does: str, tell: Callable[[Event], Any] = lambda event: None) -> Answer:
        return carry_out(Call("search", [does], Program()), tell)

    return answer


# What is told and answered.


def test_events_are_told_in_this_thread_in_their_order(fake: Callable[..., Answer]) -> None:
    told: list[Event] = []
    threads = set()

    def tell(event: Event) -> None:
        told.append(event)
        threads.add(threading.current_thread())

    answer = fake("send(events.Remark('one')); send(events.Remark('two')); send(Answer(Path('runs/a')))", tell)
    assert answer == Answer(Path("runs/a"))
    assert told == [events.Remark("one"), events.Remark("two")]
    assert threads == {threading.current_thread()}


def test_progress_is_what_was_said_last(fake: Callable[..., Answer]) -> None:
    asked: list[Callable[[], Any]] = []
    seen = []

    def tell(event: Event) -> None:
        if isinstance(event, events.TrainingBegan):
            asked.append(event.progress)
        if asked:
            seen.append((type(event), [p.done for p in asked[0]()]))

    row = "[Progress('adam', 'search', done={}, total=2, running=0, diverged=0, failed=0, best=None)]"
    fake(f"send({row.format(0)}); began(); send({row.format(2)}); send(Answer(Path('a')))", tell)
    assert seen == [(events.TrainingBegan, [0]), (events.Progressed, [2])]
    assert all(isinstance(p, Progress) for p in asked[0]())


@pytest.mark.parametrize(
    ("failure", "error", "said"),
    [
        ("Failure(UserError, 'no such task')", UserError, "^no such task$"),
        ("Failure(MachineError, 'no memory')", MachineError, "^no memory$"),
        ("Failure(None, 'KeyError: 3', 'line 1')", RuntimeError, "^KeyError: 3\nline 1$"),
    ],
)
def test_what_went_wrong_is_raised_here(
    failure: str, error: type[Exception], said: str, fake: Callable[..., Answer]
) -> None:
    with pytest.raises(error, match=said):
        fake(f"send({failure})")


# How it ends.


@pytest.mark.parametrize(
    ("does", "error", "said"),
    [
        ("sys.exit(7)", MachineError, r"^the process of the command ended \(code 7\); training had not begun$"),
        (
            "began(); os.kill(os.getpid(), 9)",
            MachineError,
            rf"^the process of the command ended \(signal 9\); {RESUME}$",
        ),
        ("pipe.write(b'\\x80garbage'); pipe.flush()", MachineError, r"^the process of the command ended \(code 0\); "),
        ("ended('halted', 'disk full')", MachineError, f"^disk full; 3 of 9 training runs finished; {RESUME}$"),
        ("ended('lost', 'raylet'); os._exit(1)", MachineError, f"^Ray was lost: raylet; 3 of 9 [a-z ]*; {RESUME}$"),
        ("ended('interrupted'); os._exit(130)", KeyboardInterrupt, f"^3 of 9 [a-z ]*; runs/a has them; {RESUME}$"),
        ("sys.exit(130)", KeyboardInterrupt, "^training had not begun$"),
        ("began(); sys.exit(130)", KeyboardInterrupt, f"^{RESUME}$"),
    ],
)
def test_an_early_end_says_how_to_go_on(
    does: str, error: type[BaseException], said: str, fake: Callable[..., Answer], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error, match=said):
        fake(does)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("error", [ValueError("mine"), UserError("mine"), SystemExit(3), StopIteration()])
def test_a_listener_s_error_ends_the_child_in_order_and_comes_out(
    error: BaseException, fake: Callable[..., Answer], tmp_path: Path
) -> None:
    told = []

    def tell(event: Event) -> None:
        told.append(event)
        raise error

    mark = tmp_path / "mark"
    does = "began(); until_interrupted(); time.sleep(0.1); ended('interrupted');"
    does += f"open({str(mark)!r}, 'w').write(str(signals))"
    with pytest.raises(type(error)) as caught:
        fake(does, tell)
    assert caught.value is error
    assert len(told) == 1 and mark.read_text() == "[1]"  # not told any more, and interrupted once


def test_an_interruption_ends_the_child_in_order(fake: Callable[..., Answer]) -> None:
    told = []

    def tell(event: Event) -> None:
        told.append(type(event))
        if isinstance(event, events.TrainingBegan):
            signal.raise_signal(signal.SIGINT)

    does = "began(); until_interrupted(); send(events.TrainingEnded()); ended('interrupted'); os._exit(130)"
    with pytest.raises(KeyboardInterrupt, match=RESUME):
        fake(does, tell)
    assert told == [events.TrainingBegan, events.TrainingEnded, events.Ended]


def test_a_second_interruption_is_passed_on_too(fake: Callable[..., Answer]) -> None:
    def tell(event: Event) -> None:
        signal.raise_signal(signal.SIGINT)

    does = "began(); until_interrupted(); send(events.Remark('ending'))\nwhile len(signals) < 2: time.sleep(0.01)"
    with pytest.raises(KeyboardInterrupt, match=RESUME):
        fake(does, tell)


def test_a_listener_s_error_after_an_interruption_hastens_nothing(fake: Callable[..., Answer], tmp_path: Path) -> None:
    def tell(event: Event) -> None:
        raise KeyboardInterrupt if isinstance(event, events.TrainingBegan) else ValueError

    mark = tmp_path / "mark"
    does = "began(); until_interrupted(); send(events.Remark('ending')); time.sleep(0.3); ended('interrupted');"
    with pytest.raises(KeyboardInterrupt, match=RESUME):
        fake(f"{does} open({str(mark)!r}, 'w').write(str(signals))", tell)
    assert mark.read_text() == "[1]"


def test_an_interruption_while_the_child_leaves_is_neither_lost_nor_waited_for_in_vain(
    fake: Callable[..., Answer],
) -> None:
    timer = threading.Timer(1.0, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt, match=RESUME):
        fake("began(); send(Answer(Path('runs/a'))); pipe.close(); time.sleep(2.0)")
    timer.join()


def test_it_may_be_called_from_any_thread(fake: Callable[..., Answer]) -> None:
    answers = {}

    def ask(name: str) -> None:
        answers[name] = fake(f"time.sleep(0.2); send(Answer(Path({name!r})))")

    threads = [threading.Thread(target=ask, args=[name]) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {name: Answer(Path(name)) for name in ("a", "b", "c")}


# The child itself.


@pytest.mark.parametrize(("keywords", "argv"), BAD)
def test_bad_input_is_refused_in_the_sentence_of_the_command_line(
    keywords: dict[str, Any], argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError) as of_command:
        search.main(argv)
    with pytest.raises(UserError) as of_call:
        tuner.search(**keywords)
    assert str(of_call.value) == str(of_command.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_plan_is_that_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    search.main(["--task", "mnist1d", "--optimizers", "adam", "--seeds", "7,", "--name", "a", "--dry-run", "--json"])
    of_command = json.loads(capsys.readouterr().out)
    assert tuner.search("mnist1d", ["adam"], seeds=[7], name="a", dry_run=True) == of_command
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_goes_on_takes_no_other_classes() -> None:
    mine = type("Mine", (), {"__module__": "__main__", "__init__": lambda self, params, lr=0.5: None})
    for given in ({"optimizers": ["adam", mine]}, {"optimizers": {"name": "adam", "args": {"eps": 1e-3}}}):
        with pytest.raises(UserError, match=r"^resume: a run that goes on has its own classes and contents; give"):
            tuner.search(resume=ROOT / "tests/golden/mnist1d/run", dry_run=True, quiet=True, **given)


def test_remarks_on_what_was_given_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = type("Mine", (), {"__module__": "__main__", "__init__": lambda self, params, lr=0.5: None})
    told: list[Event] = []
    plan = tuner.search("mnist1d", mine, dry_run=True, on_event=told.append)
    assert told == [events.Remark("Mine: no space given, so lr alone is searched, from 1e-05 to 1 (log-uniform)")]
    assert list(plan["config"]["optimizers"]) == ["Mine"]


CALLER = """
import sys
import tuner
try:
    tuner.search("mnist1d", ["adam"], trials=2, preset="smoke", out=sys.argv[1])
except BaseException as error:
    open(sys.argv[2], "w").write(repr(error))
"""


def started(tmp_path: Path) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    """A program that calls us, in a session of its own, and its child, a moment later."""
    arguments = [sys.executable, "-c", CALLER, str(tmp_path / "runs"), str(tmp_path / "error")]
    caller = subprocess.Popen(
        arguments, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 30
    while not (children := psutil.Process(caller.pid).children()):
        assert caller.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    return caller, children[0]


def gone(process: psutil.Process, within_s: float) -> bool:
    """Ended; whether whoever adopts orphans here has read its exit code does not matter."""
    _, alive = psutil.wait_procs([process], timeout=within_s)
    return all(one.status() == psutil.STATUS_ZOMBIE for one in alive)


@pytest.mark.parametrize("after_s", [0.0, 0.1])
def test_an_interruption_as_soon_as_there_is_a_child_is_without_noise(tmp_path: Path, after_s: float) -> None:
    caller, child = started(tmp_path)
    time.sleep(after_s)
    os.killpg(caller.pid, signal.SIGINT)  # as a terminal does
    _, err = caller.communicate(timeout=60)
    assert (caller.returncode, err) == (0, b"")
    assert (tmp_path / "error").read_text().startswith("KeyboardInterrupt(")
    assert gone(child, 1) and not (tmp_path / "runs").exists()


def test_the_child_of_a_program_that_is_killed_ends(tmp_path: Path) -> None:
    caller, child = started(tmp_path)
    time.sleep(1.0)
    caller.kill()
    _, err = caller.communicate(timeout=60)
    assert err == b"" and gone(child, 30) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("numbers", [(1,), (0, 1, 2)])
def test_standard_streams_may_be_closed(numbers: tuple[int, ...], tmp_path: Path) -> None:
    code = (
        f"import os, sys\nimport tuner\nfor number in {numbers}: os.close(number)\n"
        "try:\n    tuner.search('mnist1')\n"
        "except BaseException as error:\n    open(sys.argv[1], 'w').write(repr(error))\n"
    )
    done = python(code, "answer", folder=tmp_path, env=environment())
    assert (done.out, done.err) == ("", "")
    assert (tmp_path / "answer").read_text().startswith("UserError(\"unknown task 'mnist1'; did you mean 'mnist1d'?")


@pytest.mark.parametrize("flags", [["-OO"], ["-I", "-W", "error"]])
def test_flags_of_the_interpreter_are_the_programs_own(flags: list[str], tmp_path: Path) -> None:
    asked = "tuner.search('mnist1d', 'adam', dry_run=True)['config']['task']['name']"
    code = f"import sys\nsys.path[:0] = {sys.path!r}\nimport tuner\nprint({asked})"
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "mnist1d\n", "")

"""The end of a command that could not say so itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.commands import Done, environment, python
from tests.support.made_runs import make_run
from tuner.store.run import Run

AT_WORK = """
import os, signal, sys
from pathlib import Path
from tuner.machine import streams
from tuner.planning.guardian import guarded
from tuner.planning.heartbeat import write_state
from tuner.store.run import Run

streams.prepare()
run = Run(sys.argv[1])
phases = [{"phase": "search", "optimizer": "adam", "done": 1, "total": 40, "left_s": None}]
write_state(run, "running", phases)
with guarded([run.path], "go on"):
    %s
write_state(run, "ended", phases)
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", seeds=3, trials=5)


def ended(run: Run, how: str) -> Done:
    return python(AT_WORK % how, run.path, env=environment())


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("os._exit(1)", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("os.killpg(os.setsid() or 0, signal.SIGTERM)", -15),
    ],
)
def test_a_process_that_ends_without_a_word_is_spoken_for(run: Run, how: str, code: int) -> None:
    rows = len(run.trial_rows()) + len(run.valid_seed_rows())
    done = ended(run, how)
    assert (done.code, done.out) == (code, "")
    (line,) = done.err.splitlines()
    assert line.startswith("error: Ray was lost, or the system ended this command")
    assert line.endswith(f"; {rows} of 40 training runs finished; to go on: go on")
    assert (run.status() or {})["state"] == "failed"


@pytest.mark.parametrize("how", ["pass", "signal.raise_signal(signal.SIGINT)"])
def test_one_that_speaks_for_itself_is_not(run: Run, how: str) -> None:
    done = ended(run, f"\n    try:\n        {how}\n    except KeyboardInterrupt:\n        pass".replace("\n", "\n    "))
    assert (done.code, done.err) == (0, "")
    assert (run.status() or {})["state"] == "ended"


@pytest.mark.parametrize("change", [{"pid": 1}, {"state": "lost"}, {"state": "interrupted"}])
def test_what_another_command_or_itself_has_said_stays(
    run: Run, change: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    from tuner.planning.guardian import note_end
    from tuner.planning.heartbeat import write_state

    write_state(run, "running", [])
    said = (run.status() or {}) | change
    run.write_status(said)
    note_end(os.getpid(), [run.path], "go on")
    assert run.status() == said
    assert capsys.readouterr() == ("", "")


def test_signals_do_not_end_it(run: Run) -> None:
    how = "import glob, time; time.sleep(1); [os.kill(pid, signal.SIGTERM) for pid in children()]; os._exit(1)"
    children = "children = lambda: map(int, open(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read().split())"
    if not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists():
        pytest.skip("needs /proc")
    done = python(children.join(["import os\n", "\n"]) + AT_WORK % how, run.path, env=environment())
    assert done.code == 1 and done.err.startswith("error: Ray was lost, or the system")

"""Standard streams that are closed, full, or left by their reader: in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import Done, environment
from tests.support.made_runs import make_run
from tests.support.thinned import thinned
from tuner.store.run import Run

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def shell(folder: Path, line: str, **env: str) -> Done:
    """A line of shell in which ``$PYTHON`` is our interpreter; what reaches descriptors 1 and 2."""
    done = subprocess.run(
        ["sh", "-c", line], cwd=folder, env=environment(PYTHON=sys.executable, **env), capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


PROGRAM = """
import sys
from tuner.console.parsing import run_command
from tests.support.thinned import thinned

def main(argv):
    print("a result")
    print("said", file=sys.stderr)
    return int(argv[0])

run_command(main, sys.argv[1:])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


@pytest.mark.parametrize("code", [0, 2, 3])
def test_a_closed_stdout_is_said_and_leaves_the_exit_code(folder: Path, code: int) -> None:
    assert shell(folder, f"$PYTHON program.py {code} >&-") == (
        code, "", "said\nstdout is closed: what would stand there is not shown\n",
    )  # fmt: skip


def test_a_closed_stderr_sends_nothing_to_stdout(folder: Path) -> None:
    assert shell(folder, "$PYTHON program.py 0 2>&-") == (0, "a result\n", "")
    assert shell(folder, "$PYTHON program.py 3 <&- >&- 2>&-") == (3, "", "")


def test_a_closed_stdin_is_empty_and_no_file_takes_its_place(folder: Path) -> None:
    (folder / "reads.py").write_text(
        "import os, sys\nfrom tuner.console.parsing import run_command\n"
        "run_command(lambda argv: print(repr(sys.stdin.read()), os.open('reads.py', os.O_RDONLY) > 2) or 0)\n"
    )
    assert shell(folder, "$PYTHON reads.py <&-") == (0, "'' True\n", "")


@needs_full
@pytest.mark.parametrize(("code", "becomes"), [(0, 3), (1, 1), (2, 2), (3, 3)])
def test_a_full_disk_under_stdout_is_an_error_that_names_it(folder: Path, code: int, becomes: int) -> None:
    assert shell(folder, f"$PYTHON program.py {code} > /dev/full") == (
        becomes, "", "said\nerror: stdout: No space left on device: not all that should stand there does\n",
    )  # fmt: skip
    assert shell(folder, f"$PYTHON program.py {code} 2> /dev/full") == (code, "a result\n", "")


def test_the_reader_of_stdout_may_leave(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=3)
    line = f"{{ $PYTHON -m tuner.report {run.path} --json; echo $? >&2; }} | head -1"
    assert shell(tmp_path, line) == (0, "{\n", "0\n")


@pytest.mark.parametrize("module", ["status", "report"])
def test_commands_that_print_alone(tmp_path: Path, module: str) -> None:
    run = make_run(tmp_path / "run", seeds=3)
    flag = "--json" if module == "report" else ""
    closed = shell(tmp_path, f"$PYTHON -m tuner.{module} {run.path} {flag} >&-")
    assert closed == (0, "", "stdout is closed: what would stand there is not shown\n")


def test_a_narrow_dumb_terminal_without_colours_changes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=3)
    plain = shell(tmp_path, f"$PYTHON -m tuner.status {run.path}")
    odd = shell(tmp_path, f"$PYTHON -m tuner.status {run.path}", COLUMNS="20", TERM="dumb", NO_COLOR="1")
    assert plain.code == 0 and odd == plain and "\x1b" not in odd.out


def test_letters_that_the_locale_lacks_are_escaped(folder: Path) -> None:
    (folder / "odd.py").write_text(
        "from tuner.console.parsing import run_command\nrun_command(lambda argv: print('1 ± 2') or 0)\n",
        encoding="utf-8",
    )
    assert shell(folder, "$PYTHON odd.py", LC_ALL="POSIX", PYTHONUTF8="0") == (0, "1 \\xb1 2\n", "")


@pytest.mark.parametrize("module", ["search", "retrain", "report", "status"])
def test_a_working_directory_that_is_gone_is_named(tmp_path: Path, module: str) -> None:
    done = shell(tmp_path, f"mkdir gone && cd gone && rmdir ../gone && exec $PYTHON -m tuner.{module} --dry-run")
    message = "error: the working directory does not exist any more; change to another one"
    assert (done.code, done.out, done.err.splitlines()[-1]) == (2, "", message)


def test_a_descriptor_that_does_not_block_loses_nothing(folder: Path) -> None:
    (folder / "much.py").write_text(
        "import os\nfrom tuner.console.parsing import run_command\nos.set_blocking(1, False)\n"
        "run_command(lambda argv: print('x' * 1_000_000) or 0)\n"
    )
    done = shell(folder, "$PYTHON much.py | { sleep 1; wc -c; }")
    assert (done.code, done.out.strip(), done.err) == (0, "1000001", "")


FILLING = """
import errno, os, sys
from tuner import report
from tuner.console.parsing import run_command

real, left = os.fsync, [{whole}]

def fsync(descriptor):
    left[0] -= 1
    if left[0] < 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    real(descriptor)

os.fsync = fsync
run_command(report.main, sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("whole", "name"), thinned([(0, "figures/manifest.json"), (1, "summary.csv"), (2, "contrasts.csv")], 3)
)
def test_a_full_disk_under_a_report_names_the_file(tmp_path: Path, whole: int, name: str) -> None:
    run = make_run(tmp_path / "run", seeds=3)
    (tmp_path / "filling.py").write_text(FILLING.format(whole=whole))
    done = shell(tmp_path, f"$PYTHON filling.py {run.path} --out {tmp_path / 'out'}")
    assert (done.code, done.err) == (1, f"error: {tmp_path / 'out' / name}: No space left on device\n")
    assert not list((tmp_path / "out").glob("*.partial"))


def test_a_run_is_whole_also_where_nothing_can_be_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=3)
    done = shell(tmp_path, f"$PYTHON -m tuner.report {run.path} <&- >&- 2>&-")
    assert done == (0, "", "")
    assert (Run(run.path).path / "report.html").stat().st_size > 50_000
    assert list((run.path / "figures").glob("*.png"))

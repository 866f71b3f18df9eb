"""Our commands in environments drawn at random: each ends with an exit code of ours, and says why in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from tests.support.commands import ROOT
from tests.support.examples import examples
from tests.support.made_runs import make_run

pytestmark = pytest.mark.slow

FOLDERS = ["", "/nowhere", "/dev/null", "relative", "/proc", "a" * 300, "/tmp/" + "long/" * 60]
VARIABLES = {
    "HOME": FOLDERS, "TMPDIR": FOLDERS, "XDG_CACHE_HOME": FOLDERS, "XDG_CONFIG_HOME": FOLDERS, "MPLCONFIGDIR": FOLDERS,
    "RAY_TMPDIR": FOLDERS, "PWD": FOLDERS, "USER": ["", "é", "nobody"], "LOGNAME": ["", "a b"], "SHELL": ["", "/none"],
    "LANG": ["", "C", "POSIX", "xx_XX.UTF-8", "tr_TR.UTF-8"], "LC_ALL": ["C", "POSIX", "de_DE", "nonsense"],
    "PYTHONUTF8": ["0", "1"], "PYTHONIOENCODING": ["ascii", "latin-1", "utf-8:strict", "cp1252"],
    "PYTHONUNBUFFERED": ["1"], "PYTHONOPTIMIZE": ["1"], "PYTHONHASHSEED": ["0", "4294967295"], "PYTHONDEVMODE": ["1"],
    "PYTHONWARNINGS": ["ignore", "always", "default"], "PYTHONDONTWRITEBYTECODE": ["1"], "PYTHONNODEBUGRANGES": ["1"],
    "PYTHONCOERCECLOCALE": ["0", "warn"], "PYTHONMALLOC": ["malloc"], "PYTHONINTMAXSTRDIGITS": ["0", "640"],
    "COLUMNS": ["", "-1", "0", "1", "20", "99999", "wide"], "LINES": ["0", "x"], "TERM": ["", "dumb", "nonsense"],
    "NO_COLOR": ["", "1"], "FORCE_COLOR": ["", "1"], "CLICOLOR_FORCE": ["1"],
    "TZ": ["", "Nowhere/At_All", "Asia/Tokyo"], "PYTHONSTARTUP": ["/none"],
    "MPLBACKEND": ["agg", "module://nothing", "GTK4Agg"], "OMP_NUM_THREADS": ["0", "64", "many"], "MKL_VERBOSE": ["1"],
    "CUDA_VISIBLE_DEVICES": ["", "-1", "NoDevFiles", "0,1"], "RAY_ADDRESS": ["auto", "127.0.0.1:1", "nonsense"],
    "OPENBLAS_NUM_THREADS": ["1"], "http_proxy": ["http://127.0.0.1:9"], "SLURM_JOB_ID": ["7"]
}  # fmt: skip
STREAMS = ["", ">&-", "2>&-", "<&-", "> /dev/full", "2> /dev/full", "> /dev/null", "| true", "2>&1 | head -c 1"]
LIMITS = ["", "ulimit -n 64;", "ulimit -f 4000;", "ulimit -s 1024;", "umask 777;", "umask 000;"]
COMMANDS = [
    "tuner.search --task mnist1d --optimizers adam --dry-run",
    "tuner.search --task mnist1d --optimizers adam --dry-run --json",
    "tuner.search --task nothing --dry-run",
    "tuner.search --resume {run} --dry-run",
    "tuner.search --help",
    "tuner.status {run}",
    "tuner.status {run} --json",
    "tuner.status nowhere",
    "tuner.retrain {run} --dry-run",
    "tuner.retrain nowhere",
    "tuner.report nowhere",
    "tuner.report {run} --json --out {out}",
]
OURS = {0, 1, 2, 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "made", seeds=3, trials=4).path


@st.composite
def environments(draw: st.DrawFn) -> dict[str, str]:
    names = draw(st.lists(st.sampled_from(sorted(VARIABLES)), unique=True, max_size=5))
    return {name: draw(st.sampled_from(VARIABLES[name])) for name in names}


@examples(260)  # fmt: skip
@given(environments(), st.sampled_from(STREAMS), st.sampled_from(LIMITS), st.sampled_from(COMMANDS), st.booleans())
def test_odd_environments(
    run: Path, variables: dict[str, str], streams: str, limit: str, command: str, lost: bool
) -> None:
    """No traceback in any; what ends with 2 has said one line, where there was somewhere to say it."""
    place = run.parent / "lost"
    place.mkdir(exist_ok=True)
    line = f'"$OUR_PYTHON" -m {command.format(run=run, out=run.parent / "out")} {streams}'
    away = 'cd lost && rmdir "$OLDPWD/lost";' if lost else ""
    done = subprocess.run(
        ["bash", "-c", f"{limit} {away} {line}; exit ${{PIPESTATUS[0]}}"],
        cwd=run.parent, env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": str(ROOT),
                             "OUR_PYTHON": sys.executable} | variables,
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    err = done.stderr.decode(errors="replace")
    event(f"{command.split()[0]} {done.returncode}")
    assert "Traceback" not in err and "a fault of the program" not in err, err
    assert done.returncode in OURS, (done.returncode, err)
    if done.returncode == 2 and not streams:
        assert [said for said in err.splitlines() if said.startswith("error: ")], err

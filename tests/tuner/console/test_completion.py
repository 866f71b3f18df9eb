"""What the shell is told as a line is typed, by argcomplete's protocol and in bash itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

import argcomplete
import pytest

from tests.support.commands import environment, python
from tests.support.made_runs import make_run
from tuner.config.registry import available

SEARCH = "search --task mnist1d --optimizers adam sgd "


class Answer(NamedTuple):
    code: int
    words: list[str]
    said: str


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the script that an installation makes."""
    script = tmp_path / "bin/tuner"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom tuner.__main__ import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return tmp_path


def asked(folder: Path, line: str) -> Answer:
    """What the shell is told, and the terminal, when the line ends here."""
    line, out = f"tuner {line}", folder / "words"
    asking = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    done = subprocess.run(
        [folder / "bin/tuner"], env=environment(**asking, _ARGCOMPLETE_STDOUT_FILENAME=str(out)), cwd=folder,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == ""
    return Answer(done.returncode, out.read_text().split("\n"), done.stderr)


def words(folder: Path, line: str) -> list[str]:
    answer = asked(folder, line)
    assert (answer.code, answer.said) == (0, "")
    return [word.removesuffix(" ") for word in answer.words]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("re", ["retrain", "report"]),
        ("search --task t", ["tabular_mlp", "transformer"]),
        ("search --task=tr", ["--task=transformer"]),
        ("search --task ", available("tasks")),
        ("search --optimizers sgd ada", ["adabelief", "adahessian", "adam", "adam_full", "adamw", "adan"]),
        ("search --task mnist1d --preset ", ["default", "paper", "smoke"]),
        ("search --sampler ", ["gp", "qmc", "random", "tpe"]),
        ("search --scheduler ", ["asha", "fifo"]),
        ("search --tracker ", ["mlflow", "tensorboard", "wandb"]),
        (f"{SEARCH} --set train.e", ["train.ema=", "train.epochs=", "train.evaluations="]),
        (f"{SEARCH} --set train.epochs=1 optimizers.adam.args.e", ["optimizers.adam.args.eps="]),
        (f"{SEARCH} --set optimizers.sgd.space.lr.l", [f"optimizers.sgd.space.lr.{key}=" for key in ("log", "low")]),
        ("search --keep", ["--keep-weights"]),
        ("retrain mine --keep", ["--keep-weights"]),
        ("list op", ["optimizers"]),
        ("list tra", ["transformer"]),
    ],
)
def test_a_line_goes_on_with(folder: Path, line: str, expected: list[str]) -> None:
    assert sorted(words(folder, line)) == sorted(expected)


def test_every_command_is_there(folder: Path) -> None:
    assert set(words(folder, "")) >= {"search", "retrain", "report", "status", "list"}


def test_a_users_own_names_are_there(folder: Path) -> None:
    for name in ("tasks/my_task", "optimizers/my_rule"):
        (folder / "mine" / name).parent.mkdir(parents=True)
        (folder / f"mine/{name}.yaml").write_text("presets: {tiny: {}}\n")
    assert words(folder, "search --configs mine --task my") == ["my_task"]
    assert words(folder, "search --configs mine --optimizers my") == ["my_rule"]
    assert words(folder, "search --configs mine --task my_task --preset t") == ["tiny"]
    assert words(folder, "list --configs mine my_r") == ["my_rule"]


def test_the_optimizers_of_a_run_are_there(folder: Path) -> None:
    make_run(folder / "a run")
    assert sorted(words(folder, "report 'a run' --code ")) == ["adam", "diag_hessian"]


def test_what_cannot_be_known_is_a_line_and_no_traceback(folder: Path) -> None:
    (folder / "mine/optimizers").mkdir(parents=True)
    (folder / "mine/optimizers/adam.yaml").write_text("a: [")
    answer = asked(folder, f"{SEARCH} --configs mine --set opt")
    assert (answer.code, answer.words) == (1, [""])
    assert answer.said.startswith("\nerror: mine/optimizers/adam.yaml: cannot be read as YAML")
    assert answer.said.count("\n") == 2
    answer = asked(folder, "report nothing --code ")
    assert answer == Answer(1, [""], "\nerror: nothing: not a run directory, it has no config.yaml\n")


@pytest.mark.parametrize("line", ["search --task nope --set train.epo", "search --configs nowhere --set train.epo"])
def test_a_name_that_is_not_there_leaves_the_rest(folder: Path, line: str) -> None:
    assert words(folder, line) == ["train.epochs="]


def test_it_takes_no_time_and_imports_nothing_heavy(folder: Path) -> None:
    line = f"tuner {SEARCH}--set optimizers.adam."
    asking = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    code = """
        import sys, argcomplete
        from tuner.__main__ import make_parser
        argcomplete.autocomplete(make_parser(), exit_method=lambda code: None, output_stream=sys.stdout)
        print(sorted({"torch", "ray", "optuna", "pandas", "matplotlib"} & set(sys.modules)))
    """
    times = []
    for _ in range(3):
        before = time.perf_counter()
        done = python(textwrap.dedent(code), folder=folder, env=environment(**asking))
        times.append(time.perf_counter() - before)
        assert done.out.endswith("[]\n") and "optimizers.adam.args.eps=" in done.out, done.err
    assert min(times) < 1


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(folder: Path) -> None:
    """As bash calls what `eval "$(register-python-argcomplete tuner)"` defines."""
    line = "tuner search --task tra"
    script = f"{argcomplete.shellcode(['tuner'])}\nCOMP_LINE='{line}' COMP_POINT={len(line)} COMP_TYPE=9\n"
    script += "_python_argcomplete tuner\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n"
    env = environment(PATH=f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run(["bash", "-c", script], env=env, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["transformer"], "")

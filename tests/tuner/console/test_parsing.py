"""How commands leave, and what they say in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import environment
from tests.support.folders import everything
from tuner import retrain, search
from tuner.console.parsing import check_utf8, parse_seeds, run_command
from tuner.errors import UserError, nearest
from tuner.machine.invocation import command_line
from tuner.text import hp_text

pytestmark = pytest.mark.usefixtures("folder")


# Leaving.


def leaves(error: BaseException | int, argv: list[str]) -> object:
    def command(argv: list[str]) -> int:
        if isinstance(error, int):
            return error
        raise error

    with pytest.raises(SystemExit) as leave:
        run_command(command, argv)
    return leave.value.code


@pytest.mark.parametrize("code", [0, 1, 3, 130])
def test_a_commands_code_is_the_exit_code(code: int) -> None:
    assert leaves(code, []) == code


def test_an_interrupt_leaves_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert leaves(KeyboardInterrupt(), []) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


@pytest.mark.parametrize("flag", ["-v", "--verbose"])
def test_only_verbose_shows_a_traceback(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert leaves(UserError("a is wrong"), []) == 2
    assert capsys.readouterr() == ("", "error: a is wrong\n")
    assert leaves(UserError("a is wrong"), [flag]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" in err and err.endswith("error: a is wrong\n")


def test_help_goes_to_stdout_and_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        run_command(search.main, ["--help"])
    out, err = capsys.readouterr()
    assert leave.value.code == 0
    assert "--optimizers" in out and err == ""


def test_a_reader_that_leaves_is_no_error() -> None:
    many = (
        "import sys\nfrom tuner.console.parsing import run_command\n"
        + "run_command(lambda argv: [print(i) for i in range(99999)] and 0)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", many], env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (0, "")


# Small things.


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", 3), ("1,2,5", [1, 2, 5]), ("7,", [7]), (" 1 , 2 ", [1, 2]), ("-1", -1), (",", [])]
)
def test_seeds_are_a_number_or_a_list(text: str, seeds: object) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1;2", "1.5", "1,b", "1 2"])
def test_seeds_that_are_neither_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"--seeds {text}: expected a number N, or a list a,b,c"):
        parse_seeds(text)


def test_hyperparameters_for_a_person() -> None:
    assert (
        hp_text({"lr": 0.000123456, "n": 3, "kind": "a", "on": True, "x": 9.0})
        == "lr=0.0001235, n=3, kind=a, on=True, x=9"
    )
    assert hp_text({}) == ""


@pytest.mark.parametrize(
    ("name", "valid", "text"),
    [
        ("adm", ["sgd", "adam"], "; did you mean 'adam'? (valid: sgd, adam)"),
        ("ADAM", ["sgd", "adam"], "; did you mean 'adam'? (valid: sgd, adam)"),
        ("agamw", ["adam", "adamw"], "; did you mean 'adamw'? (valid: adam, adamw)"),
        ("lr", ["epochs", "final_lr"], " (valid: epochs, final_lr)"),
        ("zzz", ["adam"], " (valid: adam)"),
        ("", ["adam"], " (valid: adam)"),
        ("a", [], "; none are known"),
    ],
)
def test_the_nearest_name_is_offered_where_one_is_near_with_all(name: str, valid: list[str], text: str) -> None:
    assert nearest(name, valid) == text


# Lines to copy, and what cannot be told to others.


@pytest.mark.parametrize(
    ("started", "python"),
    [
        (["python", "-m", "tuner.search"], "python"),
        (["python3.11", "-X", "utf8", "-m", "tuner.status", "RUN"], "python3.11"),
        (["my env/python", "-m", "tuner.search"], "'my env/python'"),
        (["python", ".venv/bin/pytest"], "python"),
        (["jupyter"], "python"),
    ],
)
def test_a_line_to_copy_names_the_interpreter_as_it_was_named(
    started: list[str], python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", started)
    assert command_line("tuner.report", Path("runs/a")) == f"{python} -m tuner.report runs/a"


@pytest.mark.parametrize("path", ["runs/moved to/mv1", "it's", 'a "b" $HOME `ls`', "-x;y&z", "ä\nb"])
def test_a_line_to_copy_is_one_that_a_shell_understands(path: str) -> None:
    line = command_line("tuner.retrain", path, "--seeds", 4)
    shown = subprocess.run(["sh", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True).stdout
    assert shown.split("\0")[:-1] == ["python", "-m", "tuner.retrain", path, "--seeds", "4"]


@pytest.mark.parametrize("command", [search.main, retrain.main])
def test_an_argument_that_is_not_utf8_is_refused(command: Callable[[list[str]], int], folder: Path) -> None:
    argv = (
        [os.fsdecode(b"b\xffd")] if command is retrain.main else ["--task", "mnist1d", "--out", os.fsdecode(b"b\xffd")]
    )
    with pytest.raises(UserError, match=r"argument 'b\\udcffd': is not UTF-8$"):
        command(argv)
    assert everything(folder) == {}


def test_a_working_directory_that_is_not_utf8_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = folder / os.fsdecode(b"\xff")
    odd.mkdir()
    monkeypatch.chdir(odd)
    with pytest.raises(UserError, match=r"working directory '.*\\udcff': is not UTF-8$"):
        check_utf8([])
    monkeypatch.chdir(folder)
    check_utf8(["ä", "--out", ""])

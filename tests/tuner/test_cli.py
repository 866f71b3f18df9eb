from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.commands import environment, python
from tuner import retrain, search
from tuner.cli import check_utf8, command_line, hp_text, parse_seeds, run_command
from tuner.errors import UserError, nearest
from tuner.resources import Machine


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory on a machine of 4 CPUs."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("tuner.resources.this_machine", lambda: Machine(4, 0))
    return work


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# Without torch and Ray.

LOADED = """
import sys
from tuner import search
try:
    code = search.main({argv!r})
except SystemExit as leave:
    code = leave.code
assert code == 0, code
for name in ("torch", "ray", "optuna", "pandas"):
    assert name not in sys.modules, name
"""


def in_new_process(*argv: str) -> str:
    done = python(LOADED.format(argv=list(argv)), folder=Path.cwd())
    assert (done.code, done.err) == (0, "")
    return done.out


def test_help_names_every_flag_without_torch_or_ray(folder: Path) -> None:
    out = in_new_process("--help")
    assert out.startswith("usage: python -m tuner.search ")
    flags = ["task", "optimizers", "trials", "seeds", "preset", "gpus-per-trial", "cpus-per-trial", "max-concurrent",
             "cohort", "address", "sampler", "scheduler", "data-dir", "dataset", "out", "name", "configs", "set",
             "dry-run", "json", "quiet", "verbose"]  # fmt: skip
    assert set(flags) <= set(re.findall(r"--([a-z-]+)", out))
    assert everything(folder) == {}


@pytest.mark.parametrize("task", [("rahimi_recht",), ("resnet18",), ("transformer", "--dataset", "stdlib")])
def test_a_dry_run_needs_neither_torch_nor_ray_and_writes_nothing(folder: Path, task: tuple[str, ...]) -> None:
    out = in_new_process("--task", *task, "--dry-run", "--json", "--gpus-per-trial", "0")
    assert json.loads(out)["config"]["task"]["name"] == task[0]
    assert everything(folder) == {}


# A dry run.


def dry_run(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert search.main([*argv, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_a_dry_run_counts_the_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "--task",
        "mnist1d",
        "--optimizers",
        "adam",
        "sgd",
        "adamw",
        "--trials",
        "7",
        "--seeds",
        "5,8",
        "--name",
        "a",
    ]
    out = dry_run(capsys, *argv)
    assert "21 trials: 3 optimizers x 7, 10 epochs each\n" in out
    assert "6 retraining runs: 3 optimizers x 2 seeds, 20 epochs each\n" in out
    assert "27 training runs in all\n" in out
    assert "1 CPUs and 0 GPUs per run, 4 at once, of this machine\n" in out
    assert out.endswith("nothing was started; the run directory would be runs/a\n")
    assert everything(folder) == {}


def test_a_dry_run_shows_space_and_published_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    eps, decay = "eps={choices: [1, 2]}", "weight_decay={low: 1, high: 8, integer: true}"
    sets = [f"optimizers.adam.space.{dimension}" for dimension in (eps, decay)]
    out = dry_run(capsys, "--task", "mnist1d", "--optimizers", "adam", "--set", *sets)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "adam lr 1e-05 to 0.1 (numbers, log-uniform)" in lines
    assert "adam eps one of 1, 2" in lines
    assert "adam weight_decay 1 to 8 (whole numbers, uniform)" in lines
    assert "adam tried first: lr=0.001" in lines


def test_a_dry_run_as_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    plan = json.loads(dry_run(capsys, "--task", "mnist1d", "--trials", "4", "--seeds", "3", "--json"))
    assert plan["schema_version"] == 1
    assert plan["runs"] == {"trials": 8, "retrain": 6, "total": 14}
    assert plan["config"]["retrain"]["seeds"] == [0, 1, 2]
    assert plan["space"]["adam"]["lr"] == {"low": 1e-5, "high": 0.1, "log": True}
    assert plan["resources"] == {"cpus_per_trial": 1, "gpus_per_trial": 0, "max_concurrent": 4, "address": None,
                                 "cohort": "auto"}  # fmt: skip
    assert re.fullmatch(r"runs/mnist1d-\d{8}-\d{6}", plan["run"])


def test_the_resources_of_a_cluster_are_left_open(capsys: pytest.CaptureFixture[str]) -> None:
    out = dry_run(capsys, "--task", "mnist1d", "--address", "auto", "--cpus-per-trial", "99")
    assert "99 CPUs and as many as it has, at most 1, GPUs per run, as many as fit at once, of the Ray cluster" in out


# Flags.


def prepared(*argv: str) -> tuple[dict[str, Any], Path]:
    config = search.prepare(search.make_parser().parse(["--task", "mnist1d", *argv]), None)
    return config.model_dump(), search.new_path(config)


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["--optimizers", "sgd", "adam"], "search.optimizers", ["sgd", "adam"]),
        (["--trials", "7"], "search.trials", 7),
        (["--seeds", "3"], "retrain.seeds", [0, 1, 2]),
        (["--seeds", "7,"], "retrain.seeds", [7]),
        (["--preset", "smoke"], "search.trials", 12),
        (["--gpus-per-trial", "0"], "resources.gpus_per_trial", 0),
        (["--cpus-per-trial", "0.5"], "resources.cpus_per_trial", 0.5),
        (["--max-concurrent", "2"], "resources.max_concurrent", 2),
        (["--cohort", "8"], "resources.cohort", 8),
        (["--cohort", "1"], "resources.cohort", 1),
        (["--cohort", "auto"], "resources.cohort", "auto"),
        ([], "resources.cohort", "auto"),
        (["--cohort", "1", "--scheduler", "asha"], "resources.cohort", 1),
        (["--scheduler", "asha"], "resources.cohort", "auto"),
        (["--address", "auto"], "resources.address", "auto"),
        (["--sampler", "qmc"], "search.sampler", "qmc"),
        (["--scheduler", "asha"], "search.scheduler", "asha"),
        (["--dataset", "mnist1d"], "task.dataset", "mnist1d"),
        (["--out", "elsewhere"], "out", "elsewhere"),
        (["--name", "a"], "name", "a"),
        (["--set", "train.epochs=3", "train.batch_size=5", "--set", "train.epochs=4"], "train.epochs", 4),
        (["--set", "train.epochs=3", "train.batch_size=5", "--set", "train.epochs=4"], "train.batch_size", 5),
        (["--set", "search.trials=3", "--trials", "4"], "search.trials", 4),
    ],
)
def test_a_flag_is_a_key_of_the_configuration(argv: list[str], key: str, value: object) -> None:
    content: Any = prepared(*argv)[0]
    for part in key.split("."):
        content = content[part]
    assert content == value


def test_the_run_directory_is_out_and_name() -> None:
    assert prepared("--out", "a/b", "--name", "c")[1] == Path("a/b/c")


def test_a_data_folder_or_file_and_an_npz_are_made_absolute(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "text.txt").write_text("a text of many words\n")
    assert prepared("--data-dir", "data")[0]["task"]["data_dir"] == str(folder / "data")
    text = prepared("--task", "transformer", "--dataset", "chars", "--data-dir", "text.txt")[0]
    assert text["task"]["data_dir"] == str(folder / "text.txt")
    rng = np.random.default_rng(0)
    matrix, inputs = rng.normal(size=(14, 12)), rng.normal(size=(20, 12))
    np.savez("own.npz", A=matrix, X=inputs, Y=inputs @ matrix.T)
    assert prepared("--task", "rahimi_recht", "--dataset", "own.npz")[0]["task"]["dataset"] == str(folder / "own.npz")


# Bad input: exit code 2, one line that names it, nothing written.


def complaint(command: Callable[[list[str]], int], argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    before = everything(Path())
    with pytest.raises(SystemExit) as leave:
        run_command(command, argv)
    out, err = capsys.readouterr()
    assert leave.value.code == 2
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert everything(Path()) == before
    return err


TASK = ["--task", "mnist1d"]


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "--task"),
        (["--task"], "--task"),
        (["--task", "mnist"], "unknown task 'mnist'; did you mean 'mnist1d'?"),
        (["--task", ""], "unknown task ''"),
        (["--task", "../mnist1d"], "unknown task '../mnist1d'"),
        ([*TASK, "--trails", "3"], "unknown argument '--trails'; did you mean '--trials'?"),
        ([*TASK, "--trial=3"], "did you mean '--trials'?"),
        ([*TASK, "--trials"], "--trials"),
        ([*TASK, "--set"], "--set"),
        ([*TASK, "--optimizers"], "--optimizers"),
        ([*TASK, "--trials", "many"], "--trials: invalid int value: 'many'"),
        ([*TASK, "--trials", "0"], "search.trials: "),
        ([*TASK, "--trials", "-3"], "search.trials: "),
        ([*TASK, "more"], "unknown argument 'more'"),
        (
            [*TASK, "--optimizers", "adam", "diag_hesian"],
            "unknown optimizer 'diag_hesian'; did you mean 'diag_hessian'?",
        ),
        ([*TASK, "--optimizers", "adam", "adam"], "'adam' is named twice"),
        ([*TASK, "--preset", "smok"], "unknown preset of mnist1d 'smok'; did you mean 'smoke'?"),
        ([*TASK, "--dataset", "minst1d"], "unknown dataset 'minst1d' of mnist1d; did you mean 'mnist1d'?"),
        (["--task", "rahimi_recht", "--dataset", "cond0"], "rahimi_recht: dataset cond0: the condition number"),
        (["--task", "rahimi_recht", "--dataset", "none.npz"], "none.npz: no such file"),
        ([*TASK, "--set", "train.epoch=3"], "unknown key 'train.epoch' (from --set); did you mean 'epochs'?"),
        ([*TASK, "--set", "optimizers.adam.space.rl.low=1"], "unknown hyperparameter 'rl'; did you mean 'lr'?"),
        ([*TASK, "--set", "optimizers.adma.args.eps=1"], "unknown optimizer 'adma'; did you mean 'adam'?"),
        ([*TASK, "--set", "optimizers.adam.space.lr.low=1"], "low 1 must be below high 0.1"),
        ([*TASK, "--set", "train.epochs"], "--set train.epochs: expected key=value"),
        ([*TASK, "--set", "train.epochs=[1"], "--set train.epochs=[1"),
        ([*TASK, "--seeds", "a"], "--seeds a: expected a number N, or a list a,b,c"),
        ([*TASK, "--seeds", "0"], "retrain.seeds: "),
        ([*TASK, "--seeds", ","], "retrain.seeds: "),
        ([*TASK, "--seeds", "1,2,1"], "1 is named twice"),
        ([*TASK, "--seeds", "5,1000"], "1000 is the search seed"),
        ([*TASK, "--sampler", "cmaes"], "search.sampler: "),
        ([*TASK, "--scheduler", "pbt"], "search.scheduler: "),
        ([*TASK, "--cpus-per-trial", "5"], "resources.cpus_per_trial: 5 asked, but this machine has 4"),
        ([*TASK, "--cpus-per-trial", "0"], "resources.cpus_per_trial: "),
        ([*TASK, "--gpus-per-trial", "1"], "use --gpus-per-trial 0"),
        ([*TASK, "--gpus-per-trial", "nan"], "resources.gpus_per_trial: "),
        ([*TASK, "--max-concurrent", "0"], "resources.max_concurrent: "),
        *(
            ([*TASK, "--cohort", size], f"--cohort: expected auto, or a whole number of at least 1, got {size!r}")
            for size in ("0", "-1", "x", "2.5", "", "Auto", "1e3")
        ),
        ([*TASK, "--set", "resources.cohort=true"], "resources.cohort: "),
        ([*TASK, "--scheduler", "asha", "--cohort", "4"], "resources.cohort: asha "),
        ([*TASK, "--configs", "none"], "--configs none: no such folder"),
        ([*TASK, "--data-dir", "none"], "--data-dir none: no such folder or file"),
        (["--task", "resnet18", "--dataset", "cifar"], "unknown dataset 'cifar' of resnet18; did you mean 'cifar10'?"),
        (["--task", "cifar_cnn", "--data-dir", "there"], "use --dataset digits, which needs no file"),
        (["--task", "resnet18", "--dataset", "folder"], "resnet18: dataset folder: needs --data-dir DIR"),
        (["--task", "transformer"], "--data-dir"),
        ([*TASK, "--name", "a/b"], "name: 'a/b'"),
        ([*TASK, "--name", ".."], "name: '..'"),
        ([*TASK, "--name", "there", "--out", "."], "output folder there: exists already"),
        ([*TASK, "--out", "file"], "file is not a folder"),
        ([*TASK, "--out", "file/below"], "file is not a folder"),
        ([*TASK, "--jsn"], "unknown argument '--jsn'; did you mean '--json'?"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    folder: Path, argv: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "there").mkdir()
    (folder / "file").write_text("kept")
    assert named in complaint(search.main, argv, capsys)


def npz_with(path: str, **changes: Any) -> None:
    rng = np.random.default_rng(0)
    matrix, inputs = rng.normal(size=(14, 12)), rng.normal(size=(20, 12))
    arrays = {"A": matrix, "X": inputs, "Y": inputs @ matrix.T} | changes
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"A": np.ones((12, 14))}, "A has shape (12, 14), expected (14, 12)"),
        ({"X": np.ones((20, 13))}, "X has shape (20, 13), expected (20, 12)"),
        ({"Y": np.ones((19, 14))}, "Y has shape (19, 14), expected (20, 14)"),
        ({"Y": None}, "array Y is missing"),
        ({"W1": np.ones((13, 12))}, "W1 and W2 must be given together"),
        ({"X": np.full((20, 12), np.nan)}, "X must hold finite real numbers"),
    ],
)
def test_an_npz_that_does_not_fit_is_named(
    changes: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    npz_with("own.npz", **changes)
    text = complaint(search.main, ["--task", "rahimi_recht", "--dataset", "own.npz"], capsys)
    assert "own.npz" in text and said in text


@pytest.mark.parametrize("content", [b"", b"no zip"])
def test_an_npz_that_is_none_is_named(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.npz").write_bytes(content)
    text = complaint(search.main, ["--task", "rahimi_recht", "--dataset", "own.npz"], capsys)
    assert "own.npz: not a readable .npz file" in text


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "run"),
        (["none"], "none: not a run directory"),
        (["folder"], "folder: not a run directory"),
        (["folder", "--sed", "3"], "unknown argument '--sed'; did you mean '--seeds'?"),
    ],
)
def test_retrain_refuses_what_is_no_run(
    folder: Path, argv: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "folder").mkdir()
    assert named in complaint(retrain.main, argv, capsys).lower()


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
        "import sys\nfrom tuner.cli import run_command\n"
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
        ("zzz", ["adam"], "; did you mean 'adam'? (valid: adam)"),
        ("", ["adam"], "; did you mean 'adam'? (valid: adam)"),
        ("a", [], "; none are known"),
    ],
)
def test_the_nearest_name_is_offered_with_all(name: str, valid: list[str], text: str) -> None:
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
    with pytest.raises(UserError, match=r"argument b'b\\xffd': is not UTF-8$"):
        command(argv)
    assert everything(folder) == {}


def test_a_working_directory_that_is_not_utf8_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = folder / os.fsdecode(b"\xff")
    odd.mkdir()
    monkeypatch.chdir(odd)
    with pytest.raises(UserError, match=r"working directory b'.*\\xff': is not UTF-8$"):
        check_utf8([])
    monkeypatch.chdir(folder)
    check_utf8(["ä", "--out", ""])

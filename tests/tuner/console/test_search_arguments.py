"""Flags of the commands and what becomes of them; bad input is one line, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.folders import everything
from tuner import retrain, search
from tuner.console.parsing import run_command

pytestmark = pytest.mark.usefixtures("folder")


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
        (["--keep-weights"], "retrain.keep_weights", True),
        ([], "retrain.keep_weights", False),
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
        ([*TASK, "--set", "optimizers.adam.space.lr.low=1"], "low 1 must be below high 0.5"),
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
        ([*TASK, "--gpus-per-trial", "2"], "resources.gpus_per_trial: 2 asked, but a training run uses one device"),
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

"""What `tuner.list` shows: tables, one thing whole, one JSON document; what it refuses, and what it does not import."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from optimizers.curvature.registry import ESTIMATORS
from tests.support.commands import python, run
from tuner.config.registry import SHIPPED, available
from tuner.config.sources import TaskFiles
from tuner.console import catalogue, listing
from tuner.console.listing import show
from tuner.errors import UserError
from tuner.list import main

MODULE = '''
import torch


class Rule(torch.optim.SGD):
    """A rule of mine.

    More of it.
    """


class Problem:
    """A problem of mine."""

    def __init__(self):
        raise AssertionError
'''
TASK: dict[str, Any] = {
    "task": {"class": "my_module.Problem", "metric": "val_loss", "mode": "min", "dataset": "d", "datasets": ["d"]},
    "presets": {"quick": {"search": {"trials": 2}, "train": {"epochs": 3}, "retrain": {"seeds": 4}}, "default": {}},
}
SPACE = {"lr": {"low": 0.01, "high": 0.1, "log": True}}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a task, an optimizer, and one of a package that is not here."""
    folder = tmp_path / "own"
    write(folder, "tasks/mine.yaml", TASK)
    write(folder, "optimizers/mine.yaml", {"class": "my_module.Rule", "space": SPACE, "defaults": [{"lr": 0.05}]})
    write(folder, "optimizers/absent.yaml", {"class": "no_such_package.Rule", "space": SPACE})
    (folder / "my_module.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [*sys.path])  # which --configs adds to
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    return folder


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def shown(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main(list(map(str, argv))) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert not re.search(r"\x1b| $", out, re.M)  # plain text, when it is no terminal
    return out


def document(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    found = json.loads(shown(capsys, *argv, "--json"))
    assert found.pop("schema_version") == 1
    return found


def of_name(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    [entry] = [entry for entry in entries if entry["name"] == name]
    return entry


def refusal(*argv: object) -> str:
    with pytest.raises(UserError) as caught:
        main(list(map(str, argv)))
    return str(caught.value)


# Tasks.


def test_tasks_are_told_with_their_presets(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "tasks")
    assert list(found) == ["tasks"]
    assert [task["name"] for task in found["tasks"]] == available("tasks")
    mnist1d = of_name(found["tasks"], "mnist1d")
    said = yaml.safe_load((SHIPPED / "tasks/mnist1d.yaml").read_text())["about"]
    assert (mnist1d["model"], mnist1d["parameters"]) == (said["model"], said["parameters"])
    assert mnist1d["presets"][0] == {
        "name": "smoke", "optimizers": ["diag_hessian", "adam"], "studies": 3, "trials": 12, "epochs": 10,
        "batch_size": 32, "seeds": 3, "retrain_epochs": 10, "minutes": said["minutes"]["smoke"],
    }  # fmt: skip


def test_the_table_of_tasks_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "tasks", "--preset", "smoke")
    assert re.search(r"^mnist1d +perceptron 40-100-10 +smoke +3 x 12 x 10 +3 x 10 +\d+ s$", out, re.M)
    assert re.search(r"^ +data: cond29, cond15099, cond<number>, \*\.npz$", out, re.M)
    assert "default" not in out and "paper" not in out


def test_a_task_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "resnet18", "--preset", "smoke")
    assert "torchvision's ResNet-18 with a 3x3 stem of stride 1 and without the max-pool.\n" in out
    assert re.search(r"^paper +20 x 128 +4 x 128 .*train\.epochs 128, train\.evaluations 16", out, re.M)
    assert re.search(r"^task\.args\.width +16 +configs/tasks/resnet18\.yaml, preset smoke$", out, re.M)
    assert re.search(r"^faults\.retries +2 +configs/defaults\.yaml$", out, re.M)
    assert re.search(r"^optimizers\.diag_hessian\.args\.estimator +ggn_mc +configs/tasks/resnet18", out, re.M)


def test_a_users_own_task_says_nothing_of_itself(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = shown(capsys, "tasks", "--configs", own)
    assert re.search(r"^mine +- +quick +2 x 3 +4 x 3 +-$", table, re.M)
    assert "my_module" not in sys.modules
    task = document(capsys, "mine", "--configs", own)["tasks"][0]
    assert (task["model"], task["parameters"], task["doc"]) == (None, None, "A problem of mine.")
    quick = of_name(task["presets"], "quick")
    assert (quick["trials"], quick["epochs"], quick["seeds"], quick["minutes"]) == (2, 3, 4, None)
    assert quick["settings"] == {"search.trials": 2, "train.epochs": 3, "retrain.seeds": 4}


def test_a_task_that_lacks_something_is_named(own: Path) -> None:
    write(own, "tasks/mine.yaml", {"task": {"class": "my_module.Problem"}})
    assert refusal("tasks", "--configs", own).startswith("task mine: task.metric is missing")


def test_a_wrong_about_is_refused(own: Path) -> None:
    write(own, "tasks/mine.yaml", TASK | {"about": {"paramters": 1}})
    assert refusal("tasks", "--configs", own) == (
        f"{own}/tasks/mine.yaml: about: unknown key 'paramters'; did you mean 'parameters'? "
        "(valid: model, parameters, minutes, reference)"
    )


# Optimizers.


def test_optimizers_are_told_with_what_they_need(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "optimizers", "--configs", own)["optimizers"]
    assert [entry["name"] for entry in found] == available("optimizers", own)
    adam, sophia, mine = (of_name(found, name) for name in ("adam", "sophia", "mine"))
    assert (adam["package"], adam["installed"], adam["stacks"], adam["curvature"]) == ("torch", True, True, None)
    assert adam["space"]["lr"] == {"low": 1e-5, "high": 0.5, "log": True}
    assert (sophia["stacks"], sophia["curvature"]["estimator"], sophia["curvature"]["period"]) == (
        True,
        "hutchinson",
        10,
    )
    assert (mine["package"], mine["own"], mine["stacks"], mine["doc"]) == ("my_module", False, True, "A rule of mine.")
    absent = of_name(found, "absent")
    assert (absent["installed"], absent["stacks"], absent["remedy"], absent["error"]) == (False, None, None, None)


def test_the_table_of_optimizers_is_plain_text(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "optimizers", "--configs", own)
    assert re.search(r"^adamw +torch\.optim\.AdamW +lr, weight_decay +torch +yes$", out, re.M)
    curvature = "curvature: hutchinson, 2 gradients per sample, every step"
    assert re.search(rf"^diag_hessian +optimizers\.DiagHessian +lr, diff, square +{curvature} +yes$", out, re.M)
    assert re.search(r"^muon +optimizers\.MuonWithAdamW +lr, weight_decay +torch +yes$", out, re.M)
    assert re.search(r"^absent +\S+ +lr +no_such_package, not installed +not installed$", out, re.M)


def test_an_optional_package_that_is_not_there_has_a_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "find_spec", lambda package: None)
    assert re.search(
        r"^needs +pytorch_optimizer, not installed: pip install pytorch_optimizer\nstacks +not installed$",
        shown(capsys, "soap"), re.M,
    )  # fmt: skip


def test_a_class_that_cannot_be_made_is_said_under_the_table(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(own, "optimizers/mine.yaml", {"class": "my_module.Rul", "space": SPACE})
    out = shown(capsys, "optimizers", "--configs", own)
    assert re.search(r"^mine: my_module\.Rul: my_module has no 'Rul'; did you mean 'Rule'\?", out, re.M)
    assert re.search(r"^mine +my_module\.Rul +lr +my_module +-$", out, re.M)
    assert "cannot be made" in shown(capsys, "mine", "--configs", own)


@pytest.mark.parametrize("path", ["foo", ".foo.Rule"])
def test_a_class_that_is_no_path_is_said_to_be_none(path: str, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(own, "optimizers/mine.yaml", {"class": path, "space": SPACE})
    out = shown(capsys, "mine", "--configs", own)
    assert re.search(
        rf"^cannot be made +{re.escape(repr(path))} is not a dotted path such as torch\.optim\.Adam$", out, re.M
    )


def test_numbers_are_shown_to_the_last_digit(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(own, "optimizers/adam.yaml", {"args": {"eps": 0.1234567890123, "betas": [0.5, 1e-20]}})
    out = shown(capsys, "adam", "--configs", own)
    assert re.search(r"^args\.eps +0\.1234567890123 ", out, re.M)
    assert re.search(r"^args\.betas +\[0\.5, 1e-20\] ", out, re.M)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_narrow_terminal_hides_nothing(
    columns: int, own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is broken over lines has the same characters."""
    wide = shown(capsys, "tasks", "--configs", own) + shown(capsys, "resnet18")
    monkeypatch.setattr(listing, "PIPED_WIDTH", columns)
    narrow = shown(capsys, "tasks", "--configs", own) + shown(capsys, "resnet18")
    assert columns < 80 or max(map(len, narrow.splitlines())) <= columns
    assert sorted("".join(narrow.split())) == sorted("".join(wide.split()))


def test_an_optimizer_is_shown_whole(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(own, "optimizers/diag_hessian.yaml", {"args": {"eps": 1.0}})
    out = shown(capsys, "diag_hessian", "--configs", own)
    assert out.startswith("optimizer diag_hessian: optimizers.DiagHessian\nDiagonal-Hessian step on ")
    assert re.search(r"^published default +lr=1e-06, diff=0\.25, square=9$", out, re.M)
    assert re.search(r"^searched +square: 1 to 10 \(numbers, uniform\)$", out, re.M)
    assert re.search(rf"^args\.eps +1 +{re.escape(str(own))}/optimizers/diag_hessian\.yaml$", out, re.M)
    assert re.search(r"^space\.lr\.log +true +configs/optimizers/diag_hessian\.yaml$", out, re.M)
    assert re.search(r"^in resnet18 +args\.update_period 5 \(configs/tasks/resnet18\.yaml, preset smoke\)$", out, re.M)


def test_a_name_that_is_both_shows_both(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(document(capsys, "mine", "--configs", own)) == ["tasks", "optimizers"]
    out = shown(capsys, "mine", "--configs", own)
    assert "task mine: my_module.Problem\n" in out and "optimizer mine: my_module.Rule\n" in out


# Estimators, suites, all.


def test_every_estimator_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "estimators")
    assert re.findall(r"^(\w+) ", out, re.M)[1:] == list(ESTIMATORS)
    assert re.search(r"^hutchinson +2 per sample +the graph of the gradient .*Hutchinson's estimator of the", out, re.M)


SMALL = {
    "description": "two small tasks",
    "targets": "hand",
    "preset": "smoke",
    "search": {"optimizers": ["adam", "sgdm", "sgd"], "trials": 6, "studies": 4},
    "retrain": {"seeds": 2},
    "tasks": {"mnist1d": {"train": {"epochs": 3}}, "wine": {"task": {"name": "tabular_mlp", "dataset": "wine"}}},
}
HAND = {"version": 1, "tasks": {"mnist1d": {"target": 1.25, "metric": "val_loss", "dataset": "mnist1d"}}}


def test_where_there_are_no_suites_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    show({"schema_version": 1, "suites": []})
    assert capsys.readouterr().out == "no suites: there are no YAML files in configs/suites\n"


def test_suites_are_listed_with_their_tasks(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(own, "suites/small.yaml", SMALL)
    mine = [suite for suite in document(capsys, "suites", "--configs", own)["suites"] if suite["name"] == "small"]
    file = f"{own}/suites/small.yaml"
    assert mine == [{"name": "small", "file": file, "description": "two small tasks", "tasks": ["mnist1d", "wine"]}]
    line = rf"^small +mnist1d, wine +two small tasks +{re.escape(file)}$"
    assert re.search(line, shown(capsys, "suites", "--configs", own), re.M)


def test_a_suite_is_shown_whole_with_what_each_task_gets(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """mnist1d's preset smoke searches two optimizers, with the same epochs in both phases; the suite's three."""
    write(own, "suites/small.yaml", SMALL)
    write(own, "targets/hand.yaml", HAND)
    (suite,) = document(capsys, "small", "--configs", own)["suites"]
    assert (suite["description"], suite["targets"]) == ("two small tasks", "hand")
    first, second = suite["budgets"]
    assert (first["studies"], first["trials"], first["epochs"], first["seeds"]) == (4, 6, 3, 2)
    assert (first["target"], second["target"], second["dataset"]) == (1.25, None, "wine")
    about = yaml.safe_load((SHIPPED / "tasks/tabular_mlp.yaml").read_text())["about"]["minutes"]["smoke"]
    usual = TaskFiles("tabular_mlp", None).config("smoke")  # of the same epochs in every training run
    runs = 2 * usual.search.studies * (usual.search.trials + len(usual.retrain.seeds))
    assert second["minutes"] == pytest.approx(about * 3 * 4 * (6 + 2) / runs)
    lines = [" ".join(line.split()) for line in shown(capsys, "small", "--configs", own).splitlines()]
    assert lines[:2] == [f"suite small: {own}/suites/small.yaml", "two small tasks"]
    assert any(line.startswith("mnist1d mnist1d mnist1d smoke 4 x 6 x 3 2 x 3 ") for line in lines)
    assert any(line.startswith("wine tabular_mlp wine smoke 4 x 6 x 200 2 x 200 ") for line in lines)
    assert lines[-1].startswith("targets: hand, frozen; ")


def test_without_a_name_there_are_four_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(document(capsys)) == ["tasks", "optimizers", "estimators", "suites"]
    out = shown(capsys)
    heads = [
        re.search(rf"^{head} .*", out, re.M) for head in ("task", "optimizer", "estimator", "(?:suite|no suites:)")
    ]
    assert all(heads)


# What is refused.


def test_an_unknown_name_has_its_nearest() -> None:
    assert refusal("adma").startswith(
        "unknown name 'adma': no task, no optimizer and no suite; did you mean 'adam'? (valid: tasks, "
    )
    assert "did you mean 'optimizers'?" in refusal("optimizer")


def test_an_unknown_preset_is_refused() -> None:
    assert refusal("tasks", "--preset", "smok").startswith("unknown preset 'smok'; did you mean 'smoke'?")
    assert refusal("mnist1d", "--preset", "smok").startswith("unknown preset of mnist1d 'smok'; did you mean 'smoke'?")


@pytest.mark.parametrize("what", ["optimizers", "estimators", "suites", "adam"])
def test_a_preset_without_tasks_is_refused(what: str) -> None:
    assert refusal(what, "--preset", "smoke") == (f"--preset smoke: has no effect on {what}; only tasks have presets")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refusal("--configs", tmp_path / "none") == f"--configs {tmp_path / 'none'}: no such folder"


# As a process.

LOADED = """
import sys
from tuner.list import main
assert main({argv!r}) == 0
for name in ("torch", "ray", "optuna", "pandas"):
    assert name not in sys.modules, name
"""


@pytest.mark.parametrize("argv", [["tasks"], ["mnist1d", "--json"], ["suites"]])
def test_tasks_need_no_torch(argv: list[str]) -> None:
    done = python(LOADED.format(argv=argv))
    assert (done.code, done.err) == (0, "")


def test_an_error_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run(tmp_path, "tuner.list", "mnist")
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(r"error: unknown name 'mnist': .*did you mean 'mnist1d'.*\n", done.err)

"""Modules of one's own: found through --configs by every later command, and never taken for this project's packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import Done, environment
from tests.support.commands import run as command
from tuner.config.classes import find
from tuner.config.layers import from_yaml, resolve
from tuner.config.modules import check_configs
from tuner.errors import UserError
from tuner.store.folders import new_folder
from tuner.store.run import Run

RULE = """
import torch

class Rule(torch.optim.SGD):
    pass
"""
YAML = "class: my_rule.Rule\nspace:\n  lr: {low: 0.01, high: 0.1, log: true}\n"
ARGS = ["--task", "mnist1d", "--preset", "smoke", "--optimizers", "mine", "--trials", "1", "--configs", "mine"]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    (folder / "optimizers").mkdir(parents=True)
    (folder / "my_rule.py").write_text(RULE)
    (folder / "optimizers/mine.yaml").write_text(YAML)
    return folder


def resolved(folder: Path) -> str:
    return resolve({"task.name": "mnist1d", "search.optimizers": ["mine"]}, [], folder).to_yaml()


def test_the_folder_stands_in_the_configuration(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine.parent)
    assert from_yaml(resolved(Path("mine"))).configs == str(mine)
    assert resolve({"task.name": "mnist1d"}).configs is None
    with pytest.raises(UserError, match="unknown key 'configs': the folder of your own files is named by --configs"):
        resolve({"task.name": "mnist1d"}, ["configs=mine"])


def test_a_configuration_of_before_there_was_the_key_is_read() -> None:
    text = resolve({"task.name": "mnist1d"}).to_yaml()
    assert from_yaml(text.replace("configs: null\n", "")) == from_yaml(text)


def test_a_process_that_is_given_the_configuration_finds_its_classes(mine: Path, tmp_path: Path) -> None:
    """As the check before a run, and each worker, does: with no other word of the folder."""
    script = (
        "import sys\nfrom tuner.training import build\nfrom tuner.config.layers import from_yaml\n"
        "config = from_yaml(sys.stdin.read())\nbuild.make_task(config)\n"
        "print(build.optimizer_maker('mine', config.optimizers['mine']).__module__, sys.path[-1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=resolved(mine), env=environment(), cwd=tmp_path, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert (done.stderr, done.stdout) == ("", f"tuner.training.build {mine}\n")


def said(folder: Path, *args: str) -> Done:
    done = command(folder, "tuner.search", *args, "--dry-run")
    assert done.out == "" and done.err.count("\n") == 1, done.err
    return done


@pytest.mark.parametrize("name", ["optimizers.py", "tasks.py", "tuner.py", "tasks/__init__.py"])
def test_a_package_of_ours_in_a_folder_of_configs_is_refused(mine: Path, name: str) -> None:
    (mine / name).parent.mkdir(exist_ok=True)
    (mine / name).write_text(RULE)
    own = name.partition("/")[0].removesuffix(".py")
    with pytest.raises(
        UserError, match=rf"{mine / name}: {own} is this project's own package; a module of yours needs"
    ):
        check_configs(mine)
    (mine / name).unlink()
    check_configs(mine)


@pytest.mark.parametrize("name", ["optimizers.py", "tasks.py", "optimizers/__init__.py", "tasks/__init__.py"])
def test_a_package_of_ours_in_the_working_directory_is_refused(mine: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(RULE)
    done = said(tmp_path, *ARGS)
    own = name.partition("/")[0].removesuffix(".py")
    assert done.code == 2
    assert done.err == (
        f"error: {tmp_path / name}: hides {own}, which is this project's own package; rename yours, or start in "
        "another folder\n"
    )


def test_folders_of_yaml_files_are_no_packages(mine: Path) -> None:
    for name in ("optimizers", "tasks"):
        (mine / name).mkdir(exist_ok=True)
    done = command(mine, "tuner.search", *ARGS[:-1], ".", "--dry-run")
    assert (done.code, done.err) == (0, "")


def test_a_class_that_ours_lacks_is_said_to_be_sought_in_ours() -> None:
    with pytest.raises(UserError) as caught:
        find("optimizers.MyRule")
    assert str(caught.value).endswith(
        "; optimizers is this project's own package, a module of yours needs another name"
    )
    with pytest.raises(UserError) as caught:
        find("json.MyRule")
    assert "this project's" not in str(caught.value)


# Names of new folders.


def test_runs_begun_in_the_same_second_get_different_names(tmp_path: Path) -> None:
    path, config = tmp_path / "mnist1d-20260101-000000", resolve({"task.name": "mnist1d"})
    runs = [Run.create(path, config, another=True) for _ in range(3)]
    assert [run.path.name for run in runs] == [path.name, f"{path.name}-2", f"{path.name}-3"]
    assert sorted(tmp_path.iterdir()) == [run.path for run in runs]  # nothing half made beside them
    with pytest.raises(UserError, match="exists already"):
        Run.create(path, config)


def test_processes_that_make_a_run_at_once_do_not_share_it(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib\nfrom tuner.config.layers import resolve\nfrom tuner.store.run import Run\n"
        "config = resolve({'task.name': 'mnist1d'})\npath = pathlib.Path('run')\nprint(flush=True)\nsys.stdin.read()\n"
        "print(*[Run.create(path, config, another=True).path for _ in range(20)])\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    both = [subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment(), text=True, **pipes)
            for _ in range(2)]  # fmt: skip
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "\n"  # both are ready
    made = [process.communicate("")[0].split() for process in both]
    assert len({*made[0], *made[1]}) == 40 and set(map(len, made)) == {20}
    assert all((tmp_path / name / "config.yaml").is_file() for name in made[0] + made[1])


def test_a_new_folder_is_nobody_elses(tmp_path: Path) -> None:
    assert [new_folder(tmp_path / "report").name for _ in range(3)] == ["report", "report-2", "report-3"]

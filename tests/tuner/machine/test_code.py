"""Results of different code are not one table: what a run was made by is known, and other code is refused or marked."""

from __future__ import annotations

import ast
import subprocess
import sys
import sysconfig
import venv
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import environment, python
from tests.support.run_configs import run_config
from tuner.config.modules import locate
from tuner.config.schema import Config
from tuner.errors import UserError
from tuner.machine import code as identity
from tuner.machine.code import check_folders, differences, mark
from tuner.store.provenance import check_code
from tuner.store.run import Run

SPACE = {"lr": {"low": 0.0, "high": 1.0}}
RULE = "class Rule:\n    step = 1.0\n"
TRIAL = {"task": "blobs", "optimizer": "one", "study": 0, "trial": 0, "state": "complete", "value": 0.5, "seed": 1000,
         "steps": 1, "seconds": 1.0, "cohort": 1, "error": "", "hp.lr": 0.5}  # fmt: skip


def config(*classes: str, folder: Path | None = None) -> Config:
    optimizers = {f"o{n}": {"class": path, "space": SPACE} for n, path in enumerate(classes)}
    made = run_config(optimizers)
    task = made.task.model_copy(update={"class_": "tasks.mnist1d.Mnist1d"})
    return made.model_copy(update={"task": task, "configs": folder and str(folder)})


def check(config: Config, run: Run, *, allowed: bool) -> None:
    check_code(config, run, allowed=allowed, remark=partial(print, file=sys.stderr))


def identity_of(*classes: str, folder: Path | None = None) -> dict[str, Any]:
    return identity.identity(config(*classes, folder=folder))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of --configs with a module and a package."""
    folder = tmp_path / "mine"
    (folder / "pack/inner").mkdir(parents=True)
    for name in ("my_rule.py", "pack/__init__.py", "pack/inner/__init__.py", "pack/inner/rules.py", "pack/helpers.py"):
        (folder / name).write_text(RULE)
    return folder


# What is known of code.


def test_a_module_of_ones_own_is_its_files_content(mine: Path) -> None:
    found = identity_of("my_rule.Rule", folder=mine)["my_rule.Rule"]
    content = sha256(RULE.encode()).hexdigest()
    assert found == {"file": f"{mine}/my_rule.py", "sha256": sha256(f"my_rule.py\0{content}\n".encode()).hexdigest()}
    before = mark({"my_rule.Rule": found})
    for text in (RULE.replace("1.0", "0.0"), RULE + "# a comment\n"):
        (mine / "my_rule.py").write_text(text)
        assert mark({"my_rule.Rule": identity_of("my_rule.Rule", folder=mine)["my_rule.Rule"]}) != before
    (mine / "my_rule.py").write_text(RULE)
    assert mark({"my_rule.Rule": identity_of("my_rule.Rule", folder=mine)["my_rule.Rule"]}) == before


@pytest.mark.parametrize("change", ["pack/helpers.py", "pack/inner/rules.py", "pack/inner/more.py", "pack/__init__.py"])
def test_of_a_package_every_module_counts(mine: Path, change: str) -> None:
    def found() -> Any:
        return identity_of("pack.inner.rules.Rule", folder=mine)["pack.inner.rules.Rule"]["sha256"]

    before = found()
    (mine / "my_rule.py").write_text("changed")
    (mine / "pack/notes.txt").write_text("changed")
    assert found() == before
    (mine / change).write_text("changed")
    assert found() != before


def test_a_folder_that_was_moved_is_the_same_code(mine: Path, tmp_path: Path) -> None:
    classes = ("my_rule.Rule", "pack.inner.rules.Rule")
    before = identity_of(*classes, folder=mine)
    now = identity_of(*classes, folder=mine.rename(tmp_path / "moved"))
    assert before != now and differences(before, now) == [] and mark(before) == mark(now)


def test_what_is_installed_is_its_version_and_ours_its_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = identity_of(
        "optimizers.DiagHessian", "torch.optim.Adam", "scipy.optimize.minimize", "json.dumps", "no.such"
    )
    from importlib.metadata import version

    assert found.keys() == {"tuner", "torch", "scipy.optimize.minimize", "json.dumps", "no.such"}
    assert found["scipy.optimize.minimize"] == {"package": "scipy", "version": version("scipy")}
    assert found["torch"] == {"package": "torch", "version": version("torch")}
    assert found["json.dumps"] == {"package": "python", "version": sys.version.split()[0]} and found["no.such"] == {}
    assert found["tuner"]["version"] == "0.1.0"
    for name in ("tuner", "optimizers", "tasks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rule.py").write_text(RULE)
    monkeypatch.setattr(identity, "ROOT", tmp_path)
    before = identity_of("a.B")["tuner"]["sha256"]
    assert before != found["tuner"]["sha256"]
    (tmp_path / "optimizers/rule.py").write_text(RULE.replace("1.0", "0.0"))
    assert identity_of("a.B")["tuner"]["sha256"] != before


def test_what_is_installed_for_one_user_is_its_version(tmp_path: Path) -> None:
    """In an environment that sees the system's packages and the user's own, as on shared machines."""
    venv.create(tmp_path / "environment", system_site_packages=True)
    interpreter, env = tmp_path / "environment/bin/python", environment(PYTHONUSERBASE=str(tmp_path / "user"))

    def told(*words: str) -> str:
        return subprocess.run([interpreter, *words], env=env, capture_output=True, text=True, check=True).stdout.strip()

    user_site = Path(told("-m", "site", "--user-site"))
    (user_site / "my_package-2.5.dist-info").mkdir(parents=True)
    (user_site / "my_package-2.5.dist-info/METADATA").write_text("Name: my_package\nVersion: 2.5\n")
    (user_site / "my_package.py").write_text(RULE)
    needed = tmp_path / f"environment/lib/python3.{sys.version_info.minor}/site-packages/needed.pth"
    needed.write_text(f"{sysconfig.get_path('purelib')}\n")
    code = "from tests.tuner.machine.test_code import identity_of; print(identity_of('my_package.Rule'))"
    assert ast.literal_eval(told("-c", code))["my_package.Rule"] == {"package": "my_package", "version": "2.5"}


def test_nothing_is_imported(mine: Path) -> None:
    for path in mine.rglob("*.py"):
        path.write_text("raise SystemExit('imported')\n")
    code = (
        "import sys; from tuner.config.modules import locate; "
        "print([locate(name, sys.argv[1:2]).origin is not None for name in sys.argv[2:]], "
        "[name for name in ('torch', 'optimizers', 'pack', 'my_rule') if name in sys.modules])"
    )
    done = python(code, mine, "my_rule", "pack.inner.rules", "torch.optim", "optimizers.rules.sophia")
    assert (done.err, done.out) == ("", "[True, True, True, True] []\n")


def test_differences_name_what_was_and_what_is() -> None:
    before = {"tuner": {"version": "1.0", "commit": "a" * 40, "dirty": True, "sha256": "1" * 64},
              "torch": {"package": "torch", "version": "2.14"}, "x.Y": {"file": "/x.py", "sha256": "2" * 64},
              "gone.Z": {}}  # fmt: skip
    now = {"tuner": {"version": "1.0", "commit": None, "dirty": False, "sha256": "3" * 64},
           "torch": {"package": "torch", "version": "2.15"}, "x.Y": {}, "new.Z": {"sha256": "4" * 64}}  # fmt: skip
    assert differences(before, now) == [
        "tuner: 1.0, commit aaaaaaaaaaaa with changes, sha256 111111111111... when the run was made, 1.0, sha256 "
        "333333333333... now",
        "torch: torch 2.14 when the run was made, torch 2.15 now",
        "x.Y: sha256 222222222222... when the run was made, not found now",
    ]
    assert differences(before, before) == []
    same = before | {"tuner": before["tuner"] | {"commit": "b" * 40, "version": "1.1"}}
    assert differences(before, same) == []  # numbers come from sources


# A run that goes on.


@pytest.fixture
def begun(mine: Path, tmp_path: Path) -> Run:
    """A run that was begun with the module as it is, and has a trial."""
    asked = config("my_rule.Rule", folder=mine)
    run = Run.create(tmp_path / "run", asked)
    run.write_env({"code": identity.identity(asked)})
    run.append_trials([TRIAL], ["lr"])
    return run


def test_the_same_code_goes_on_without_a_word(begun: Run, capsys: pytest.CaptureFixture[str]) -> None:
    check(begun.config(), begun, allowed=False)
    assert begun.mark == "" and begun.code and capsys.readouterr().err == ""


def test_a_step_multiplied_by_zero_is_refused_or_marks_what_it_makes(
    begun: Run, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mine / "my_rule.py").write_text(RULE.replace("1.0", "0.0"))
    with pytest.raises(
        UserError, match=r"was made by other code, as above.* --allow-changed-code goes on all the same"
    ):
        check(begun.config(), begun, allowed=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("my_rule.Rule: sha256 ") and line.endswith("... now") and begun.mark == ""
    check(begun.config(), begun, allowed=True)
    assert begun.mark == mark(begun.code) and begun.mark in capsys.readouterr().err
    begun.append_trials([TRIAL | {"trial": 1, "code": begun.mark}], ["lr"])
    assert [row.get("code") for row in begun.trial_rows()] == [None, begun.mark]
    (mine / "my_rule.py").write_text(RULE)  # what it was begun with marks nothing
    again = Run.open(begun.path)
    check(again.config(), again, allowed=False)
    assert again.mark == ""


@pytest.mark.parametrize("env", [{}, {"code": {}}, {"code": 5}, {"code": {"torch": 5}}, {"code": {"a": {"b": [1]}}}])
def test_a_run_that_does_not_know_its_code_says_so_or_nothing_and_goes_on(
    begun: Run, env: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    begun.write_env(env)
    check(begun.config(), begun, allowed=False)
    said = capsys.readouterr().err
    assert begun.mark == ""
    assert said in ("", f"{begun.path}: by which code it was made is not known, so not whether it is the same now\n")
    assert said or env == {"code": {"a": {"b": [1]}}}


# Folders and names.


@pytest.mark.parametrize("by", ["configs", "python_path"])
def test_a_folder_that_is_gone_is_said_at_once(
    by: str, begun: Run, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = begun.config()
    if by == "python_path":
        asked = asked.model_copy(update={"configs": None, "python_path": [str(tmp_path), str(mine)]})
    mine.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"my_rule.Rule: there is no module 'my_rule'; .* not there any more: {mine};"):
        check(asked, begun, allowed=True)
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    check(asked, begun, allowed=False)


def test_a_module_that_another_hides_is_named(mine: Path) -> None:
    (mine / "statistics.py").write_text(RULE)
    with pytest.raises(UserError, match=rf"statistics.Rule: {mine}/statistics.py is hidden by .*statistics.py"):
        check_folders(config("statistics.Rule", folder=mine))
    check_folders(config("my_rule.Rule", "pack.inner.rules.Rule", "torch.optim.Adam", "no.such", folder=mine))


def test_a_module_is_located_as_it_would_be_imported(mine: Path) -> None:
    assert locate("pack.inner.nothing", [str(mine)]) is locate("my_rule.more", [str(mine)]) is locate("my_rule") is None
    for name in ("optimizers.rules.sophia", "tuner", "yaml"):
        spec = locate(name)
        assert spec is not None and spec.origin == __import__(name, fromlist=["x"]).__file__


def test_a_class_in_folders_without_init_is_found_and_known(tmp_path: Path) -> None:
    (tmp_path / "ns" / "sub").mkdir(parents=True)
    module = tmp_path / "ns" / "sub" / "m.py"
    module.write_text("class MySGD: ...\n")
    found = locate("ns.sub.m", [str(tmp_path)])
    assert found is not None and found.origin == str(module)

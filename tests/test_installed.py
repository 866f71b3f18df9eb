"""The installed package: a wheel of the sources in an empty environment, with a plugin beside it, used as a user does
from a folder of one's own: commands, modules, the Python API."""

from __future__ import annotations

import json
import re
import tarfile
import textwrap
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.commands import ROOT, Done
from tests.support.installed import Environment, build, copy_sources
from tuner.config.registry import available
from tuner.machine.code import differences, identity
from tuner.store.run import Run
from tuner.version import VERSION

TINY = ["--preset", "smoke", "--studies", "1", "--trials", "2", "--seeds", "3",
        "--set", "train.epochs=1", "retrain.epochs=1", "-q"]  # fmt: skip
RULE = "import torch\n\n\nclass Rule(torch.optim.SGD):\n    pass\n"
YAML = "class: my_rule.Rule\nspace:\n  lr: {low: 0.01, high: 0.1, log: true}\n"
LEFT_OUT = [".venv/lib/x.py", "runs/mine/report.html", "tuner/__pycache__/x.pyc", "dist/x.py", "mine/optimizers/x.yaml"]


class Installed(NamedTuple):
    sources: Path
    wheel: Path
    environment: Environment
    folder: Path

    def tuner(self, *words: object) -> str:
        return succeeded(self.environment.tuner(self.folder, *words))

    def python(self, *words: object) -> str:
        return succeeded(self.environment.run(self.folder, self.environment.python, *words))


def succeeded(done: Done) -> str:
    assert done.code == 0, done.err
    return done.out


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """In a checkout that was worked in; the folder has a module of the user's, and YAML files below ``mine``."""
    sources = copy_sources(tmp_path_factory.mktemp("checkout") / "tuner")
    for name in LEFT_OUT:
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        (sources / name).write_text("")
    wheel = build(sources, "wheel", tmp_path_factory.mktemp("wheel"))
    plugin = build(sources / "tests/plugin_example", "wheel", tmp_path_factory.mktemp("plugin"))
    folder = tmp_path_factory.mktemp("user")
    (folder / "mine/optimizers").mkdir(parents=True)
    (folder / "my_rule.py").write_text(RULE)
    (folder / "mine/optimizers/mine.yaml").write_text(YAML)
    environment = Environment(tmp_path_factory.mktemp("environment"), wheel, plugin)
    return Installed(sources, wheel, environment, folder)


# What is in the wheel.


def members(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_has_the_packages_with_their_files_and_nothing_else(installed: Installed) -> None:
    found = {name for name in members(installed.wheel) if not name.startswith(f"tuner-{VERSION}.dist-info/")}
    expected = {
        str(path.relative_to(installed.sources))
        for name in ("tuner", "optimizers", "tasks")
        for path in (installed.sources / name).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    configs = [path for path in (installed.sources / "configs").rglob("*") if path.is_file()]
    expected |= {f"tuner/configs/{path.relative_to(installed.sources / 'configs')}" for path in configs}
    assert found == expected
    assert {"tuner/py.typed", "optimizers/py.typed", "tasks/py.typed", "tuner/configs/tasks/mnist1d.yaml"} <= found
    assert {"tuner/reporting/templates/report.html"} <= found


def test_the_source_distribution_builds_the_same_wheel(installed: Installed, tmp_path: Path) -> None:
    sdist = build(installed.sources, "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build(tmp_path / f"tuner-{VERSION}", "wheel", tmp_path / "wheel")
    assert members(again) == members(installed.wheel)


def test_the_metadata_say_what_pyproject_says(installed: Installed) -> None:
    content = members(installed.wheel)
    said = message_from_string(content[f"tuner-{VERSION}.dist-info/METADATA"].decode())
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = declared["optional-dependencies"]
    assert said.get_all("Provides-Extra") == sorted(extras)
    required = [line.replace(" ", "").replace("'", '"') for line in said.get_all("Requires-Dist", [])]
    expected = list(declared["dependencies"])
    expected += [f'{package};extra=="{extra}"' for extra, packages in extras.items() for package in packages]
    assert sorted(map(normal, required)) == sorted(map(normal, expected))  # and nothing twice
    assert (said["Version"], said["License-Expression"]) == (VERSION, "MIT")
    assert f"tuner-{VERSION}.dist-info/licenses/LICENSE" in content


def normal(requirement: str) -> str:
    name, rest = re.fullmatch(r"([\w.-]+)(.*)", requirement).groups()  # type: ignore[union-attr]
    return re.sub(r"[-_.]+", "-", name).lower() + rest


# The package as it is installed.


def test_the_version_is_the_same_wherever_it_is_asked(installed: Installed) -> None:
    where = "import importlib.metadata, importlib.util, tuner\n"
    where += "print(importlib.metadata.version('tuner'), tuner.__version__, tuner.__file__, sep='\\n')\n"
    where += "print(*[importlib.util.find_spec(name).origin for name in ('optimizers', 'tasks')], sep='\\n')\n"
    said = installed.python("-c", where).splitlines()
    versions, files = said[:2], said[2:]
    assert versions == [VERSION, VERSION]
    assert [Path(file).parent.parent for file in files] == [installed.environment.packages] * 3
    assert installed.tuner("--version") == f"tuner {VERSION}\n"
    assert installed.python("-m", "tuner", "--version") == f"tuner {VERSION}\n"


def test_importing_it_takes_no_time_and_imports_nothing_heavy(installed: Installed) -> None:
    timed = (
        "import sys, time\nbefore = time.perf_counter()\nimport tuner\nprint(time.perf_counter() - before)\n"
        "print({'torch', 'ray', 'numpy', 'pandas', 'optuna', 'yaml', 'pydantic'} & set(sys.modules))"
    )
    done = [installed.python("-c", timed).splitlines() for _ in range(3)]
    assert min(float(seconds) for seconds, _ in done) < 0.1
    assert {imported for _, imported in done} == {"set()"}


@pytest.mark.parametrize("command", ["search", "retrain", "report", "status", "list"])
def test_a_command_and_its_module_say_the_same_of_themselves(installed: Installed, command: str) -> None:
    def words(helped: str) -> str:
        return " ".join(helped.split())

    of_command, of_module = installed.tuner(command, "--help"), installed.python("-m", f"tuner.{command}", "--help")
    assert of_command.startswith(f"usage: tuner {command} ")
    assert words(of_module) == words(of_command).replace(f"tuner {command}", f"python -m tuner.{command}", 1)


# Searches, with a plugin and with what is the user's own.


def test_everything_there_is_is_listed_a_plugins_too(installed: Installed) -> None:
    found = json.loads(installed.tuner("list", "--json"))
    tasks, optimizers = ({entry["name"]: entry for entry in found[kind]} for kind in ("tasks", "optimizers"))
    assert sorted(tasks) == sorted([*available("tasks"), "line_fit"])
    assert sorted(optimizers) == sorted([*available("optimizers"), "sign_descent"])
    assert tasks["line_fit"]["class"] == "my_plugin.line_fit.LineFit"
    assert optimizers["sign_descent"]["error"] is None
    whole = json.loads(installed.tuner("list", "line_fit", "--json"))["tasks"][0]
    origin = {value["key"]: value["origin"] for value in whole["values"]}["train.batch_size"]
    assert origin == str(installed.environment.packages / "my_plugin/tasks/line_fit.yaml")


@pytest.fixture(scope="module")
def searched(installed: Installed) -> Run:
    """With an optimizer whose class is in the working directory."""
    optimizers = ["--optimizers", "adam", "mine"]
    out = installed.tuner("search", "--task", "mnist1d", *optimizers, "--configs", "mine", *TINY)
    (path,) = (installed.folder / "runs").glob("mnist1d-*")
    assert f"\nreport: runs/{path.name}/report.html\n" in out
    return Run(path)


def test_a_search_writes_runs_where_one_stands_with_a_report(searched: Run) -> None:
    seeds = searched.seeds()
    assert sorted(zip(seeds["optimizer"], seeds["seed"], strict=True)) == [
        (name, seed) for name in ("adam", "mine") for seed in range(3)
    ]
    assert set(seeds["status"]) == {"complete"}
    page = (searched.path / "report.html").read_text()
    assert "<style>" in page and "<svg" in page
    assert not re.findall(r"<(?:link|script|img|iframe)[^>]* (?:src|href)=(?!.data:)", page)
    assert searched.env()["git"] == {"commit": None, "dirty": False}


def test_a_run_of_the_checkout_goes_on_with_it(searched: Run) -> None:
    """The same sources are the same code, wherever they lie."""
    of_run, of_checkout = searched.env()["code"], identity(searched.config())
    assert of_run["tuner"]["sha256"] == of_checkout["tuner"]["sha256"]
    assert differences({"tuner": of_run["tuner"]}, of_checkout) == []


def test_report_and_status_read_it(installed: Installed, searched: Run) -> None:
    (searched.path / "report.html").unlink()
    out = installed.tuner("report", searched.path.relative_to(installed.folder))
    assert re.search(r"^report: runs/mnist1d-\S+/report\.html$", out, re.M)
    assert (searched.path / "report.html").is_file()
    assert "retrain  mine  3/3" in installed.tuner("status", searched.path)


def test_the_working_directorys_modules_are_found_as_by_python_m(installed: Installed) -> None:
    words = ["--task", "mnist1d", "--optimizers", "mine", "--configs", "mine", "--name", "next", *TINY]
    words += ["--dry-run", "--json"]
    planned = json.loads(installed.tuner("search", *words))
    assert planned == json.loads(installed.python("-m", "tuner.search", *words))
    assert planned["config"]["optimizers"]["mine"]["class"] == "my_rule.Rule"


SCRIPT = """
    import torch
    import tuner

    class Own(torch.optim.SGD):
        pass

    result = tuner.search(
        "line_fit", [Own, "sign_descent"], trials=2, seeds=3, preset="smoke", quiet=True, no_report=True,
        max_concurrent=1, set={"train.epochs": 1, "retrain.epochs": 1},
    )
    print(result.path)
    print(result.verdicts["optimizer"].tolist(), sorted(result.best))
"""


@pytest.mark.slow
def test_a_script_searches_with_its_own_class_and_with_a_plugins(installed: Installed) -> None:
    (installed.folder / "script.py").write_text(textwrap.dedent(SCRIPT))
    path, *rest = installed.python("script.py").splitlines()
    assert rest == ["['sign_descent'] ['Own', 'sign_descent']"]
    run = Run(installed.folder / path)
    assert path.startswith("runs/line_fit-")
    assert not (run.path / "report.html").exists()
    assert set(run.seeds()["status"]) == {"complete"}
    code: dict[str, Any] = run.env()["code"]
    of_plugin = {"package": "tuner-plugin-example", "version": "3.1.4"}
    assert code["my_plugin.line_fit.LineFit"] == of_plugin
    assert code["my_plugin.sign_descent.SignDescent"] == of_plugin


def test_a_plugins_names_are_found_by_the_command(installed: Installed) -> None:
    words = ["--task", "line_fit", "--optimizers", "sign_descent", "adam", "--dry-run", "--json"]
    planned = json.loads(installed.tuner("search", *words))
    assert planned["config"]["optimizers"]["sign_descent"]["class"] == "my_plugin.sign_descent.SignDescent"

"""Installed packages bring tasks and optimizers: found by their entry points, without importing them."""

from __future__ import annotations

import site
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.support.commands import ROOT
from tuner.config.given import gather
from tuner.config.layers import resolve
from tuner.config.registry import SHIPPED, available, plugins
from tuner.config.schema import Config
from tuner.errors import UserError
from tuner.machine.code import identity

RULE: dict[str, Any] = {"class": "my_plugin.rules.Rule", "space": {"lr": {"low": 0.01, "high": 0.1}}}
RAISES = "raise AssertionError('imported')\n"


@pytest.fixture
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path, in which packages can be installed."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def install(site_packages: Path, name: str, version: str = "2.0", **values: str) -> None:
    """What an installation writes of a package with entry points ``tuner.<kind>``."""
    info = site_packages / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = [f"[tuner.{kind}]\nanything = {value}\n" for kind, value in values.items()]
    (info / "entry_points.txt").write_text("\n".join(groups))


def package(folder: Path, name: str, **files: dict[str, Any]) -> None:
    """A package whose modules cannot be imported, with YAML files ``<kind>__<name>``."""
    for module in ("__init__", "rules"):
        write(folder / name / f"{module}.py", RAISES)
    for file, content in files.items():
        write(folder / name / f"{file.replace('__', '/')}.yaml", yaml.safe_dump(content))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def resolved(*optimizers: str, task: str = "mnist1d", configs: Path | None = None) -> Config:
    return resolve({"task.name": task, "search.optimizers": list(optimizers)}, [], configs)


def refusal(*optimizers: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        resolved(*optimizers, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_example_in_the_tests_is_found(site_packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tests/plugin_example")
    install(site_packages, "tuner-plugin-example", optimizers="my_plugin.optimizers", tasks="my_plugin.tasks")
    assert {"sign_descent", "adam"} < set(available("optimizers"))
    assert {"line_fit", "mnist1d"} < set(available("tasks"))
    config = resolved("sign_descent", "adam", task="line_fit")
    assert config.task.class_ == "my_plugin.line_fit.LineFit"
    assert config.optimizers["sign_descent"].space["lr"].high == 0.1
    assert config.configs is None


def test_nothing_of_it_is_imported(site_packages: Path) -> None:
    package(site_packages, "my_plugin", yaml__mine=RULE)
    install(site_packages, "my-plugin", optimizers="my_plugin.yaml")
    assert "mine" in available("optimizers")
    config = resolved("mine")
    assert config.optimizers["mine"].class_ == "my_plugin.rules.Rule"
    identity(config)
    assert "my_plugin" not in sys.modules


def test_a_program_that_gives_its_class_gets_its_files(site_packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(site_packages, "my_plugin", yaml__mine=RULE)
    install(site_packages, "my-plugin", optimizers="my_plugin.yaml")
    rules: Any = ModuleType("my_plugin.rules")
    rules.Rule = type("Rule", (), {"__module__": "my_plugin.rules"})
    monkeypatch.setitem(sys.modules, "my_plugin.rules", rules)
    _, names, program = gather("mnist1d", [rules.Rule, "adam"], None)
    assert (names, program.given["optimizers"], program.objects) == (["mine", "adam"], {}, b"")


def test_the_packages_own_folder_can_have_the_files(site_packages: Path) -> None:
    package(site_packages, "my_plugin", mine=RULE)
    install(site_packages, "my-plugin", optimizers="my_plugin")
    assert resolved("mine").optimizers["mine"].space["lr"].low == 0.01


def test_the_example_is_gone_where_it_is_not_installed() -> None:
    assert "sign_descent" not in available("optimizers")
    assert available("optimizers") == sorted(path.stem for path in (SHIPPED / "optimizers").iterdir())


@pytest.mark.parametrize("value", ["my_plugin.gone", "gone.optimizers", "my_module.optimizers", "my_plugin.rules:Rule"])
def test_a_folder_that_is_not_there_is_said(site_packages: Path, value: str) -> None:
    package(site_packages, "my_plugin")
    write(site_packages / "my_module.py", RAISES)
    install(site_packages, "my-plugin", optimizers=value)
    assert refusal("adam") == (
        f"entry point tuner.optimizers of my-plugin: {value} is no package with a folder; repair or uninstall it"
    )


def test_a_name_that_ships_is_refused_once_it_is_asked_for(site_packages: Path) -> None:
    package(site_packages, "my_plugin", yaml__adam=RULE, yaml__mine=RULE)
    install(site_packages, "my-plugin", optimizers="my_plugin.yaml")
    assert available("optimizers").count("adam") == 1
    assert list(resolved("mine", "sgd").optimizers) == ["mine", "sgd"]
    assert refusal("mine", "adam") == (
        "adam: is in optimizers of this project and of my-plugin (my_plugin.yaml); which is meant? "
        "Rename or uninstall one"
    )


def test_a_name_of_two_packages_is_refused_once_it_is_asked_for(site_packages: Path) -> None:
    for name in ("first", "second"):
        package(site_packages, name, yaml__both=RULE, **{f"yaml__{name}": RULE})
        install(site_packages, name, optimizers=f"{name}.yaml")
    assert list(resolved("first", "second").optimizers) == ["first", "second"]
    assert refusal("both") == (
        "both: is in optimizers of first (first.yaml) and of second (second.yaml); which is meant? "
        "Rename or uninstall one"
    )


def test_a_users_folder_adjusts_what_a_package_brings(site_packages: Path, tmp_path: Path) -> None:
    package(site_packages, "my_plugin", yaml__mine=RULE)
    install(site_packages, "my-plugin", optimizers="my_plugin.yaml")
    write(tmp_path / "own/optimizers/mine.yaml", "space: {lr: {high: 0.5}}\nargs: {momentum: 0.9}\n")
    mine = resolved("mine", configs=tmp_path / "own").optimizers["mine"]
    assert (mine.class_, mine.space["lr"].low, mine.space["lr"].high) == ("my_plugin.rules.Rule", 0.01, 0.5)
    assert mine.args == {"momentum": 0.9}


def test_a_package_installed_for_editing_is_found_and_is_its_sources(
    site_packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    package(tmp_path / "checkout/src", "my_plugin", yaml__mine=RULE)
    install(site_packages, "my-plugin", optimizers="my_plugin.yaml")
    write(site_packages / "_my_plugin.pth", f"{tmp_path}/checkout/src\n")
    site.addsitedir(str(site_packages))
    assert plugins("optimizers") == {"my-plugin (my_plugin.yaml)": tmp_path / "checkout/src/my_plugin/yaml"}
    before = identity(resolved("mine"))["my_plugin.rules.Rule"]
    assert before["file"] == f"{tmp_path}/checkout/src/my_plugin"
    write(tmp_path / "checkout/src/my_plugin/rules.py", f"# edited\n{RAISES}")
    assert identity(resolved("mine"))["my_plugin.rules.Rule"]["sha256"] != before["sha256"]

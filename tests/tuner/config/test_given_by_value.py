"""What is given goes by its dotted path where other processes would import the same, else by value."""

from __future__ import annotations

import importlib
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.given import in_a_notebook, searched
from tuner.config.given import python_path
from tuner.config.registry import ROOT

RULE = "import torch\n\n\nclass Rule(torch.optim.SGD):\n    pass\n"


@pytest.fixture
def module_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A module beside the script."""
    (tmp_path / "given_rule.py").write_text(RULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("given_rule")
    del sys.modules["given_rule"]


def test_a_class_that_can_be_imported_goes_by_its_path(module_beside: types.ModuleType, tmp_path: Path) -> None:
    config, program = searched(module_beside.Rule)
    assert config.optimizers["Rule"].class_ == "given_rule.Rule"
    assert program.objects == b"" and str(tmp_path) in program.python_path


def test_a_class_of_the_script_itself_goes_by_value() -> None:
    config, program = searched(in_a_notebook())
    assert config.optimizers["Mine"].class_ == "__main__.Mine"
    assert issubclass(pickle.loads(program.objects)["__main__.Mine"], torch.optim.SGD)


def test_a_class_whose_module_is_elsewhere_for_others_goes_by_value(
    module_beside: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hiding = tmp_path / "hiding"
    hiding.mkdir()
    (hiding / "given_rule.py").write_text(RULE)
    monkeypatch.syspath_prepend(hiding)
    config, program = searched(module_beside.Rule)
    assert config.optimizers["Rule"].class_ == "__main__.Rule" and program.objects


def test_a_class_of_a_module_that_no_other_process_has_goes_by_value() -> None:
    module = types.ModuleType("nowhere_else")
    sys.modules["nowhere_else"] = module
    try:
        exec(RULE, module.__dict__)
        config, program = searched(module.Rule)
    finally:
        del sys.modules["nowhere_else"]
    assert config.optimizers["Rule"].class_ == "__main__.Rule"
    assert pickle.loads(program.objects)["__main__.Rule"].__name__ == "Rule"  # though there is no such module any more


def test_a_task_of_a_module_that_no_other_process_has_goes_by_value() -> None:
    module = types.ModuleType("nowhere_else")
    sys.modules["nowhere_else"] = module
    try:
        exec("from tasks.mnist1d import MNIST1D\nclass Digits(MNIST1D):\n    rows = 3\n", module.__dict__)
        _, program = searched("adam", task=module.Digits(metric="val_acc", mode="max", batch_size=7))
    finally:
        del sys.modules["nowhere_else"]
    make = pickle.loads(program.objects)["__main__.Digits"]
    assert make(metric="val_acc", mode="max", batch_size=7).rows == 3


def test_a_class_within_a_function_goes_by_value() -> None:
    class Local(torch.optim.SGD):
        pass

    config, _ = searched(Local)
    assert config.optimizers["Local"].class_ == "__main__.Local"


def test_folders_of_modules_are_the_programs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), str(tmp_path), str(ROOT), str(ROOT / "none"), *sys.path])
    monkeypatch.chdir(tmp_path)
    found = python_path()
    assert found[0] == str(tmp_path) and found.count(str(tmp_path)) == 1
    assert not {str(ROOT), str(ROOT / "none"), *(path for path in sys.path if "site-packages" in path)} & set(found)
    assert searched("adam")[1].python_path == []

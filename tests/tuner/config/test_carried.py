"""What is carried by value is there in a process that could not import it, and nothing else is."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.commands import environment, python
from tuner.config import carried
from tuner.config.carried import is_carried, pack, receive
from tuner.config.classes import find
from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.errors import UserError

SCRIPT = """
import sys
import torch
from tuner.config.given import GivenTask
from tuner.config.carried import pack
from tasks.mnist1d import MNIST1D

FACTOR = 3.0

def scaled(lr):
    return FACTOR * lr

class Mine(torch.optim.SGD):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=scaled(lr))

class Narrow(MNIST1D):
    def __init__(self, width, **keywords):
        super().__init__(**keywords)
        self.table = torch.arange(width)

task = Narrow(5, metric="val_acc", mode="max", batch_size=7)
objects = {"__main__.Mine": Mine, "__main__.quick": lambda params: Mine(params, 2.0),
           "__main__.Narrow": GivenTask(task, "Narrow")}
open(sys.argv[1], "wb").write(pack(objects))
"""
READER = """
import sys
import torch
from tuner.config.carried import receive
from tuner.config.classes import find
from tuner.config.layers import resolve

receive(resolve({"task.name": "mnist1d"}), open(sys.argv[1], "rb").read())
weights = [torch.zeros(2, requires_grad=True)]
print(find("__main__.Mine")(weights, 0.5).defaults["lr"], find("__main__.quick")(weights).defaults["lr"])
task = find("__main__.Narrow")(metric="val_loss", mode="min", batch_size=3, dataset="mnist1d")
print(task.metric, task.batch_size, task.table.tolist(), task.network() is not None)
"""


@pytest.fixture
def config() -> Config:
    return resolve({"task.name": "mnist1d"})


def refusal(config: Config, objects: bytes) -> str:
    with pytest.raises(UserError) as caught:
        receive(config, objects)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_script_s_classes_globals_and_tasks_are_there_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    written = python(code, tmp_path / "script.py", tmp_path / "objects.pkl", env=environment())
    assert (written.code, written.err) == (0, "")
    read = python(READER, tmp_path / "objects.pkl", folder=tmp_path, env=environment())
    assert (read.code, read.err) == (0, "")
    assert read.out == "1.5 6.0\nval_loss 3 [0, 1, 2, 3, 4] True\n"


def test_nothing_to_carry_is_no_pickle(config: Config) -> None:
    assert pack({}) == b""
    receive(config, b"")


def test_only_members_of_the_script_are_carried() -> None:
    assert is_carried("__main__.Mine") and is_carried("__main__.a.b")
    assert not is_carried("main.Mine") and not is_carried("torch.optim.Adam")


def test_what_was_received_is_found(config: Config) -> None:
    receive(config, pack({"__main__.Mine": torch.optim.SGD, "__main__.a.b": torch.optim.Adam}))
    assert find("__main__.Mine") is torch.optim.SGD and find("__main__.a.b") is torch.optim.Adam


def test_what_another_run_brought_is_not(config: Config) -> None:
    receive(config, pack({"__main__.Mine": torch.optim.SGD}))
    for objects in (b"", pack({"__main__.Other": torch.optim.Adam})):
        receive(config, objects)
        with pytest.raises(
            UserError, match=r"__main__\.Mine: was defined in the program that searched, and is not in "
        ):
            find("__main__.Mine")


class Spiteful:
    """Whose pickle does something."""

    def __init__(self, done: Any) -> None:
        self.done = done

    def __reduce__(self) -> Any:
        return self.done


@pytest.mark.parametrize(
    "objects",
    [
        b"no pickle at all", b"\x80", pickle.dumps({"__main__.Mine": 1})[:-3], pickle.dumps([1]), pickle.dumps(None),
        b"\x80\x04\x8c\x08nowhere_\x8c\x04Mine\x93.", pickle.dumps(Spiteful((int, ("x",)))),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_line(objects: bytes, config: Config) -> None:
    assert refusal(config, objects).startswith("objects.pkl: what the program gave cannot be read here (")


def test_a_module_that_only_the_program_has_is_carried_with_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("cell_module")
    monkeypatch.setitem(sys.modules, "cell_module", module)
    exec("FACTOR = 3\ndef scaled(x): return FACTOR * x\nclass Mine:\n    def lr(self): return scaled(2)", vars(module))
    objects = pack({"__main__.Mine": module.Mine})
    monkeypatch.delitem(sys.modules, "cell_module")
    assert pickle.loads(objects)["__main__.Mine"]().lr() == 6


def test_modules_are_as_they_were_for_who_pickles_next(monkeypatch: pytest.MonkeyPatch) -> None:
    import cloudpickle

    mine, other = types.ModuleType("cell_module"), types.ModuleType("registered_module")
    for module in (mine, other):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec("class Mine: pass", vars(module))
    before = cloudpickle.list_registry_pickle_by_value()
    cloudpickle.register_pickle_by_value(other)
    try:
        pack({"__main__.Mine": vars(mine)["Mine"], "__main__.Other": vars(other)["Mine"]})
        assert cloudpickle.list_registry_pickle_by_value() == before | {"registered_module"}
    finally:
        cloudpickle.unregister_pickle_by_value(other)


def test_what_cannot_be_pickled_is_named() -> None:
    class Stubborn:
        def __reduce__(self) -> Any:
            raise SystemError("no\nmore")

    with pytest.raises(UserError) as caught:
        pack({"__main__.fine": 1, "__main__.mine": Stubborn()})
    assert str(caught.value).startswith("mine: cannot be sent to other processes (SystemError: no more); define it in ")


@pytest.fixture(autouse=True)
def received(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried, "_received", {})

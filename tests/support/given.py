"""What a program gives to a search, and the configuration that comes of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tuner.config.given import gather
from tuner.config.layers import resolve
from tuner.config.program import Program
from tuner.config.schema import Config
from tuner.errors import UserError


def in_a_notebook(name: str = "Mine", base: type = torch.optim.SGD, **members: Any) -> type:
    """A class as a cell defines it."""
    return type(name, (base,), {"__module__": "__main__", **members})


def searched(*entries: Any, task: Any = "mnist1d") -> tuple[Config, Program]:
    """The configuration that comes of it, as the child makes it."""
    name, names, program = gather(task, entries, None)
    return resolve({"task.name": name, "search.optimizers": names}, [], None, program.given), program


def refusal(optimizers: Any = ("adam",), task: Any = "mnist1d") -> str:
    with pytest.raises(UserError) as caught:
        gather(task, optimizers, None)
    assert "\n" not in str(caught.value)
    return str(caught.value)

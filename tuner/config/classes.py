"""Classes and functions are named by dotted path in YAML: found, and asked whether they take their arguments."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import Any

from tuner import text
from tuner.config.carried import is_carried, received
from tuner.config.modules import OWN_PACKAGES, reach
from tuner.config.schema import Config
from tuner.errors import UserError, nearest

PATTERN = re.compile(r"[<*]")  # a name in a task's list of datasets that stands for many


def find(path: str) -> Any:
    """The object at a dotted path such as "optimizers.DiagHessian".

    Raises:
        UserError: there is no such module, or it has no such name.
    """
    if is_carried(path):
        return received(path)
    module_name, _, name = path.rpartition(".")
    if not all(path.split(".")) or not module_name:
        raise UserError(f"{path!r} is not a dotted path such as torch.optim.Adam")
    try:
        module = import_module(module_name)
    except ImportError as error:
        remedy = "; pip install pytorch_optimizer" if path.startswith("pytorch_optimizer.") else ""
        raise UserError(f"{path}: {module_name} cannot be imported ({error}){remedy}") from None
    if not hasattr(module, name):
        public = [public for public in vars(module) if not public.startswith("_")]
        close = nearest(name, public).partition(" (valid")[0]
        own = path.partition(".")[0]
        ours = (
            f"; {own} is this project's own package, a module of yours needs another name"
            if own in OWN_PACKAGES
            else ""
        )
        raise UserError(f"{path}: {module_name} has no {name!r}{close}{ours}")
    named = getattr(module, name)
    if not callable(named):
        raise UserError(f"{path}: is a {type(named).__name__}, neither a class nor a function")
    return named


def check_dataset(config: Config) -> None:
    """Run the task's own quick check of its data set, where it has one.

    Raises:
        UserError: what the check says.
    """
    dataset, datasets = config.task.dataset, config.task.datasets
    if dataset not in datasets and not any(PATTERN.search(name) for name in datasets):
        raise UserError(f"unknown dataset {dataset!r} of {config.task.name}{nearest(dataset, datasets)}")
    if config.task.check is None:
        return
    reach(config.module_folders)
    try:
        find(config.task.check)(dataset, config.task.data_dir)
    except ValueError as error:
        raise UserError(f"{config.task.name}: {error}") from None
    except Exception as error:  # the check may be a user's own
        raise UserError(f"{config.task.name}: {config.task.check} failed ({text.fault(error)})") from None


def nearest_argument(error: Exception, cls: Any) -> str:
    """Where a base class refused an argument that the class itself passed on: the nearest that one of them takes."""
    refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if refused is None or not inspect.isclass(cls):
        return ""
    owners = [base for base in cls.__mro__ if "__init__" in vars(base) and base is not object]
    parameters = [p for base in owners for p in list(inspect.signature(vars(base)["__init__"]).parameters.values())[2:]]
    taken = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return nearest(refused[1], dict.fromkeys(taken))


def check_arguments(who: str, cls: Any, positional: int, arguments: dict[str, Any]) -> None:
    """
    Args:
        positional: how many arguments come before those with names.

    Raises:
        UserError: the class does not take the arguments.
    """
    signature = inspect.signature(cls)
    parameters = list(signature.parameters.values())[positional:]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        names = [p.name for p in parameters]
        for name in arguments:
            if name not in names:
                raise UserError(f"{who}: {cls.__name__} takes no argument {name!r}{nearest(name, names)}")
    try:
        signature.bind(*[None] * positional, **arguments)
    except TypeError as error:
        raise UserError(f"{who}: {cls.__name__}: {error}") from None
